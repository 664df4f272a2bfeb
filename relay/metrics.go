package relay

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/drv-thru/drv-thru/core/wire"
)

// Why a circuit ended, as the metrics have it.
const (
	endClean   = "clean"   // an end said goodbye
	endLost    = "lost"    // an end was lost without a goodbye
	endIdle    = "idle"    // nothing moved in either direction for too long
	endStalled = "stalled" // an end did not take or finish a message in time
	endText    = "text"    // an end sent a text message
	endLarge   = "large"   // an end sent a message above the limit
	endFull    = "full"    // it made room for one of an address that has fewer
	endClosing = "closing" // the relay shut down
)

// What became of a STUN packet, as the metrics have it.
const (
	stunAnswered = "answered"
	stunShort    = "short"   // shorter than the answer
	stunInvalid  = "invalid" // not a binding request
	stunRate     = "rate"    // too many from one address
	stunFailed   = "failed"  // the answer was not sent
)

// Why a connection was closed before it asked for anything.
const (
	connsTotal   = "total"
	connsAddress = "address"
)

// metrics counts. No label holds anything that a peer chooses.
type metrics struct {
	handshakes *prometheus.CounterVec // route
	refused    *prometheus.CounterVec // route, reason
	conns      *prometheus.CounterVec // reason
	registered prometheus.Counter
	replaced   prometheus.Counter
	left       prometheus.Counter
	opened     prometheus.Counter
	ended      *prometheus.CounterVec // reason
	bytes      *prometheus.CounterVec // direction
	throttled  prometheus.Counter
	stun       *prometheus.CounterVec // result

	toBuilder, toClient prometheus.Counter
	all                 []prometheus.Collector
}

func newMetrics(s *Server) *metrics {
	m := &metrics{}
	counter := func(name, help string) prometheus.Counter {
		c := prometheus.NewCounter(prometheus.CounterOpts{Namespace: "drv_thru", Subsystem: "relay", Name: name, Help: help})
		m.all = append(m.all, c)
		return c
	}
	vec := func(name, help string, labels ...string) *prometheus.CounterVec {
		c := prometheus.NewCounterVec(prometheus.CounterOpts{Namespace: "drv_thru", Subsystem: "relay", Name: name, Help: help}, labels)
		m.all = append(m.all, c)
		return c
	}
	gauge := func(name, help string, value func(Stats) int) {
		m.all = append(m.all, prometheus.NewGaugeFunc(
			prometheus.GaugeOpts{Namespace: "drv_thru", Subsystem: "relay", Name: name, Help: help},
			func() float64 { return float64(value(s.Stats())) }))
	}
	m.handshakes = vec("handshakes_total", "Handshakes that came, by route.", "route")
	m.refused = vec("refused_total", "Handshakes and registrations that were refused, by route and reason.", "route", "reason")
	m.conns = vec("connections_refused_total", "Connections that were closed before they asked for anything, by the limit that they met.", "limit")
	m.registered = counter("registrations_total", "Registrations that were proved.")
	m.replaced = counter("registrations_replaced_total", "Registrations that a newer one of the same builder replaced.")
	m.left = counter("registrations_ended_total", "Proved registrations that ended.")
	m.opened = counter("circuits_total", "Circuits that were opened.")
	m.ended = vec("circuits_ended_total", "Circuits that ended, by reason.", "reason")
	m.bytes = vec("bytes_total", "Bytes that circuits carried, by whom they went to.", "to")
	m.throttled = counter("throttled_total", "Pieces of circuits that waited for a limit on bytes per second.")
	m.stun = vec("stun_packets_total", "STUN packets that came, by what became of them.", "result")
	gauge("builders", "Builders that are registered.", func(s Stats) int { return s.Builders })
	gauge("circuits", "Circuits that are open or half open.", func(s Stats) int { return s.Circuits })
	gauge("circuits_half_open", "Circuits for which the builder has not come yet.", func(s Stats) int { return s.HalfOpen })
	gauge("connections_pending", "Connections that are no WebSocket yet.", func(Stats) int { return s.conns.count() + s.clients.count() })
	m.toBuilder, m.toClient = m.bytes.WithLabelValues("builder"), m.bytes.WithLabelValues("client")
	// Series that are 0 from the start can be told from ones that are missing.
	for _, end := range []string{endClean, endLost, endIdle, endStalled, endText, endLarge, endFull, endClosing} {
		m.ended.WithLabelValues(end)
	}
	for _, result := range []string{stunAnswered, stunShort, stunInvalid, stunRate, stunFailed} {
		m.stun.WithLabelValues(result)
	}
	for _, limit := range []string{connsTotal, connsAddress} {
		m.conns.WithLabelValues(limit)
	}
	return m
}

// refusal counts a refusal by its code; codes are a closed set.
func (m *metrics) refusal(route string, err error) {
	code := wire.CodeOf(err)
	if code == "" {
		code = wire.CodeInternal
	}
	m.refused.WithLabelValues(route, string(code)).Inc()
}

var _ prometheus.Collector = (*Server)(nil)

// Describe and Collect make a Server a collector of its own metrics.
func (s *Server) Describe(ch chan<- *prometheus.Desc) {
	for _, c := range s.metrics.all {
		c.Describe(ch)
	}
}

// Collect gives the metrics' values; see [Server.Describe].
func (s *Server) Collect(ch chan<- prometheus.Metric) {
	for _, c := range s.metrics.all {
		c.Collect(ch)
	}
}
