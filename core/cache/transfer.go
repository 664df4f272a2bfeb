package cache

import (
	"context"
	"fmt"
	"io"
)

// transfer makes one request and takes in its answer.
func (v *View) transfer(ctx context.Context, r *run, wants []want) error {
	ranges := make([]NarRange, len(wants))
	for i, w := range wants {
		ranges[i] = NarRange{NarHash: w.nar.hash, Offset: uint64(w.off), Size: uint64(w.nar.size), Path: w.nar.path}
	}
	stream, err := v.cfg.Fetcher.Fetch(ctx, ranges)
	if err != nil {
		return err
	}
	defer stream.Close()
	if a, ok := stream.(arriving); ok {
		v.mu.Lock()
		r.arrived = a.Arrived
		v.mu.Unlock()
	}
	for i := 0; ; i++ {
		frame, err := stream.Next()
		if err == io.EOF && i == len(wants) {
			return nil
		}
		if err == io.EOF {
			err = io.ErrUnexpectedEOF
		}
		if err != nil {
			return err
		}
		if i == len(wants) || frame.Index != i {
			return Permanent(fmt.Errorf("%w: NAR %d where %d was due", ErrStream, frame.Index, i))
		}
		if err := v.begin(ctx, r, wants[i], frame); err != nil {
			return err
		}
		for !frame.Unavailable {
			buf, err := v.space(ctx, r)
			if err != nil {
				return err
			}
			if buf == nil {
				break
			}
			n, err := stream.Read(buf)
			if n > 0 {
				v.publish(ctx, r, n)
			}
			switch {
			case n > 0 && err == io.EOF:
			case err == io.EOF:
				return io.ErrUnexpectedEOF
			case err != nil:
				return err
			case n == 0:
				return io.ErrNoProgress
			}
		}
		if err := v.end(ctx, r); err != nil {
			return err
		}
	}
}

// begin checks the beginning of a frame against the narinfo.
func (v *View) begin(ctx context.Context, r *run, w want, f Frame) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	switch left := w.nar.size - w.off; {
	case f.Unavailable:
		v.failNar(w.nar, ErrUnavailable)
	case f.Size != uint64(left):
		err := fmt.Errorf("%w: %d bytes of a NAR where %d are left", ErrStream, f.Size, left)
		v.failNar(w.nar, err)
		return Permanent(err)
	}
	r.nar, r.at, r.yielded = w.nar, w.off, false
	return nil
}

// space returns where to put the next bytes, waiting for a slab if need be;
// nil when no more of the current NAR is wanted from this run.
func (v *View) space(ctx context.Context, r *run) ([]byte, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	held := false
	for {
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		room := v.room(r)
		if room == 0 {
			r.yielded = true
			return nil, nil
		}
		if r.slab == nil {
			r.slab = v.take(r)
		}
		if s := r.slab; s != nil {
			if held {
				r.blocked = false
				r.guard.Reset(v.stallTime)
			}
			return s.buf[s.fill:min(int64(len(s.buf)), int64(s.fill)+room)], nil
		}
		// The builder is not to blame while we do not read.
		held = true
		r.blocked = true
		r.guard.Stop()
		v.mu.Unlock()
		select {
		case <-r.wake:
		case <-ctx.Done():
		}
		v.mu.Lock()
		r.blocked = false
	}
}

// room is how many bytes of its current NAR the run may still deliver before
// it meets data that is there or that another run is about to deliver.
func (v *View) room(r *run) int64 {
	n, off := r.todo[0].nar, r.todo[0].off
	end := n.size
	if i := n.seek(off); i < len(n.segs) {
		end = min(end, max(n.segs[i].off, off))
	}
	for o := range v.runs {
		if o == r || len(o.todo) == 0 || o.todo[0].nar != n {
			continue
		}
		if t := o.todo[0].off; t > off || t == off && !o.yielded {
			end = min(end, t)
		}
	}
	return end - off
}

// take gets a slab for a run, or nil when it has to wait. Only for a reader is
// unread data given up.
func (v *View) take(r *run) *slab {
	if r.waiting == 0 && r.slabs >= r.window {
		r.throttled = true
		return nil
	}
	s := v.pool.get()
	for s == nil {
		if !v.evict(r.waiting == 0) {
			return nil
		}
		s = v.pool.get()
	}
	s.run = r
	r.slabs++
	return s
}

// publish hands on n bytes that have been read into the run's slab.
func (v *View) publish(ctx context.Context, r *run, n int) {
	v.mu.Lock()
	if ctx.Err() != nil {
		// It may have been moved, and todo is about something else.
		v.mu.Unlock()
		return
	}
	w, s := &r.todo[0], r.slab
	if r.seg == nil || r.seg.nar != w.nar || r.seg.end() != w.off {
		r.seg = &segment{slab: s, nar: w.nar, off: w.off, pos: s.fill}
		s.segs = append(s.segs, r.seg)
		s.live++
		w.nar.insert(r.seg)
	}
	r.seg.n += n
	s.fill += n
	w.off += int64(n)
	r.at = w.off
	w.nar.fetched += uint64(n)
	v.stats.Fetched += uint64(n)
	progress := Progress{Path: w.nar.path, Fetched: w.nar.fetched, Size: uint64(w.nar.size)}
	for _, t := range w.nar.waiters {
		if w.off >= t.end && w.nar.covered(t.off) >= t.end {
			wakeUp(t.ready)
		}
	}
	if w.off == w.nar.size {
		wakeUp(v.arrived)
	}
	if r.unmarked += n; r.unmarked >= progressUnit {
		v.mark(r)
	}
	if s.fill == len(s.buf) {
		r.slab, r.seg = nil, nil
		v.seal(s)
	}
	v.mu.Unlock()
	if v.cfg.Progress != nil {
		v.cfg.Progress(progress)
	}
}

// mark notes progress: nobody who waits for this run has reason to give up.
func (v *View) mark(r *run) {
	r.unmarked, r.retries = 0, 0
	if r.arrived != nil {
		r.seen = r.arrived()
	}
	v.patience(r)
}

// patience gives a run and those who wait for it their whole time again.
func (v *View) patience(r *run) {
	r.guard.Reset(v.stallTime)
	if r.waiting == 0 {
		return
	}
	for _, w := range v.waiters {
		if w.run == r {
			w.timer.Reset(v.cfg.ReadTimeout)
		}
	}
}

// overdue decides on a request that made no progress for a while. What comes in
// pieces that cannot be handed on yet shows that the builder lives; it does not
// count as progress, so it wins time only until the piece is complete.
func (v *View) overdue(r *run, cancel context.CancelCauseFunc) {
	v.mu.Lock()
	arrived := r.arrived
	v.mu.Unlock()
	var n uint64
	if arrived != nil {
		n = arrived()
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	if n < r.seen+progressUnit {
		cancel(errStalled)
		return
	}
	r.seen = n
	v.patience(r)
}

// end leaves the current frame for the next.
func (v *View) end(ctx context.Context, r *run) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	w := r.todo[0]
	r.seg = nil
	if w.nar.err == nil && w.nar.size-w.off > drainLimit {
		return errReplan
	}
	r.todo = r.todo[1:]
	r.at = w.nar.size
	v.mark(r)
	if r.waiting > 0 {
		v.rebalance()
	}
	return nil
}

// failNar makes all reads of a NAR fail until it is opened anew.
func (v *View) failNar(n *narState, err error) {
	n.err = err
	wakeUp(v.arrived)
	for _, w := range n.waiters {
		v.detach(w)
		w.fail(err)
	}
}
