package cache

import (
	"context"
	"errors"
	"time"
)

const (
	// maxBatch bounds the NARs of one request, so that the request stays
	// far below the protocol's limit for a document and an import of many
	// small paths still costs few round trips.
	maxBatch = 4096
	// jumpDistance is how far ahead of a run its data may lie for a reader
	// to wait for it rather than have it fetched apart. It is about what is
	// on its way anyway.
	jumpDistance = 4 << 20
	// drainLimit is how much unwanted data is read and dropped rather than
	// asking anew for what comes after it.
	drainLimit = 256 << 10
	// firstWindow is how far a run reads ahead, in slabs (8 MiB), until its
	// readers have starved after it was held back; then it doubles.
	firstWindow = 32
	// progressUnit is how many bytes count as progress. Within a third of
	// a read's time, 10 s, it makes the low-speed cut-off of 800 bytes a second:
	// less than what others leave of a line of 64 kbit/s.
	progressUnit = 8 << 10
	// stallShare is the part of a read's time that a request may go without
	// progress before it is given up and made again at the offset reached.
	stallShare = 3
	// maxRetries bounds requests without progress in between.
	maxRetries = 3
)

// retryDelays are the pauses before retries: together they outlast the restart
// of a relay, and stay within a read's time.
var retryDelays = [maxRetries]time.Duration{200 * time.Millisecond, 2 * time.Second, 8 * time.Second}

var (
	errStalled = errors.New("the builder sends nothing")
	errReplan  = errors.New("another request serves better")
)

// A want is a NAR and the offset from which it is wanted.
type want struct {
	nar *narState
	off int64
}

// A run is a goroutine that makes one request after another and puts what
// comes into slabs. Its fields are guarded by View.mu.
type run struct {
	// ahead: this is the run that follows the import order. Others fetch
	// one NAR to its end.
	ahead bool
	// nar and at are where it goes on.
	nar *narState
	at  int64
	// todo is what the request under way still has to deliver.
	todo   []want
	cancel context.CancelCauseFunc
	// yielded: it has come to where another run goes on.
	yielded bool
	// stopped: it is to end as soon as it can.
	stopped bool

	slab *slab    // being filled
	seg  *segment // being extended; nil when a new one is due
	// slabs counts those that hold its data, window how many they may be
	// while nobody waits.
	slabs, window int
	blocked       bool // waits for a slab
	throttled     bool // has been, for its window
	waiting       int  // waiters that count on it
	wake          chan struct{}

	unmarked int // bytes since the last progress
	retries  int // requests without progress
	guard    *time.Timer
	// arrived tells how much has come of what cannot be handed on yet, seen
	// how much that was when it was last looked at.
	arrived func() uint64
	seen    uint64
}

// start begins a run; v.mu is held.
func (v *View) start(ahead bool, n *narState, at int64) *run {
	r := &run{
		ahead: ahead, nar: n, at: at,
		todo:   []want{{n, at}},
		window: v.firstWindow,
		wake:   make(chan struct{}, 1),
	}
	v.runs[r] = struct{}{}
	if ahead {
		v.main = r
	}
	v.wg.Add(1)
	go v.drive(r)
	return r
}

// move makes a run ahead go on elsewhere; v.mu is held.
func (v *View) move(r *run, n *narState, at int64) {
	r.nar, r.at = n, at
	r.todo = []want{{n, at}}
	r.throttled = false
	if r.cancel != nil {
		r.cancel(errReplan)
	}
}

// stop ends a run that nobody waits for; v.mu is held.
func (v *View) stop(r *run) {
	r.stopped = true
	r.todo = nil
	if r.cancel != nil {
		r.cancel(errReplan)
	}
}

// drive makes requests until nothing is left to fetch, the run is stopped, or
// it fails.
func (v *View) drive(r *run) {
	defer v.wg.Done()
	for {
		v.mu.Lock()
		wants := v.plan(r)
		if len(wants) == 0 {
			v.finish(r, nil)
			v.mu.Unlock()
			return
		}
		r.todo, r.yielded = wants, false
		ctx, cancel := context.WithCancelCause(v.ctx)
		r.cancel = cancel
		r.guard = time.AfterFunc(v.stallTime, func() { v.overdue(r, cancel) })
		v.stats.Requests++
		v.rebalance()
		v.mu.Unlock()

		err := v.transfer(ctx, r, wants)
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		cancel(nil)

		v.mu.Lock()
		r.guard.Stop()
		r.cancel, r.seg, r.arrived, r.seen = nil, nil, nil, 0
		switch {
		case err == nil, errors.Is(err, errReplan), v.closed:
			v.mu.Unlock()
			continue
		case isPermanent(err), r.retries == maxRetries:
			v.finish(r, err)
			v.mu.Unlock()
			return
		}
		pause := time.NewTimer(retryDelays[r.retries])
		r.retries++
		v.mu.Unlock()
		select {
		case <-pause.C:
		case <-v.ctx.Done():
		}
		pause.Stop()
	}
}

// plan says what a run's next request asks for; v.mu is held.
func (v *View) plan(r *run) []want {
	if r.stopped || v.closed {
		return nil
	}
	if !r.ahead {
		n := r.nar
		off := n.covered(r.at)
		if n.err != nil || len(n.files) == 0 || off == n.size || v.taken(r, n, off) {
			return nil
		}
		return []want{{n, off}}
	}
	wants := make([]want, 0, 16)
	for i := r.nar.index; i < v.expected && len(wants) < maxBatch; i++ {
		n := v.order[i]
		if n.err != nil || n.done && (n != r.nar || r.waiting == 0) {
			continue
		}
		var from int64
		if n == r.nar {
			from = r.at
		} else if len(n.files) > 0 {
			from = n.low()
		}
		if off := n.covered(from); off < n.size && !v.taken(r, n, off) {
			wants = append(wants, want{n, off})
		}
	}
	return wants
}

// taken reports whether another run is about to deliver the NAR from off.
func (v *View) taken(r *run, n *narState, off int64) bool {
	for o := range v.runs {
		if o != r && len(o.todo) > 0 {
			if t := o.todo[0]; t.nar == n && t.off <= off && off-t.off <= jumpDistance {
				return true
			}
		}
	}
	return false
}

// finish ends a run; v.mu is held. An error goes to those who wait for it.
func (v *View) finish(r *run, err error) {
	delete(v.runs, r)
	if v.main == r {
		v.main = nil
	}
	r.todo = nil
	if r.slab != nil {
		v.seal(r.slab)
		r.slab, r.seg = nil, nil
	}
	if err != nil {
		for _, w := range v.waiters {
			if w.run == r {
				v.detach(w)
				w.fail(err)
			}
		}
	}
	v.rebalance()
}
