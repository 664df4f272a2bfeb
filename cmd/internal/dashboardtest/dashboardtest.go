// Package dashboardtest compares the Grafana dashboards of cmd/packaging with the
// metrics that programs have.
package dashboardtest

import (
	"encoding/json"
	"maps"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
)

var (
	series  = regexp.MustCompile(`\b((?:drv_thru|process)_\w+)(?:\{([^}]*)\})?`)
	matched = regexp.MustCompile(`(\w+)=`)
	grouped = regexp.MustCompile(`by \(([^)]*)\)`)
	shown   = regexp.MustCompile(`\{\{(\w+)\}\}`)
)

// A panel is what is read of Grafana's.
type panel struct {
	ID      int
	Title   string
	GridPos struct{ X, Y, W, H int }
	Targets []struct{ Expr, LegendFormat string }
}

// Check wants the dashboard in file to show every metric of ours that there is
// and none that there is not, and to ask for no label that they lack. Each metric
// must have a series already.
func Check(t *testing.T, file string, metrics prometheus.Gatherer) {
	t.Helper()
	families, err := metrics.Gather()
	if err != nil {
		t.Fatal(err)
	}
	labels := make(map[string]map[string]bool)
	var ours []string
	for _, f := range families {
		known := map[string]bool{"instance": true, "le": true}
		for _, l := range f.GetMetric()[0].GetLabel() {
			known[l.GetName()] = true
		}
		labels[f.GetName()] = known
		if strings.HasPrefix(f.GetName(), "drv_thru_") {
			ours = append(ours, f.GetName())
		}
	}
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var d struct{ Panels []panel }
	if err := json.Unmarshal(text, &d); err != nil {
		t.Fatal(err)
	}
	apart(t, d.Panels)
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
				if labels[name] == nil {
					t.Errorf("%s: there is no metric %s", p.Title, name)
					continue
				}
				used[name] = true
				of := maps.Clone(asked)
				for _, l := range matched.FindAllStringSubmatch(s[2], -1) {
					of[l[1]] = true
				}
				for l := range of {
					if !labels[name][l] {
						t.Errorf("%s: %s has no label %q", p.Title, name, l)
					}
				}
			}
		}
	}
	for _, name := range ours {
		if !used[name] {
			t.Errorf("no panel shows %s", name)
		}
	}
}

// apart wants every panel to have a place and a number of its own: of two with
// one, Grafana shows one.
func apart(t *testing.T, panels []panel) {
	t.Helper()
	for i, p := range panels {
		a := p.GridPos
		if a.X < 0 || a.W < 1 || a.H < 1 || a.X+a.W > 24 {
			t.Errorf("%s is outside of the grid: %+v", p.Title, a)
		}
		if j := slices.IndexFunc(panels[:i], func(other panel) bool {
			b := other.GridPos
			return other.ID == p.ID || a.X < b.X+b.W && b.X < a.X+a.W && a.Y < b.Y+b.H && b.Y < a.Y+a.H
		}); j >= 0 {
			t.Errorf("%s and %s are in one place", panels[j].Title, p.Title)
		}
	}
}
