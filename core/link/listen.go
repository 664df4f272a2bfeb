package link

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/drv-thru/drv-thru/core/key"
	"github.com/drv-thru/drv-thru/core/link/wsconn"
	"github.com/drv-thru/drv-thru/core/wire"
)

// defaultBacklog is how many circuits may be on their way to Accept.
const defaultBacklog = 128

// ListenConfig is what a builder's listener needs.
type ListenConfig struct {
	// Identity is the builder's key.
	Identity key.Secret
	// Relays are the URLs of the relays to register at; see [RelayURL].
	Relays []string
	// Token returns what the owner of a relay (its URL in plain form) gave out
	// for registering there; "" is nothing. Nil has no tokens.
	Token func(relay string) string
	// Network says how to reach them.
	Network Network
	// Backlog is how many circuits may be on their way to Accept; further ones
	// are refused. 0 means 128. Each relay has its share, so that one that
	// announces too many takes nothing from the others.
	Backlog int
	// Jitter returns a number in [0,1) that spreads reconnects; nil is math/rand/v2.
	Jitter func() float64
	// Log gets what happens to registrations; nil discards it.
	Log *slog.Logger
}

// Listener is a net.Listener of the circuits that clients open to a builder
// through its relays. It registers again, forever, at a relay that it lost.
type Listener struct {
	cfg    ListenConfig
	log    *slog.Logger
	conns  chan incoming
	ctx    context.Context
	cancel context.CancelFunc
	work   sync.WaitGroup

	mu      sync.Mutex    // held to cancel ctx and to add to work, too
	relays  []*registrar  // in the order given
	changed chan struct{} // closed and replaced when a status changes
}

// Listen begins to register at all relays and returns at once;
// [Listener.Registered] waits.
func Listen(cfg ListenConfig) (*Listener, error) {
	if cfg.Backlog == 0 {
		cfg.Backlog = defaultBacklog
	}
	if cfg.Jitter == nil {
		cfg.Jitter = rand.Float64
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	l := &Listener{
		cfg:     cfg,
		log:     cfg.Log,
		conns:   make(chan incoming, cfg.Backlog),
		changed: make(chan struct{}),
	}
	l.ctx, l.cancel = context.WithCancel(context.Background())
	if err := l.SetRelays(cfg.Relays); err != nil {
		l.cancel()
		return nil, err
	}
	return l, nil
}

// Accept returns the next circuit. Nothing has been checked of whoever is at
// its other end.
func (l *Listener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		l.arrived(c.from)
		return c.conn, nil
	case <-l.ctx.Done():
		return nil, net.ErrClosed
	}
}

// Close leaves all relays. Circuits that Accept returned stay.
func (l *Listener) Close() error {
	l.mu.Lock()
	if l.ctx.Err() != nil {
		l.mu.Unlock()
		return net.ErrClosed
	}
	l.cancel()
	l.mu.Unlock()
	l.work.Wait()
	for {
		select {
		case c := <-l.conns:
			_ = c.conn.Close()
		default:
			return nil
		}
	}
}

// Addr returns the builder's endpoint ID as an address.
func (l *Listener) Addr() net.Addr { return endpointAddr(l.cfg.Identity.ID()) }

type endpointAddr key.ID

func (endpointAddr) Network() string  { return "drv-thru" }
func (a endpointAddr) String() string { return key.ID(a).String() }

// SetRelays registers at relays that are new and leaves those that are not
// among urls. Circuits that are open stay.
func (l *Listener) SetRelays(urls []string) error {
	urls, err := RelayURLs(urls)
	if err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.ctx.Err() != nil {
		return ErrClosed
	}
	var next []*registrar
	for _, u := range urls {
		i := slices.IndexFunc(l.relays, func(r *registrar) bool { return r.url == u })
		if i >= 0 {
			next = append(next, l.relays[i])
			continue
		}
		r := &registrar{l: l, url: u}
		r.ctx, r.cancel = context.WithCancel(l.ctx)
		r.status = RelayStatus{URL: u}
		next = append(next, r)
		l.work.Go(r.run)
	}
	for _, r := range l.relays {
		if !slices.Contains(next, r) {
			r.cancel()
		}
	}
	l.relays = next
	l.changedLocked()
	return nil
}

// RelayStatus is how a registration stands.
type RelayStatus struct {
	URL string
	// Connected tells whether the builder is registered there now.
	Connected bool
	// STUN is the host and port at which the relay answers STUN, "" for nowhere.
	STUN string
	// Since is when that began.
	Since time.Time
	// Err is why it is not, or nil before the first attempt ended.
	Err error
	// Attempts counts failed attempts since the last registration.
	Attempts int
}

// Status returns how each registration stands, in the order given.
func (l *Listener) Status() []RelayStatus {
	l.mu.Lock()
	defer l.mu.Unlock()
	out := make([]RelayStatus, len(l.relays))
	for i, r := range l.relays {
		out[i] = r.status
	}
	return out
}

// Changed returns a channel that is closed when a status changes.
func (l *Listener) Changed() <-chan struct{} {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.changed
}

// Registered waits until the builder is registered at one of its relays at
// least. When ctx ends before, the error holds what each relay's last was.
func (l *Listener) Registered(ctx context.Context) error {
	for {
		changed := l.Changed()
		status := l.Status()
		if slices.ContainsFunc(status, func(s RelayStatus) bool { return s.Connected }) {
			return nil
		}
		select {
		case <-changed:
		case <-l.ctx.Done():
			return ErrClosed
		case <-ctx.Done():
			errs := []error{fmt.Errorf("registered at no relay: %w", context.Cause(ctx))}
			for _, s := range status {
				errs = append(errs, s.Err)
			}
			return errors.Join(errs...)
		}
	}
}

func (l *Listener) changedLocked() {
	close(l.changed)
	l.changed = make(chan struct{})
}

// incoming is a circuit that waits for Accept, and the relay it came through.
type incoming struct {
	conn net.Conn
	from *registrar
}

// room takes a place in a relay's share of the backlog.
func (l *Listener) room(r *registrar) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.ctx.Err() != nil || r.coming >= max(1, l.cfg.Backlog/max(1, len(l.relays))) {
		return false
	}
	r.coming++
	l.work.Add(1)
	return true
}

// arrived gives a place back.
func (l *Listener) arrived(r *registrar) {
	l.mu.Lock()
	r.coming--
	l.mu.Unlock()
}

// accept comes for a circuit.
func (l *Listener) accept(r *registrar, id wire.CircuitID) {
	defer l.work.Done()
	ctx, cancel := context.WithTimeout(l.ctx, wire.RelayAcceptTimeout)
	defer cancel()
	ws, _, err := l.cfg.Network.open(ctx, r.url, strings.Replace(wire.RouteRelayAccept, "{circuit}", string(id), 1), "")
	if err != nil {
		l.log.Debug("circuit was lost", slog.Any("error", err))
		l.arrived(r)
		return
	}
	c := &circuit{Conn: wsconn.New(ws, wire.RelayMaxMessage), path: Path{Kind: PathRelay, Via: r.url}, id: id}
	select {
	case l.conns <- incoming{c, r}:
	case <-l.ctx.Done():
		l.arrived(r)
		_ = c.Close()
	}
}
