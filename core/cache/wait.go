package cache

import (
	"context"
	"fmt"
	"io/fs"
	"slices"
	"sync"
	"time"
)

// maxSpan is the most that one wait is for: longer reads are done in parts, so
// that what waiting readers hold on to always fits into the budget.
const maxSpan = 1 << 20

// A waiter is a read that waits for bytes [off, end) of a NAR. Guarded by
// View.mu.
type waiter struct {
	file     *File
	nar      *narState
	off, end int64
	// run is what it counts on; nil while all runs are busy for others.
	run   *run
	err   error
	ready chan struct{}
	timer *time.Timer
}

func (w *waiter) fail(err error) {
	if w.err == nil {
		w.err = err
	}
	wakeUp(w.ready)
}

// Span is data of a View that stays in place until Release.
type Span struct {
	// Bufs are the bytes in order; they must not be written to.
	Bufs  [][]byte
	view  *View
	slabs []*slab
}

var spans = sync.Pool{New: func() any { return new(Span) }}

// Len returns the number of bytes.
func (s *Span) Len() int {
	n := 0
	for _, b := range s.Bufs {
		n += len(b)
	}
	return n
}

// Release gives the memory back. The Span must not be used afterwards.
func (s *Span) Release() {
	if v := s.view; v != nil {
		v.mu.Lock()
		for _, b := range s.slabs {
			b.pins--
			v.release(b)
		}
		v.nudge()
		v.mu.Unlock()
	}
	clear(s.Bufs)
	clear(s.slabs)
	s.view, s.Bufs, s.slabs = nil, s.Bufs[:0], s.slabs[:0]
	spans.Put(s)
}

// nudge wakes the runs that readers wait for and that found nothing to evict:
// something may have become free for that.
func (v *View) nudge() {
	if len(v.pool.free) > 0 {
		return
	}
	for r := range v.runs {
		if r.blocked && r.waiting > 0 {
			wakeUp(r.wake)
		}
	}
}

// borrow waits until bytes [off, end) of the file's NAR are there and pins
// them.
func (v *View) borrow(ctx context.Context, f *File, off, end int64) (*Span, error) {
	n := f.nar
	v.mu.Lock()
	defer v.mu.Unlock()
	f.pos = max(f.pos, off)
	v.front = n.start + off
	v.trim(n)
	for {
		if f.closed || v.closed {
			return nil, fs.ErrClosed
		}
		if n.covered(off) >= end {
			f.end = max(f.end, end)
			v.stats.Read += uint64(end - off)
			return v.pin(n, off, end), nil
		}
		if n.err != nil {
			return nil, v.fail(n.name, n.err)
		}
		if err := v.wait(ctx, f, off, end); err != nil {
			if ctx.Err() != nil || f.closed || v.closed {
				return nil, err
			}
			return nil, v.fail(n.name, err)
		}
	}
}

// fail notes why a read failed, for Err.
func (v *View) fail(name string, err error) error {
	err = fmt.Errorf("read %s: %w", name, err)
	if v.err == nil {
		v.err = err
		close(v.failed)
	}
	return err
}

// pin makes a Span of bytes that are there.
func (v *View) pin(n *narState, off, end int64) *Span {
	s := spans.Get().(*Span)
	s.view = v
	for i := n.seek(off); off < end; i++ {
		g := n.segs[i]
		to := min(end, g.end())
		s.Bufs = append(s.Bufs, g.bytes(off, to))
		s.slabs = append(s.slabs, g.slab)
		g.slab.pins++
		off = to
	}
	return s
}

// wait waits for the range, or for a reason to give up; v.mu is held, and
// released meanwhile. After nil the range may be there.
func (v *View) wait(ctx context.Context, f *File, off, end int64) error {
	w := v.newWaiter()
	w.file, w.nar, w.off, w.end = f, f.nar, off, end
	v.waiters = append(v.waiters, w)
	w.nar.waiters = append(w.nar.waiters, w)
	v.assign(w)
	v.mu.Unlock()

	var err error
	select {
	case <-w.ready:
	case <-ctx.Done():
		err = ctx.Err()
	case <-w.timer.C:
		err = ErrTimeout
	}

	v.mu.Lock()
	switch {
	case w.nar.covered(off) >= end:
		// It may have come just before what ended the wait.
		err = nil
	case w.err != nil:
		err = w.err
	case err == ErrTimeout:
		err = fmt.Errorf("%w for %v", err, v.cfg.ReadTimeout)
	}
	v.detach(w)
	v.waiters = remove(v.waiters, w)
	w.nar.waiters = remove(w.nar.waiters, w)
	w.timer.Stop()
	select {
	case <-w.ready:
	default:
	}
	*w = waiter{ready: w.ready, timer: w.timer}
	v.idle = append(v.idle, w)
	v.rebalance()
	v.nudge()
	return err
}

