package relay_test

import (
	"testing"
	"testing/synctest"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/drv-thru/drv-thru/relay"
)

// metric returns the value of a series of a relay, by its labels' values in the
// order of their names; 0 if there is none.
func metric(t *testing.T, s *relay.Server, name string, labels ...string) float64 {
	t.Helper()
	registry := prometheus.NewPedanticRegistry()
	if err := registry.Register(s); err != nil {
		t.Fatal(err)
	}
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() != "drv_thru_relay_"+name {
			continue
		}
	series:
		for _, m := range f.GetMetric() {
			if len(m.GetLabel()) != len(labels) {
				t.Fatalf("%s has %d labels", name, len(m.GetLabel()))
			}
			for i, l := range m.GetLabel() {
				if l.GetValue() != labels[i] {
					continue series
				}
			}
			return m.GetCounter().GetValue() + m.GetGauge().GetValue()
		}
	}
	return 0
}

// counted checks a series.
func counted(t *testing.T, s *relay.Server, want float64, name string, labels ...string) {
	t.Helper()
	synctest.Wait() // what is done is counted a moment later
	if got := metric(t, s, name, labels...); got != want {
		t.Errorf("%s%v is %v, want %v", name, labels, got, want)
	}
}
