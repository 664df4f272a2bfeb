package policy

import (
	"cmp"
	"context"
	"slices"
	"sync"
	"time"
)

// maxWaiting bounds the decisions that wait for their turn.
const maxWaiting = 256

// maxWait bounds how long one waits.
const maxWait = 10 * time.Second

// gate lets a bounded number of decisions run at once. Those expected to be
// the shortest go first, so that a policy which spins until its time is up
// delays others of its kind rather than an ordinary one.
type gate struct {
	mu      sync.Mutex
	free    int
	waiting []*waiter // in order of arrival
}

type waiter struct {
	cost time.Duration
	turn chan struct{}
}

// enter waits for a turn, which leave gives back.
func (g *gate) enter(ctx context.Context, cost time.Duration) error {
	w, err := g.queue(cost)
	if w == nil {
		return err
	}
	timer := time.NewTimer(maxWait)
	defer timer.Stop()
	select {
	case <-w.turn:
		return nil
	case <-ctx.Done():
		err = &Error{Code: CodeCanceled, Detail: ctx.Err().Error(), Err: ctx.Err()}
	case <-timer.C:
		err = errorf(CodeBusy, "waited %s for a turn", maxWait)
	}
	if !g.withdraw(w) {
		g.leave() // the turn came meanwhile
	}
	return err
}

// queue takes a free turn, or else adds a waiter.
func (g *gate) queue(cost time.Duration) (*waiter, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.free > 0 {
		g.free--
		return nil, nil
	}
	if len(g.waiting) >= maxWaiting {
		return nil, errorf(CodeBusy, "%d decisions are waiting", maxWaiting)
	}
	w := &waiter{cost: cost, turn: make(chan struct{})}
	g.waiting = append(g.waiting, w)
	return w, nil
}

// withdraw reports whether w was still waiting.
func (g *gate) withdraw(w *waiter) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	i := slices.Index(g.waiting, w)
	if i >= 0 {
		g.waiting = slices.Delete(g.waiting, i, i+1)
	}
	return i >= 0
}

// leave hands the turn to the cheapest waiter.
func (g *gate) leave() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if len(g.waiting) == 0 {
		g.free++
		return
	}
	next := slices.MinFunc(g.waiting, func(a, b *waiter) int { return cmp.Compare(a.cost, b.cost) })
	i := slices.Index(g.waiting, next)
	g.waiting = slices.Delete(g.waiting, i, i+1)
	close(next.turn)
}
