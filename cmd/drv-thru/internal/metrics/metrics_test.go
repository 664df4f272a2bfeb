package metrics

import (
	"encoding/json"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/drv-thru/drv-thru/cmd/drv-thru/internal/state"
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

const dashboard = "../../../packaging/grafana/drv-thru-builder.json"

// The dashboard shows every metric that there is and none that there is not,
// and asks for no label that they lack.
func TestDashboard(t *testing.T) {
	m, r := watched(t)
	// So that every metric has a series.
	m.errors.WithLabelValues(string(wire.CodeNotFound))
	families, err := r.Gather()
	if err != nil {
		t.Fatal(err)
	}
	labels := make(map[string]map[string]bool)
	for _, f := range families {
		known := map[string]bool{"instance": true, "le": true}
		for _, l := range f.GetMetric()[0].GetLabel() {
			known[l.GetName()] = true
		}
		labels[f.GetName()] = known
	}
	text, err := os.ReadFile(dashboard)
	if err != nil {
		t.Fatal(err)
	}
	var d struct {
		Panels []struct {
			Title   string
			Targets []struct{ Expr, LegendFormat string }
		}
	}
	if err := json.Unmarshal(text, &d); err != nil {
		t.Fatal(err)
	}
	series := regexp.MustCompile(`\b(drv_thru_\w+)(?:\{([^}]*)\})?`)
	matched := regexp.MustCompile(`(\w+)=`)
	grouped := regexp.MustCompile(`by \(([^)]*)\)`)
	shown := regexp.MustCompile(`\{\{(\w+)\}\}`)
	used := make(map[string]bool)
	for _, p := range d.Panels {
		for _, target := range p.Targets {
			asked := make(map[string]bool)
			for _, l := range shown.FindAllStringSubmatch(target.LegendFormat, -1) {
				asked[l[1]] = true
			}
			for _, by := range grouped.FindAllStringSubmatch(target.Expr, -1) {
				for l := range strings.SplitSeq(by[1], ",") {
					asked[strings.TrimSpace(l)] = true
				}
			}
			for _, s := range series.FindAllStringSubmatch(target.Expr, -1) {
				name := strings.TrimSuffix(s[1], "_bucket")
				used[name] = true
				of := maps.Clone(asked)
				for _, l := range matched.FindAllStringSubmatch(s[2], -1) {
					of[l[1]] = true
				}
				for l := range of {
					if labels[name] != nil && !labels[name][l] {
						t.Errorf("%s: %s has no label %q", p.Title, name, l)
					}
				}
			}
		}
	}
	if got, want := slices.Sorted(maps.Keys(used)), slices.Sorted(maps.Keys(labels)); !slices.Equal(got, want) {
		t.Errorf("the dashboard shows\n%v\nthere is\n%v", got, want)
	}
}
