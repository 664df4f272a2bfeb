package daemon

import (
	"context"
	"slices"
	"sync"
	"time"
)

// idleTimeout is how long a Pool keeps a connection that nobody uses.
const idleTimeout = time.Minute

// Pool shares connections between short operations. The zero value is not
// usable; NewPool makes one.
type Pool struct {
	cfg Config
	// slots has a place for each connection that Do may hold.
	slots chan struct{}

	mu     sync.Mutex
	closed bool
	idle   []*idleConn
}

type idleConn struct {
	*Conn
	timer *time.Timer
}

// NewPool returns a pool of at most most connections for Do.
func NewPool(cfg Config, most int) *Pool {
	return &Pool{cfg: cfg, slots: make(chan struct{}, max(1, most))}
}

// Do runs fn with a connection that no one else has, waiting for one if all are
// in use. The connection is kept for later if it is in order: not if the daemon
// reported an error, and not if fn set options or temporary roots on it.
func (p *Pool) Do(ctx context.Context, fn func(*Conn) error) error {
	select {
	case p.slots <- struct{}{}:
		defer func() { <-p.slots }()
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	c, err := p.get(ctx)
	if err != nil {
		return err
	}
	returned := false
	defer func() {
		// SetSink fails if fn left an operation running.
		if returned && c.SetSink(nil) == nil && c.reusable() {
			p.put(c)
		} else {
			_ = c.Close()
		}
	}()
	err = fn(c)
	returned = true
	return err
}

func (c *Conn) reusable() bool {
	return c.Err() == nil && !c.private.Load() && !c.erred.Load()
}

// Conn returns a new connection of the caller's own. It does not count for the
// pool's limit, and closing it cancels what it does.
func (p *Pool) Conn(ctx context.Context) (*Conn, error) {
	p.mu.Lock()
	closed := p.closed
	p.mu.Unlock()
	if closed {
		return nil, ErrClosed
	}
	return Dial(ctx, p.cfg)
}

// Close closes the idle connections and makes later calls fail. Connections in
// use are closed when their users are done with them.
func (p *Pool) Close() error {
	p.mu.Lock()
	p.closed = true
	idle := p.idle
	p.idle = nil
	p.mu.Unlock()
	for _, i := range idle {
		i.timer.Stop()
		_ = i.Close()
	}
	return nil
}

// get returns an idle connection that still answers, or a new one.
func (p *Pool) get(ctx context.Context) (*Conn, error) {
	for {
		p.mu.Lock()
		if p.closed {
			p.mu.Unlock()
			return nil, ErrClosed
		}
		n := len(p.idle)
		if n == 0 {
			p.mu.Unlock()
			return Dial(ctx, p.cfg)
		}
		i := p.idle[n-1]
		p.idle = p.idle[:n-1]
		p.mu.Unlock()
		i.timer.Stop()
		// The daemon may have been restarted meanwhile.
		if i.ping(ctx) == nil {
			return i.Conn, nil
		}
		_ = i.Close()
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
	}
}

func (p *Pool) put(c *Conn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		_ = c.Close()
		return
	}
	i := &idleConn{Conn: c}
	i.timer = time.AfterFunc(idleTimeout, func() { p.expire(i) })
	p.idle = append(p.idle, i)
}

func (p *Pool) expire(i *idleConn) {
	p.mu.Lock()
	k := slices.Index(p.idle, i)
	if k >= 0 {
		p.idle = slices.Delete(p.idle, k, k+1)
	}
	p.mu.Unlock()
	if k >= 0 { // else it is in use again
		_ = i.Close()
	}
}
