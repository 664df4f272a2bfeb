package client

import (
	"fmt"
	"strings"
	"testing"

	"github.com/drv-thru/drv-thru/core/nix"
	"github.com/drv-thru/drv-thru/core/nix/daemon"
	"github.com/drv-thru/drv-thru/core/wire"
)

func startEvent(id uint64, drv nix.Path) *wire.Event {
	return &wire.Event{Type: wire.EventStart, Activity: &wire.Activity{ID: id, Type: uint64(daemon.ActivityBuild),
		Fields: []wire.Field{{IsText: true, Str: string(drv)}}}}
}

func logEvent(id uint64, text string, more bool) *wire.Event {
	return &wire.Event{Type: wire.EventLog, Log: wire.NewLog(id, []byte(text), more)}
}

func TestTails(t *testing.T) {
	var tails Tails
	good, bad := path("good.drv"), path("bad.drv")
	tails.Event(startEvent(1, good))
	tails.Event(startEvent(2, bad))
	for i := range 100 {
		tails.Event(logEvent(1, "fine", false))
		tails.Event(logEvent(2, fmt.Sprint("half ", i), true))
		tails.Event(logEvent(2, " and half", false))
	}
	tails.Event(logEvent(2, strings.Repeat("x", 10*maxTailLine), true))
	tails.Event(logEvent(2, "dropped", false))
	tails.Event(&wire.Event{Type: wire.EventStop, Activity: &wire.Activity{ID: 2}})
	tails.Event(logEvent(2, "after its end", false))
	tails.Event(logEvent(77, "of nobody", false))

	got := tails.Mentioned("dependency failed", fmt.Sprintf("builder for '%s' failed", bad))
	if len(got) != 1 || got[0].Drv != bad {
		t.Fatalf("%+v", got)
	}
	lines := got[0].Lines
	if !got[0].Cut {
		t.Error("the log is whole")
	}
	if len(lines) != tailLines {
		t.Errorf("%d lines", len(lines))
	}
	if string(lines[0]) != "half 76 and half" || len(lines[tailLines-1]) != maxTailLine {
		t.Errorf("first %q, last of %d bytes", lines[0], len(lines[tailLines-1]))
	}
}

// A log of which nothing is missing is told from others.
func TestTailIsCut(t *testing.T) {
	for name, c := range map[string]struct {
		lines, length int
		cut           bool
	}{
		"whole": {tailLines, maxTailLine, false}, "a line more": {tailLines + 1, 1, true}, "a long line": {1, maxTailLine + 1, true},
	} {
		var tail Tail
		for range c.lines {
			tail.add([]byte(strings.Repeat("x", c.length)), false)
		}
		if tail.Cut != c.cut {
			t.Errorf("%s: %t", name, tail.Cut)
		}
	}
}

// A builder may invent any number of builds.
func TestTailsAreBounded(t *testing.T) {
	var tails Tails
	for i := range uint64(3 * maxLive) {
		tails.Event(startEvent(i, path(fmt.Sprint(i, ".drv"))))
		tails.Event(logEvent(i, strings.Repeat("x", 100), false))
	}
	if len(tails.live) > maxLive {
		t.Errorf("%d live", len(tails.live))
	}
	for i := range uint64(3 * maxLive) {
		tails.Event(&wire.Event{Type: wire.EventStop, Activity: &wire.Activity{ID: i}})
	}
	if len(tails.live) != 0 || len(tails.ended) != maxTails {
		t.Errorf("%d live, %d ended", len(tails.live), len(tails.ended))
	}
}

func TestBuiltDerivation(t *testing.T) {
	for name, a := range map[string]*wire.Activity{
		"other type":      {Type: 100, Fields: []wire.Field{{IsText: true, Str: string(path("a.drv"))}}},
		"no fields":       {Type: uint64(daemon.ActivityBuild)},
		"number":          {Type: uint64(daemon.ActivityBuild), Fields: []wire.Field{{Int: 5}}},
		"no path":         {Type: uint64(daemon.ActivityBuild), Fields: []wire.Field{{IsText: true, Str: "\x1b[2J"}}},
		"no derivation":   {Type: uint64(daemon.ActivityBuild), Fields: []wire.Field{{IsText: true, Str: string(path("a"))}}},
		"path in a path":  {Type: uint64(daemon.ActivityBuild), Fields: []wire.Field{{IsText: true, Str: string(path("a.drv")) + "/b.drv"}}},
		"control in name": {Type: uint64(daemon.ActivityBuild), Fields: []wire.Field{{IsText: true, Str: string(path("a")) + "\x07.drv"}}},
	} {
		if p, ok := BuiltDerivation(a); ok {
			t.Errorf("%s: %q", name, p)
		}
	}
}