func (v *View) newWaiter() *waiter {
	if k := len(v.idle); k > 0 {
		w := v.idle[k-1]
		v.idle = v.idle[:k-1]
		w.timer.Reset(v.cfg.ReadTimeout)
		return w
	}
	return &waiter{ready: make(chan struct{}, 1), timer: time.NewTimer(v.cfg.ReadTimeout)}
}

func remove[T comparable](list []T, x T) []T {
	if i := slices.Index(list, x); i >= 0 {
		return slices.Delete(list, i, i+1)
	}
	return list
}

// rebalance sees to it that everyone who waits counts on a run that comes to
// what is waited for; v.mu is held.
func (v *View) rebalance() {
	for _, w := range v.waiters {
		if w.err != nil {
			continue
		}
		if w.run != nil {
			if _, ok := w.run.delivers(w.nar, w.nar.covered(w.off)); ok {
				continue
			}
		}
		v.assign(w)
	}
}

// assign finds or starts a run for a waiter; v.mu is held.
func (v *View) assign(w *waiter) {
	v.detach(w)
	off := w.nar.covered(w.off)
	switch {
	case v.closed || w.file.closed:
		w.fail(fs.ErrClosed)
		return
	case w.nar.err != nil:
		w.fail(w.nar.err)
		return
	case off >= w.end:
		wakeUp(w.ready)
		return
	}
	var best *run
	var least int64
	for r := range v.runs {
		if d, ok := r.delivers(w.nar, off); ok && (best == nil || d < least) {
			best, least = r, d
		}
	}
	if best == nil {
		best = v.dispatch(w.nar, off)
	}
	if best != nil {
		v.attach(best, w)
	}
}

// dispatch has a NAR fetched from off by a run of its own; nil when there is
// none to be had now.
func (v *View) dispatch(n *narState, off int64) *run {
	ordered := n.index < v.expected
	if m := v.main; ordered && m != nil && m.blocked && m.waiting == 0 && n.index >= m.nar.index {
		// What it has fetched is not what is read: the reader has
		// skipped ahead, and will go on from where it is now.
		v.move(m, n, off)
		return m
	}
	if len(v.runs) >= v.maxRuns {
		if v.ending() {
			return nil
		}
		var idle *run
		for r := range v.runs {
			if r.waiting == 0 && (idle == nil || idle.ahead) {
				idle = r
			}
		}
		if idle != nil {
			v.stop(idle)
		}
		return nil
	}
	return v.start(ordered && v.main == nil, n, off)
}

// ending reports whether a run is about to end, which then calls rebalance.
func (v *View) ending() bool {
	for r := range v.runs {
		if r.stopped {
			return true
		}
	}
	return false
}

// delivers reports whether the run is soon to deliver the NAR from off, and
// after how many bytes.
func (r *run) delivers(n *narState, off int64) (int64, bool) {
	var d int64
	for _, t := range r.todo {
		if t.nar == n {
			return d + off - t.off, t.off <= off && d+off-t.off <= jumpDistance
		}
		if d += t.nar.size - t.off; d > jumpDistance {
			break
		}
	}
	return 0, false
}

func (v *View) attach(r *run, w *waiter) {
	w.run = r
	r.waiting++
	w.timer.Reset(v.cfg.ReadTimeout)
	if r.throttled {
		// It was held back, and yet its reader now has to wait.
		r.throttled = false
		r.window = min(2*r.window, v.lastWindow)
	}
	if r.blocked {
		wakeUp(r.wake)
	}
}

func (v *View) detach(w *waiter) {
	if w.run != nil {
		w.run.waiting--
		w.run = nil
	}
}
