package term

import (
	"io"
	"strings"
	"testing"

	"github.com/drv-thru/drv-thru/core/nix/daemon"
	"github.com/drv-thru/drv-thru/core/wire"
)

// What ran when the builder was restarted has no end of its own.
func TestBuildsOverRestart(t *testing.T) {
	const drv = "/nix/store/00000000000000000000000000000000-a.drv"
	p := New(io.Discard, func(string) string { return "" })
	v := newProgress(p, Config{})
	start := func(id uint64) *wire.Event {
		return &wire.Event{Type: wire.EventStart, Activity: &wire.Activity{ID: id, Type: uint64(daemon.ActivityBuild),
			Fields: []wire.Field{{IsText: true, Str: drv}}}}
	}
	v.event(&wire.Event{Type: wire.EventPhase, State: wire.StateBuilding})
	v.event(start(1))
	v.event(start(2))
	for _, state := range []wire.State{wire.StateQueued, wire.StateBuilding} {
		v.event(&wire.Event{Type: wire.EventPhase, State: state})
	}
	v.event(start(1))
	if got := v.builds.tally(); got.running != 1 {
		t.Errorf("%+v", got)
	}
	if logs, _ := v.Failed("builder for '" + drv + "' failed"); len(logs) != 1 {
		t.Errorf("%d logs of one build", len(logs))
	}
	if text := strings.Join(v.frame(v.Now(), 80, 24), "\n"); strings.Count(text, "> a") != 1 {
		t.Errorf("%s", text)
	}
}
