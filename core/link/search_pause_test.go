//go:build !js && !wasip1

package link

import (
	"context"
	"log/slog"
	"sync/atomic"
	"testing"
	"time"
)

func TestPausesOfSearches(t *testing.T) {
	p := pauses{next: searchAfter}
	wants := func(next ...time.Duration) {
		t.Helper()
		for i, want := range next {
			if p.next != want {
				t.Errorf("pause %d is %s, want %s", i, p.next, want)
			}
			p.failed()
		}
	}
	lost := func(lasted time.Duration, atOnce bool) {
		t.Helper()
		if p.lost(lasted) != atOnce {
			t.Errorf("lost after %s: another is sought at once: %t", lasted, !atOnce)
		}
	}
	wants(5*time.Second, 10*time.Second, 20*time.Second, 40*time.Second, 80*time.Second, 2*time.Minute, 2*time.Minute)
	// One that was lost may come back.
	lost(brief, true)
	wants(5*time.Second, 10*time.Second, 15*time.Second, 15*time.Second)
	// Those that come and go are not sought again and again.
	lost(time.Second, true)
	lost(time.Second, false)
	wants(5*time.Second, 10*time.Second)
	lost(time.Second, false)
	wants(15 * time.Second)
	lost(brief, true)
	lost(time.Second, true)
	lost(time.Second, false)
	p.reset()
	wants(5 * time.Second)
	lost(time.Second, true)
}

// A path that is lost as soon as it is there is sought again at once, once.
func TestPathThatDoesNotLast(t *testing.T) {
	b := serveDirect(t, nil)
	log := searchLog{rests: make(chan struct{}, 1)}
	s := directSession(t, Config{Log: slog.New(&log)}, &relayed{wayTo{network: &b.network, address: "b"}})
	ctx, cancel := context.WithTimeout(t.Context(), enough)
	defer cancel()
	for {
		select {
		case <-log.rests:
			if n := log.found.Load(); n != 2 {
				t.Errorf("%d paths were found before the pause", n)
			}
			return
		case <-time.After(time.Millisecond):
			s.loseDirect()
		case <-ctx.Done():
			t.Fatal("it is sought without a pause")
		}
	}
}

// searchLog counts the paths that a session finds, and tells when it rests as they do
// not last.
type searchLog struct {
	found atomic.Int32
	rests chan struct{}
}

func (l *searchLog) Handle(_ context.Context, r slog.Record) error {
	switch r.Message {
	case "direct path":
		l.found.Add(1)
	case "direct paths do not last":
		select {
		case l.rests <- struct{}{}:
		default:
		}
	}
	return nil
}

func (l *searchLog) Enabled(context.Context, slog.Level) bool { return true }
func (l *searchLog) WithAttrs([]slog.Attr) slog.Handler       { return l }
func (l *searchLog) WithGroup(string) slog.Handler            { return l }
