package link

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
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
	// drainSize is how much of an answer that nobody wants is read to keep its
	// connection.
	drainSize = 64 << 10
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
	// alive asks the builder for nothing by another connection of the same path.
	// It reports false if that is no answer to whether the path works.
	alive func(context.Context, Path) (known bool, err error)
	// lost is called when there is no connection and none can be opened; may be
	// nil.
	lost func()

	mu       sync.Mutex
	conns    []*pooled
	waiting  []chan granted // those who wait for a connection, in turn
	opening  bool
	refused  time.Time // when one could not be opened
	watching bool
	closed   bool
}

// granted is what a request has waited for.
type granted struct {
	c   *pooled
	err error
}

// pooled is a connection of a pool.
type pooled struct {
	opened
	circuit *circuit

	// Guarded by pool.mu.
	busy  bool
	gone  bool      // not in the pool any more
	since time.Time // idle since
	seen  uint64    // what had moved when it was looked at
	still time.Time // since when nothing has moved

	// What the request waits for, other than for this end.
	sending, answering atomic.Bool
}

// RoundTrip sends a request; see [Session.Bulk].
func (p *pool) RoundTrip(req *http.Request) (*http.Response, error) {
	ctx := req.Context()
	for repeated := false; ; repeated = true {
		c, err := p.take(ctx)
		if err != nil {
			closeBody(req)
			return nil, err
		}
		sent := req
		if req.Body != nil && req.Body != http.NoBody {
			sent = req.WithContext(ctx)
			sent.Body = &sentBody{req.Body, c}
		}
		resp, err := c.cc.RoundTrip(sent)
		c.sending.Store(false)
		if err == nil {
			resp.Body = &pooledBody{ReadCloser: resp.Body, p: p, c: c, ctx: ctx, left: resp.ContentLength}
			return resp, nil
		}
		if ctx.Err() != nil {
			p.drop(c, true)
			return nil, err
		}
		p.drop(c, false)
		if repeated {
			return nil, lost(c.path, err)
		}
		again, ok := repeat(req)
		if !ok {
			return nil, lost(c.path, err)
		}
		req = again
		p.s.log.Debug("request is repeated", slog.String("lane", "bulk"), slog.String("path", c.path.String()), slog.Any("error", err))
	}
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
	p.waiting = append(p.waiting, turn)
	if len(p.conns) == 0 {
		p.growLocked()
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
			grow.Reset(growAfter)
		case <-ctx.Done():
			p.mu.Lock()
			i := slices.Index(p.waiting, turn)
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
	c.busy = true
	c.seen, c.still = c.circuit.moved.Load(), time.Now()
	c.answering.Store(false)
}

// warm begins to open the first connection.
func (p *pool) warm() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.conns) == 0 {
		p.growLocked()
	}
}

// growLocked begins to open a connection if one more may be of use.
func (p *pool) growLocked() {
	more := len(p.conns) == 0 || len(p.conns) < poolSize && len(p.waiting) > 0 && time.Since(p.refused) > growAgain
	if p.closed || p.opening || !more || !p.s.begin() {
		return
	}
	p.opening = true
	go func() {
		defer p.s.work.Done()
		p.grow()
	}()
}

func (p *pool) grow() {
	ctx, cancel := context.WithTimeoutCause(p.s.ctx, openTimeout, fmt.Errorf("gave up after %s", openTimeout))
	defer cancel()
	o, err := p.open(ctx)
	p.mu.Lock()
	p.opening = false
	if err == nil && p.closed {
		err = ErrClosed
	}
	if err != nil {
		p.refused = time.Now()
		none := len(p.conns) == 0
		if none {
			for _, turn := range p.waiting {
				turn <- granted{err: err}
			}
			p.waiting = nil
		}
		p.mu.Unlock()
		if o != nil {
			_ = o.cc.Close()
		}
		if none && p.lost != nil {
			p.lost()
		}
		return
	}
	c := &pooled{opened: *o, circuit: circuitBelow(o.conn), since: time.Now()}
	p.conns = append(p.conns, c)
	p.handLocked(c)
	if !p.watching && p.s.begin() {
		p.watching = true
		go func() {
			defer p.s.work.Done()
			p.watch()
		}()
	}
	p.mu.Unlock()
}

