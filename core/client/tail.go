package client

import (
	"slices"
	"strings"

	"github.com/drv-thru/drv-thru/core/nix"
	"github.com/drv-thru/drv-thru/core/nix/daemon"
	"github.com/drv-thru/drv-thru/core/wire"
)

const (
	// tailLines is how many of a build's last lines are kept.
	tailLines = 25
	// maxTailLine bounds a kept line; the rest of a longer one is dropped.
	maxTailLine = 4 << 10
	// maxTails bounds the ended builds whose lines are kept.
	maxTails = 64
	// maxLive bounds the builds under way that are told apart.
	maxLive = 4096
)

// Tails keeps the last lines of every derivation's log, in bounded memory, for
// when one of them turns out to have failed. It is fed with every event of a
// build in order and is not safe for concurrent use.
type Tails struct {
	live  map[uint64]*Tail
	ended []*Tail // the oldest first
}

// Tail is the end of one derivation's log.
type Tail struct {
	Drv nix.Path
	// Lines are the last ones, raw.
	Lines [][]byte
	// Cut tells that there were more.
	Cut bool

	open bool // the last line goes on
}

// Event takes note of an event.
func (t *Tails) Event(e *wire.Event) {
	switch e.Type {
	case wire.EventPhase:
		if !e.State.Ended() {
			t.live = nil // a builder that was restarted tells no ends
		}
	case wire.EventStart:
		drv, ok := BuiltDerivation(e.Activity)
		if !ok || len(t.live) >= maxLive {
			return
		}
		if t.live == nil {
			t.live = make(map[uint64]*Tail)
		}
		t.live[e.Activity.ID] = &Tail{Drv: drv}
	case wire.EventStop:
		if tail := t.live[e.Activity.ID]; tail != nil {
			delete(t.live, e.Activity.ID)
			if len(t.ended) == maxTails {
				t.ended = slices.Delete(t.ended, 0, 1)
			}
			t.ended = append(t.ended, tail)
		}
	case wire.EventLog:
		if tail := t.live[e.Log.Activity]; tail != nil && e.Log.Activity != 0 {
			for line, more := range e.Log.Lines() {
				tail.add(line, more)
			}
		}
	}
}

// BuiltDerivation returns the derivation that an activity builds.
func BuiltDerivation(a *wire.Activity) (nix.Path, bool) {
	if daemon.ActivityType(a.Type) != daemon.ActivityBuild || len(a.Fields) == 0 || !a.Fields[0].IsText {
		return "", false
	}
	p, err := nix.ParsePath(a.Fields[0].Str)
	return p, err == nil && p.IsDrv()
}

func (t *Tail) add(piece []byte, more bool) {
	if !t.open {
		if len(t.Lines) == tailLines {
			copy(t.Lines, t.Lines[1:])
			t.Lines, t.Cut = t.Lines[:tailLines-1], true
		}
		t.Lines = append(t.Lines, nil)
	}
	last := &t.Lines[len(t.Lines)-1]
	fits := min(len(piece), maxTailLine-len(*last))
	*last = append(*last, piece[:fits]...)
	t.Cut = t.Cut || fits < len(piece)
	t.open = more
}

// Mentioned returns the logs of the derivations that one of the texts names:
// Nix's error messages say which derivation failed and nothing else does.
func (t *Tails) Mentioned(texts ...string) []*Tail {
	all := slices.Clone(t.ended)
	for _, tail := range t.live {
		all = append(all, tail)
	}
	return slices.DeleteFunc(all, func(tail *Tail) bool {
		return !slices.ContainsFunc(texts, func(text string) bool { return strings.Contains(text, string(tail.Drv)) })
	})
}
