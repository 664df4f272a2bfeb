package builder

import (
	"testing"
	"time"

	"github.com/drv-thru/drv-thru/core/wire"
)

func TestEstimate(t *testing.T) {
	var e estimate
	now := time.Unix(1e9, 0)
	if got := e.wait(1, 1, now); got != 0 {
		t.Errorf("without a history: %s", got)
	}
	built := func(seconds float64, status string, state wire.State) BuildRecord {
		return BuildRecord{State: state, Result: &wire.Result{BuildTime: seconds, Derivations: []wire.DrvResult{{Status: "AlreadyValid"}, {Status: status}}}}
	}
	e.learn([]BuildRecord{
		built(60, "Built", wire.StateBuilt), built(0, "AlreadyValid", wire.StateBuilt), built(180, "PermanentFailure", wire.StateFailed),
		built(1e6, "Built", wire.StateCancelled), {State: wire.StateFailed, Result: &wire.Result{}}, {State: wire.StateBuilt},
	})
	a, b := &place{}, &place{}
	e.begin(a, now.Add(-30*time.Second))
	e.begin(b, now.Add(-time.Hour))
	for _, c := range []struct {
		position, slots int
		want            time.Duration
	}{
		{0, 2, 0},
		{1, 2, 30 * time.Second}, // after b, which has lasted longer than any
		{2, 2, 90 * time.Second}, // after a
		{3, 2, 150 * time.Second},
		{6, 2, 330 * time.Second},
		{1, 3, 0}, // a slot is free
		{1, 1, 90 * time.Second},
		{2, 1, 210 * time.Second},
		{1 << 40, 1, wire.MaxQueueWait},
		{1, 0, 0},
	} {
		if got := e.wait(c.position, c.slots, now); got != c.want {
			t.Errorf("position %d of %d slots: %s, want %s", c.position, c.slots, got, c.want)
		}
	}
	e.end(a, now, false) // cancelled
	e.end(b, now, true)
	e.end(b, now, true)
	if got, want := e.wait(2, 1, now), 1280*time.Second; got != want {
		t.Errorf("after an hour's build: %s, want %s", got, want)
	}
	for range historyLength {
		e.begin(a, now)
		e.end(a, now.Add(time.Second), true)
	}
	if got := e.wait(11, 1, now); got != 10*time.Second {
		t.Errorf("after many short ones: %s", got)
	}
}
