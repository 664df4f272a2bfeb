package link

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"
)

const (
	// poolSize is how many connections of one way carry bulk at most: with
	// requests of 2 MiB they fill 1 Gbit/s over 100 ms.
	poolSize = 8
	// growAfter is how long a request waits for a connection before another is
	// opened: small requests one after another need no second one.
	growAfter = 5 * time.Millisecond
	// growAgain is the pause after a connection could not be opened beside others.
	growAgain = 5 * time.Second
	// idleAfter is how long a connection stays that carries nothing: less than
	// any router forgets it.
	idleAfter = 15 * time.Second
	// stallAfter is how long a transfer may stand still on a path that is alive.
	stallAfter = 30 * time.Second
)

// A pool is the connections of a way that carry what is large, by HTTP/1.1. A
// request has one for itself until its answer has been read.
//
// HTTP/2 would copy each byte three times more and wake up both ends for its
// windows, which is a third of what a transfer costs.
type pool struct {
	s *Session
	// open opens a connection.
	open func(context.Context) (*opened, error)
	// alive tells whether a path has worked since a time, by another connection
	// of it; false if that cannot be known.
	alive func(context.Context, Path, time.Time) (known bool, err error)
	// lost is called when there is no connection and none can be opened, under mu;
	// may be nil.
	lost func()

	mu       sync.Mutex
	conns    []*pooled
	waiting  []waiter // those who wait for a connection, in turn
	opening  int
	refused  time.Time // when one could not be opened
	watching bool
	closed   bool
}

type waiter struct {
	turn  chan granted
	since time.Time
}

// granted is what a request has waited for.
type granted struct {
	c   *pooled
	err error
}

// pooled is a connection of a pool.
type pooled struct {
	opened

	// Guarded by pool.mu; use is also read by whoever has the connection.
	busy  bool
	use   *use
	gone  bool      // not in the pool any more
	since time.Time // idle since
	seen  uint64    // its circuit's progress when it was looked at
	still time.Time // since when nothing has moved
	asked time.Time // when its path was last found to be alive
}

// take waits for a connection.
func (p *pool) take(ctx context.Context) (*pooled, error) {
	p.mu.Lock()
	if p.closed {
		p.mu.Unlock()
		return nil, ErrClosed
	}
	if c := p.idleLocked(); c != nil {
		p.mu.Unlock()
		return c, nil
	}
	turn := make(chan granted, 1)
	p.waiting = append(p.waiting, waiter{turn, time.Now()})
	if len(p.conns)+p.opening == 0 {
		p.openLocked()
	}
	p.mu.Unlock()
	grow := time.NewTimer(growAfter)
	defer grow.Stop()
	for {
		select {
		case g := <-turn:
			return g.c, g.err
		case <-grow.C:
			p.mu.Lock()
			p.growLocked()
			p.mu.Unlock()
			grow.Reset(growAgain) // while one is opened, grow goes on
		case <-ctx.Done():
			p.mu.Lock()
			i := slices.IndexFunc(p.waiting, func(w waiter) bool { return w.turn == turn })
			if i >= 0 {
				p.waiting = slices.Delete(p.waiting, i, i+1)
			}
			p.mu.Unlock()
			if i < 0 {
				if g := <-turn; g.c != nil {
					p.release(g.c)
				}
			}
			return nil, context.Cause(ctx)
		}
	}
}

// idleLocked takes the connection that was used last, nil if all are busy.
func (p *pool) idleLocked() *pooled {
	var best *pooled
	for _, c := range slices.Clone(p.conns) {
		switch {
		case c.busy:
		case c.cc.Err() != nil:
			p.removeLocked(c)
		case best == nil || c.since.After(best.since):
			best = c
		}
	}
	if best != nil {
		best.begin()
	}
	return best
}

// begin gives a connection to a request; pool.mu is held.
func (c *pooled) begin() {
	c.busy, c.use = true, new(use)
	c.seen, c.still, c.asked = c.circuit.progress(), time.Now(), time.Time{}
	c.circuit.well.Store(false)
}

// rest takes it back; pool.mu is held. The end of a connection that carries
// nothing is not the path's fault.
func (c *pooled) rest(since time.Time) {
	c.busy, c.since = false, since
	c.circuit.well.Store(true)
}

// warm begins to open connections up to n.
func (p *pool) warm(n int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for len(p.conns)+p.opening < n && p.openLocked() {
	}
}

// growLocked begins to open connections for those who wait: at once as many as
// there are, so that a path that refuses more is not asked for many.
func (p *pool) growLocked() {
	for most := max(1, len(p.conns)); len(p.waiting) > p.opening && p.opening < most; {
		if all := len(p.conns) + p.opening; all > 0 && (all >= poolSize || time.Since(p.refused) <= growAgain) || !p.openLocked() {
			return
		}
	}
}

// openLocked begins to open a connection; false after the end.
func (p *pool) openLocked() bool {
	if p.closed || !p.s.start(p.grow) {
		return false
	}
	p.opening++
	return true
}

func (p *pool) grow() {
	ctx, cancel := context.WithTimeoutCause(p.s.ctx, openTimeout, fmt.Errorf("gave up after %s", openTimeout))
	defer cancel()
	o, err := p.open(ctx)
	p.mu.Lock()
	p.opening--
	if err == nil && p.closed {
		err = ErrClosed
	}
	if err != nil {
		p.refused = time.Now()
		none := len(p.conns) == 0 && p.opening == 0
		if none {
			if p.lost != nil {
				p.lost() // first: whoever is refused looks whether the way is still there
			}
			p.refuseLocked(err)
		}
		p.mu.Unlock()
		if o != nil {
			_ = o.cc.Close()
		}
		return
	}
	c := &pooled{opened: *o}
	// The builder waits no longer than handshakeTimeout for the first request.
	c.rest(time.Now().Add(handshakeTimeout/2 - idleAfter))
	p.conns = append(p.conns, c)
	p.handLocked(c)
	if len(p.waiting) > 0 && time.Since(p.waiting[0].since) >= growAfter {
		p.growLocked()
	}
	if !p.watching {
		p.watching = p.s.start(p.watch)
	}
	p.mu.Unlock()
}

