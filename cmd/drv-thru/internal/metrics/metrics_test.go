package metrics

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/drv-thru/drv-thru/cmd/drv-thru/internal/state"
	"github.com/drv-thru/drv-thru/cmd/internal/dashboardtest"
	"github.com/drv-thru/drv-thru/core/builder"
	"github.com/drv-thru/drv-thru/core/wire"
)

func watched(t *testing.T) (*Metrics, *prometheus.Registry) {
	t.Helper()
	m := New()
	m.Watch(func() builder.Load { return builder.Load{Slots: 2, Running: 1, Waiting: 3, Paused: true} },
		func() (uint64, error) { return 5 << 30, nil })
	r := prometheus.NewPedanticRegistry()
	if err := r.Register(m); err != nil {
		t.Fatal(err)
	}
	return m, r
}

func TestCounts(t *testing.T) {
	m, r := watched(t)
	request := func(method, route string) *http.Request {
		req := httptest.NewRequest(method, "/", nil)
		req.Pattern = method + " " + route
		return req
	}
	m.Answered(request("PUT", wire.RouteInputs), builder.Answer{Received: 1000, Sent: 10})
	m.Answered(request("POST", wire.RouteChunks), builder.Answer{Received: 5, Sent: 300})
	m.Answered(request("PUT", wire.RouteBuild), builder.Answer{Received: 7, Sent: 3, Code: wire.CodeTicketUsed})
	at := time.Now()
	m.Ended(&builder.BuildRecord{State: wire.StateBuilt, Started: at, Result: &wire.Result{QueueTime: 2, BuildTime: 70, UploadBytes: 4000}})
	m.Ended(&builder.BuildRecord{State: wire.StateCancelled, Result: &wire.Result{Error: wire.CodeBuildAbandoned.Err()}})
	m.Offered(800)
	m.Began("builder")
	m.Began("arm.example")
	m.Decided(state.Decision{Verdict: "deny", Code: "policy.denied"})
	text := exposed(t, r)
	for _, line := range []string{
		`builds_total{code="",result="built"} 1`,
		`builds_total{code="build.abandoned",result="cancelled"} 1`,
		`derivations_total{machine="arm.example"} 1`,
		`derivations_total{machine="builder"} 1`,
		`errors_total{code="ticket.used"} 1`,
		`policy_decisions_total{code="",verdict="allow"} 0`,
		`policy_decisions_total{code="policy.denied",verdict="deny"} 1`,
		`bytes_total{direction="received",kind="input",path="other"} 1000`,
		`bytes_total{direction="sent",kind="input",path="other"} 10`,
		`bytes_total{direction="sent",kind="output",path="other"} 300`,
		`bytes_total{direction="received",kind="document",path="other"} 7`,
		`bytes_total{direction="received",kind="document",path="relay"} 0`,
		`nar_bytes_total{direction="received"} 4000`,
		`nar_bytes_total{direction="sent"} 800`,
		`requests_total{path="other"} 3`,
		`queue_seconds_bucket{le="1"} 0`,
		`queue_seconds_bucket{le="5"} 1`,
		`build_seconds_sum{result="built"} 70`,
		`slots 2`, `running 1`, `waiting 3`, `paused 1`, `draining 0`, `free_disk_bytes 5.36870912e+09`,
	} {
		if !strings.Contains(text, "\n"+namespace+"_"+subsystem+"_"+line+"\n") {
			t.Errorf("there is no line %s", line)
		}
	}
	if t.Failed() {
		t.Log(text)
	}
}

// exposed is what Prometheus reads.
func exposed(t *testing.T, r *prometheus.Registry) string {
	t.Helper()
	w := httptest.NewRecorder()
	promhttp.HandlerFor(r, promhttp.HandlerOpts{}).ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/metrics", nil))
	if w.Code != http.StatusOK {
		t.Fatal(w.Body)
	}
	return w.Body.String()
}

// The dashboard shows what --metrics serves.
func TestDashboard(t *testing.T) {
	m, r := watched(t)
	// So that every metric has a series.
	m.errors.WithLabelValues(string(wire.CodeNotFound))
	dashboardtest.Check(t, "../../../packaging/grafana/drv-thru-builder.json", r)
}