// handLocked gives a connection to whoever has waited longest.
func (p *pool) handLocked(c *pooled) {
	if len(p.waiting) == 0 {
		return
	}
	c.begin()
	p.waiting[0] <- granted{c: c}
	p.waiting = slices.Delete(p.waiting, 0, 1)
}

// release takes a connection back that can be used again.
func (p *pool) release(c *pooled) {
	if c.cc.Err() != nil {
		p.drop(c, true)
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if c.gone {
		return
	}
	c.busy, c.since = false, time.Now()
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
		if !p.s.begin() {
			work.Go(func() { _ = c.cc.Close() })
			continue
		}
		go func() {
			defer p.s.work.Done()
			_ = c.cc.Close()
		}()
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
			moved := c.circuit.moved.Load()
			switch {
			case !c.busy && (now.Sub(c.since) >= idleAfter || c.cc.Err() != nil):
				p.removeLocked(c)
				old = append(old, c)
			case !c.busy:
			case moved != c.seen:
				c.seen, c.still = moved, now
			case now.Sub(c.still) >= pingAfter:
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

// probe closes those of the connections whose path is dead.
func (p *pool) probe(still []*pooled) {
	type answer struct {
		known bool
		err   error
	}
	asked := make(map[Path]answer)
	for _, c := range still {
		a, ok := asked[c.path]
		if !ok {
			ctx, cancel := context.WithTimeout(p.s.ctx, pingTimeout)
			a.known, a.err = p.alive(ctx, c.path)
			cancel()
			asked[c.path] = a
		}
		p.mu.Lock()
		stands := !c.gone && c.busy && c.circuit.moved.Load() == c.seen
		since := time.Since(c.still)
		p.mu.Unlock()
		owed := c.sending.Load() || c.answering.Load()
		if stands && (a.known && a.err != nil || since >= stallAfter && (owed || !a.known)) {
			p.s.log.Debug("a connection does not answer", slog.String("lane", "bulk"), slog.String("path", c.path.String()), slog.Any("error", a.err))
			p.discard([]*pooled{c}, false) // what waits on it fails now
		}
	}
}

// check closes what carries nothing and may not have survived a change of the
// network; what is under way is looked at as if it had stood still.
func (p *pool) check() {
	p.mu.Lock()
	var idle []*pooled
	for _, c := range slices.Clone(p.conns) {
		if c.busy {
			c.still = c.still.Add(-pingAfter)
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
	for _, turn := range p.waiting {
		turn <- granted{err: ErrClosed}
	}
	p.waiting = nil
	p.mu.Unlock()
	p.discard(conns, true)
}

// sentBody tells its connection whether it is the network that a body waits for.
type sentBody struct {
	io.ReadCloser
	c *pooled
}

func (b *sentBody) Read(p []byte) (int, error) {
	b.c.sending.Store(false)
	n, err := b.ReadCloser.Read(p)
	b.c.sending.Store(err == nil)
	return n, err
}

// pooledBody is an answer, which holds its connection until it was read.
type pooledBody struct {
	io.ReadCloser
	p    *pool
	c    *pooled
	ctx  context.Context
	left int64 // bytes to come, -1 if nobody knows
	over bool
}

func (b *pooledBody) Read(p []byte) (int, error) {
	b.c.answering.Store(true)
	n, err := b.ReadCloser.Read(p)
	b.c.answering.Store(false)
	if b.left > 0 {
		b.left -= int64(n)
	}
	switch {
	case err == nil || b.over:
	case err == io.EOF:
		b.over = true
		b.p.release(b.c)
	default:
		b.over = true
		b.p.drop(b.c, b.ctx.Err() != nil)
	}
	if err != nil && err != io.EOF {
		err = fmt.Errorf("answer by %s: %w", b.c.path, err)
	}
	return n, err
}

// Close reads what little is left, and otherwise gives the connection up.
func (b *pooledBody) Close() error {
	if !b.over && b.left >= 0 && b.left <= drainSize {
		_, _ = io.Copy(io.Discard, b)
	}
	err := b.ReadCloser.Close()
	if !b.over {
		b.over = true
		b.p.drop(b.c, true)
	}
	return err
}