// handLocked gives a connection to whoever has waited longest.
func (p *pool) handLocked(c *pooled) {
	if len(p.waiting) == 0 {
		return
	}
	c.begin()
	p.waiting[0].turn <- granted{c: c}
	p.waiting = slices.Delete(p.waiting, 0, 1)
}

// refuseLocked ends the waiting of all.
func (p *pool) refuseLocked(err error) {
	for _, w := range p.waiting {
		w.turn <- granted{err: err}
	}
	p.waiting = nil
}

// release takes a connection back after an answer's end.
func (p *pool) release(c *pooled) {
	// Not if it was to be the last, or came before all of the request was sent.
	if c.cc.Available() == 0 {
		p.drop(c, true)
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if c.gone {
		return
	}
	c.rest(time.Now())
	p.handLocked(c)
}

// drop closes a connection. When it is not well, those that carry nothing are
// not well either.
func (p *pool) drop(c *pooled, well bool) {
	p.mu.Lock()
	p.removeLocked(c)
	bad := []*pooled{c}
	if !well {
		for _, other := range slices.Clone(p.conns) {
			if !other.busy {
				p.removeLocked(other)
				bad = append(bad, other)
			}
		}
	}
	if len(p.waiting) > 0 {
		p.growLocked()
	}
	p.mu.Unlock()
	p.discard(bad, well)
}

func (p *pool) removeLocked(c *pooled) {
	c.gone = true
	if i := slices.Index(p.conns, c); i >= 0 {
		p.conns = slices.Delete(p.conns, i, i+1)
	}
}

// discard closes connections, which may take the time of a goodbye; well tells
// that it is not the path's fault. After the session's end it waits for them.
func (p *pool) discard(conns []*pooled, well bool) {
	var work sync.WaitGroup
	defer work.Wait()
	for _, c := range conns {
		if well {
			c.circuit.well.Store(true)
		}
		closing := func() { _ = c.cc.Close() }
		if !p.s.start(closing) {
			work.Go(closing)
		}
	}
}

// watch closes connections that carry nothing for a while, and those that stand
// still and whose path is dead.
func (p *pool) watch() {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		select {
		case <-p.s.ctx.Done():
			return
		case <-tick.C:
		}
		now := time.Now()
		var old, still []*pooled
		p.mu.Lock()
		for _, c := range slices.Clone(p.conns) {
			moved := c.circuit.progress()
			switch {
			case !c.busy && (now.Sub(c.since) >= idleAfter || c.cc.Err() != nil):
				p.removeLocked(c)
				old = append(old, c)
			case !c.busy:
			case moved != c.seen:
				c.seen, c.still = moved, now
			case now.Sub(c.still) >= pingAfter && now.Sub(c.asked) >= pingAfter:
				still = append(still, c)
			}
		}
		if len(p.conns) == 0 {
			p.watching = false
		}
		ends := !p.watching
		p.mu.Unlock()
		p.discard(old, true)
		if ends {
			return
		}
		if len(still) > 0 {
			p.probe(still)
		}
	}
}

// probe closes those of the connections whose path is dead, or perhaps is, and
// those that have stood still for too long.
func (p *pool) probe(still []*pooled) {
	failed := make(map[Path]error)
	for _, c := range still {
		p.mu.Lock()
		since := c.still
		p.mu.Unlock()
		known, err := true, failed[c.circuit.path]
		if err == nil {
			known, err = p.alive(p.s.ctx, c.circuit.path, since)
			failed[c.circuit.path] = err
		}
		p.mu.Lock()
		stands := !c.gone && c.busy && c.still.Equal(since) && c.circuit.progress() == c.seen
		if known && err == nil {
			c.asked = time.Now()
		}
		use := c.use
		p.mu.Unlock()
		owed := use.sending.Load() || use.answering.Load()
		if stands && (err != nil || time.Since(since) >= stallAfter && (owed || !known)) {
			p.s.log.Debug("a connection does not answer", slog.String("lane", "bulk"), slog.String("path", c.circuit.path.String()), slog.Any("error", err))
			use.ended.Store(true)
			p.drop(c, false) // what waits on it fails now
		}
	}
}

// check closes what carries nothing and may not have survived a change of the
// network; what is under way is looked at as if it had stood still.
func (p *pool) check() {
	before := time.Now().Add(-pingAfter)
	p.mu.Lock()
	var idle []*pooled
	for _, c := range slices.Clone(p.conns) {
		if c.busy {
			// What it moved before the change is no sign of life.
			c.seen = c.circuit.progress()
			if c.asked = (time.Time{}); c.still.After(before) {
				c.still = before
			}
			continue
		}
		p.removeLocked(c)
		idle = append(idle, c)
	}
	p.mu.Unlock()
	p.discard(idle, true)
}

// close closes everything.
func (p *pool) close() {
	p.mu.Lock()
	p.closed = true
	conns := p.conns
	p.conns = nil
	for _, c := range conns {
		c.gone = true
	}
	p.refuseLocked(ErrClosed)
	p.mu.Unlock()
	p.discard(conns, true)
}
