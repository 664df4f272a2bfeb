package client

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/drv-thru/drv-thru/core/wire"
)

// Retry says how long lost connections are survived.
type Retry struct {
	// First and Most are the shortest and the longest pause between attempts;
	// each is twice the one before.
	First, Most time.Duration
	// GiveUp is how long nothing may work before the session fails.
	GiveUp time.Duration
}

// DefaultRetry covers a relay's restart, a builder's reboot and a laptop that
// changes networks.
var DefaultRetry = Retry{First: 100 * time.Millisecond, Most: 5 * time.Second, GiveUp: 5 * time.Minute}

// mayPass reports whether the same request may succeed a moment later.
func mayPass(err error) bool {
	return errors.Is(err, ErrConnection) || wire.CodeOf(err) == wire.CodeRate
}

// repeat runs op until it succeeds, fails for another reason than the
// connection, or has not worked for too long.
func repeat[T any](ctx context.Context, s *Session, op func(context.Context) (T, error)) (T, error) {
	p := patience{s: s}
	for {
		out, err := op(ctx)
		switch {
		case err == nil:
			p.over()
			return out, nil
		case !mayPass(err):
			return out, err
		}
		if err := p.wait(ctx, err); err != nil {
			return out, err
		}
	}
}

// patience is one activity's way through an outage.
type patience struct {
	s     *Session
	since time.Time // first failure; zero: none
	pause time.Duration
}

// over ends the outage.
func (p *patience) over() {
	p.since = time.Time{}
	p.s.outage.over(p.s.Observer)
}

// wait waits before another attempt, longer each time, and fails when that has
// been going on for too long.
func (p *patience) wait(ctx context.Context, why error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	r := p.s.Retry
	if p.since.IsZero() {
		p.since, p.pause = p.s.Now(), r.First
	} else {
		p.pause = min(2*p.pause, r.Most)
		if down := p.s.Now().Sub(p.since); down >= r.GiveUp {
			return fmt.Errorf("gave up after %s: %w", down.Round(time.Second), why)
		}
		// A hiccup that is over with the next attempt is not worth a line.
		p.s.outage.tell(p.s.Observer, why)
	}
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-time.After(p.pause):
		return nil
	}
}

// outage makes one line of what several activities of a session notice.
type outage struct {
	mu         sync.Mutex
	told, lost bool // that something is wrong; that it is the connection
}

// tell says what is wrong: that the builder has too much of this client's already
// lasts longer than a lost connection, and something else helps.
func (o *outage) tell(to Observer, why error) {
	lost := wire.CodeOf(why) != wire.CodeRate
	o.mu.Lock()
	told := o.told && (o.lost || !lost)
	o.told, o.lost = true, o.lost || lost
	o.mu.Unlock()
	switch {
	case told:
	case lost:
		to.Note("lost the connection to the builder; trying to get it back")
	default:
		to.Note(why.Error() + "; trying again")
	}
}

func (o *outage) over(to Observer) {
	o.mu.Lock()
	lost := o.lost
	o.told, o.lost = false, false
	o.mu.Unlock()
	if lost {
		to.Note("connected again")
	}
}
