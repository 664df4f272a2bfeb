// Package metrics counts what a builder does, for Prometheus. No label holds
// anything that a client chooses: every one has a closed set of values, or
// values of the builder's configuration.
package metrics

import (
	"net/http"
	"strings"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/drv-thru/drv-thru/cmd/drv-thru/internal/state"
	"github.com/drv-thru/drv-thru/core/builder"
	"github.com/drv-thru/drv-thru/core/link"
	"github.com/drv-thru/drv-thru/core/wire"
	"github.com/drv-thru/drv-thru/policy"
)

// Directions of bytes, from the builder's side.
const (
	received = "received"
	sent     = "sent"
)

// What bytes are of.
const (
	kindDocument = "document" // requests and answers in JSON
	kindInput    = "input"    // paths that clients send
	kindOutput   = "output"   // paths that clients fetch, and what is needed for that
	kindEvents   = "events"   // events and logs of builds
)

// pathOther is the path of requests that came by none of package link's.
const pathOther = "other"

// ended are the states in which a build can end.
var ended = []wire.State{wire.StateBuilt, wire.StateFailed, wire.StateCancelled, wire.StateInterrupted}

// spans are the buckets of times that builds wait and run.
var spans = []float64{0.1, 1, 5, 15, 60, 300, 900, 3600, 4 * 3600}

// Metrics are a builder's. Make them with New, tell them of the service that
// they are of with Watch, and register them as a collector.
type Metrics struct {
	builds    *prometheus.CounterVec // result, code
	queued    prometheus.Histogram
	ran       *prometheus.HistogramVec // result
	machines  *prometheus.CounterVec   // machine
	bytes     *prometheus.CounterVec   // direction, kind, path
	nars      *prometheus.CounterVec   // direction
	requests  *prometheus.CounterVec   // path
	errors    *prometheus.CounterVec   // code
	decisions *prometheus.CounterVec   // verdict, code
	all       []prometheus.Collector
}

var (
	_ builder.Meter        = (*Metrics)(nil)
	_ prometheus.Collector = (*Metrics)(nil)
)

const (
	namespace = "drv_thru"
	subsystem = "builder"
)

// New makes metrics that are all 0.
func New() *Metrics {
	m := &Metrics{}
	vec := func(name, help string, labels ...string) *prometheus.CounterVec {
		c := prometheus.NewCounterVec(prometheus.CounterOpts{Namespace: namespace, Subsystem: subsystem, Name: name, Help: help}, labels)
		m.all = append(m.all, c)
		return c
	}
	m.builds = vec("builds_total", "Builds that ended, by result and the error's code.", "result", "code")
	m.machines = vec("derivations_total", "Derivations whose build began, by the machine that builds them.", "machine")
	m.bytes = vec("bytes_total", "Bytes of requests and answers, by direction, what they are of, and how they travelled.", "direction", "kind", "path")
	m.nars = vec("nar_bytes_total", "Bytes of the NARs that were received or whose chunks were offered; what bytes_total has less, clients and builder had already, or compression has saved.", "direction")
	m.requests = vec("requests_total", "Requests, by how they travelled.", "path")
	m.errors = vec("errors_total", "Requests that failed, by the error's code.", "code")
	m.decisions = vec("policy_decisions_total", "Decisions of policies, by verdict and the code of a denial.", "verdict", "code")
	queued := prometheus.HistogramOpts{Namespace: namespace, Subsystem: subsystem, Name: "queue_seconds", Help: "How long builds waited for a slot.", Buckets: spans}
	m.queued = prometheus.NewHistogram(queued)
	ran := prometheus.HistogramOpts{Namespace: namespace, Subsystem: subsystem, Name: "build_seconds", Help: "How long builds ran, by result.", Buckets: spans}
	m.ran = prometheus.NewHistogramVec(ran, []string{"result"})
	m.all = append(m.all, m.queued, m.ran)
	// Series that are 0 from the start can be told from ones that are missing.
	for _, s := range ended {
		m.ran.WithLabelValues(string(s))
	}
	m.builds.WithLabelValues(string(wire.StateBuilt), "")
	m.machines.WithLabelValues(wire.MachineSelf)
	for _, d := range []string{received, sent} {
		m.nars.WithLabelValues(d)
	}
	for _, p := range []link.PathKind{link.PathRelay, link.PathDirectTCP, link.PathDirectQUIC} {
		m.requests.WithLabelValues(string(p))
		for _, k := range []string{kindDocument, kindInput, kindOutput, kindEvents} {
			m.bytes.WithLabelValues(received, k, string(p))
			m.bytes.WithLabelValues(sent, k, string(p))
		}
	}
	for _, v := range []policy.Verdict{policy.Allow, policy.Narrow, policy.Deny} {
		m.decisions.WithLabelValues(string(v), "")
	}
	return m
}

// Watch adds what is asked of the service when metrics are read.
func (m *Metrics) Watch(load func() builder.Load, freeDisk func() (uint64, error)) {
	gauge := func(name, help string, value func() float64) {
		m.all = append(m.all, prometheus.NewGaugeFunc(prometheus.GaugeOpts{Namespace: namespace, Subsystem: subsystem, Name: name, Help: help}, value))
	}
	truth := func(b bool) float64 {
		if b {
			return 1
		}
		return 0
	}
	gauge("slots", "Builds that may run at once.", func() float64 { return float64(load().Slots) })
	gauge("running", "Builds that have a slot.", func() float64 { return float64(load().Running) })
	gauge("waiting", "Builds in the queue.", func() float64 { return float64(load().Waiting) })
	gauge("paused", "1 while no build is given a slot.", func() float64 { return truth(load().Paused) })
	gauge("draining", "1 while no new build is taken.", func() float64 { return truth(load().Draining) })
	gauge("free_disk_bytes", "Free bytes of the fullest disk that builds write to.", func() float64 {
		free, err := freeDisk()
		if err != nil {
			return -1
		}
		return float64(free)
	})
}

// Answered implements [builder.Meter].
func (m *Metrics) Answered(r *http.Request, a builder.Answer) {
	path, kind := pathOf(r), kindOf(r.Pattern)
	m.requests.WithLabelValues(path).Inc()
	m.bytes.WithLabelValues(received, kind, path).Add(float64(a.Received))
	m.bytes.WithLabelValues(sent, kind, path).Add(float64(a.Sent))
	if a.Code != "" {
		m.errors.WithLabelValues(string(a.Code)).Inc()
	}
}

func pathOf(r *http.Request) string {
	if kind := link.PathOf(r.Context()).Kind; kind != "" {
		return string(kind)
	}
	return pathOther
}

// kindOf sorts requests by the pattern of their route.
func kindOf(pattern string) string {
	_, route, _ := strings.Cut(pattern, " ")
	switch route {
	case wire.RouteInputs, wire.RouteInput, wire.RouteInputManifest, wire.RouteInputChunks:
		return kindInput
	case wire.RouteClosure, wire.RouteNarInfo, wire.RouteManifests, wire.RouteChunks:
		return kindOutput
	case wire.RouteEvents, wire.RouteLog:
		return kindEvents
	}
	return kindDocument
}

// Ended implements [builder.Meter].
func (m *Metrics) Ended(rec *builder.BuildRecord) {
	code := ""
	if rec.Result.Error != nil {
		code = string(rec.Result.Error.Code)
	}
	m.builds.WithLabelValues(string(rec.State), code).Inc()
	m.nars.WithLabelValues(received).Add(float64(rec.Result.UploadBytes))
	if rec.Started.IsZero() {
		return
	}
	m.queued.Observe(rec.Result.QueueTime)
	m.ran.WithLabelValues(string(rec.State)).Observe(rec.Result.BuildTime)
}

// Offered implements [builder.Meter].
func (m *Metrics) Offered(narBytes uint64) { m.nars.WithLabelValues(sent).Add(float64(narBytes)) }

// Began implements [builder.Meter].
func (m *Metrics) Began(machine string) { m.machines.WithLabelValues(machine).Inc() }

// Decided counts what a policy has decided.
func (m *Metrics) Decided(d state.Decision) { m.decisions.WithLabelValues(d.Verdict, d.Code).Inc() }

// Describe and Collect make Metrics a collector.
func (m *Metrics) Describe(ch chan<- *prometheus.Desc) {
	for _, c := range m.all {
		c.Describe(ch)
	}
}

// Collect gives the metrics' values; see [Metrics.Describe].
func (m *Metrics) Collect(ch chan<- prometheus.Metric) {
	for _, c := range m.all {
		c.Collect(ch)
	}
}
