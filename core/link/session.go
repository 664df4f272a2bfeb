package link

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/drv-thru/drv-thru/core/key"
)

// openTimeout bounds opening a circuit, all relays together.
const openTimeout = 30 * time.Second

// Config is what a session needs.
type Config struct {
	// Identity is the client's key.
	Identity key.Secret
	// Peer is the builder.
	Peer key.ID
	// Relays are URLs, best first; see [RelayURL].
	Relays []string
	// Network says how to reach them.
	Network Network
	// Addresses are the builder's own, as a ticket may name them.
	Addresses []netip.AddrPort
	// Direct makes the session look for ways around the relays; nil: it does not.
	// In a browser it has no effect.
	Direct *Direct
	// Header is sent with the session's own requests: who asks, and which
	// protocol's version.
	Header http.Header
	// Log gets what happens to circuits; nil discards it.
	Log *slog.Logger
}

// Direct is what looking for direct paths needs.
type Direct struct {
	// STUN are servers ("host:port") that tell how the network translates
	// addresses: two on different hosts, to tell its kind. Without any, those
	// that the relays name are asked.
	STUN []string
	// Rand draws tokens.
	Rand io.Reader

	// For tests of this package: stay inside one host, do without TCP, wait for TCP and
	// take the direct path however busy the machine is.
	loopback, quicOnly, patient bool
}

// Session is a client's connection to a builder. It is safe for concurrent use.
type Session struct {
	cfg     Config
	log     *slog.Logger
	control *lane
	bulk    *pool
	base    *way // these two

	ctx    context.Context
	cancel context.CancelFunc
	work   sync.WaitGroup

	// starting is held to cancel ctx and to add to work. It is apart from mu, under
	// which lanes and pools are asked and set to work, which then call start.
	starting sync.Mutex

	mu          sync.Mutex
	circuits    []*circuit // see watch
	dialers     []dialer   // the one that worked last is first
	direct      []*way
	lastBulk    map[bool]*way // what was chosen last, for uploads under true
	baseWarmed  time.Time
	lastMove    time.Time
	firstDirect chan struct{} // closed by the first direct way, nil from then on
	search      search
}

// Dial opens a session: it returns once the builder has proved its identity on
// a circuit. The error is an [*UnreachableError] when no path led there; it
// wraps [ErrWrongPeer] if somebody else answered.
func Dial(ctx context.Context, cfg Config) (*Session, error) {
	relays, err := RelayURLs(cfg.Relays)
	if err != nil {
		return nil, err
	}
	var dialers []dialer
	for _, u := range relays {
		dialers = append(dialers, &relayDialer{network: cfg.Network, relay: u, builder: cfg.Peer})
	}
	for _, at := range cfg.Addresses {
		dialers = append(dialers, tcpDialer{at})
	}
	return newSession(ctx, cfg, dialers)
}

func newSession(ctx context.Context, cfg Config, dialers []dialer) (*Session, error) {
	s := &Session{cfg: cfg, log: cfg.Log, dialers: dialers, lastBulk: make(map[bool]*way)}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	s.control = &lane{s: s}
	s.bulk = &pool{s: s, alive: s.control.alive, open: func(ctx context.Context) (*opened, error) { return s.openBase(ctx, protoBulk) }}
	s.base = &way{control: s.control, bulk: s.bulk, path: s.control.lastPath, ready: s.control.isOpen}
	first := make(chan struct{})
	s.firstDirect = first
	looked := s.lookForDirect()
	if err := s.reach(ctx, first, looked); err != nil {
		_ = s.Close()
		return nil, err
	}
	return s, nil
}

// reach waits until the builder has proved itself on a circuit, or on a direct
// path if that is there first.
func (s *Session) reach(ctx context.Context, first, looked <-chan struct{}) error {
	if len(s.cfg.Addresses) == 0 || looked == nil {
		_, _, err := s.control.conn(ctx)
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	opened := make(chan error, 1)
	go func() {
		_, _, err := s.control.conn(ctx)
		opened <- err
	}()
	select {
	case err := <-opened:
		if err == nil {
			return nil
		}
		// The ticket's addresses may still answer on UDP.
		select {
		case <-first:
			return nil
		case <-looked:
		case <-ctx.Done():
		}
		select {
		case <-first:
			return nil
		default:
			return err
		}
	case <-first:
		return nil
	}
}

// Control carries small requests and events. It opens another circuit when it
// has lost its own; a request whose answer had not begun by then is sent once
// more if it has no body or one that can be had again (http.Request.GetBody),
// since every request of the protocol may be repeated.
//
// With direct paths, each request takes the one that suits it: small ones that
// with the shortest round trip, large ones that with the best goodput.
func (s *Session) Control() http.RoundTripper { return &chooser{s, false} }

// Bulk carries uploads and downloads, apart from Control and from each other, up to
// eight at once. An answer has to be read to its end, or closed, which costs its
// circuit when much of it is left. It is like Control in all else.
func (s *Session) Bulk() http.RoundTripper { return &chooser{s, true} }

// Warm begins to open n circuits for bulk, for a caller that will soon need them.
func (s *Session) Warm(n int) {
	w := s.base
	s.mu.Lock()
	if alive := s.aliveLocked(); len(alive) > 0 {
		w = alive[0]
	}
	s.mu.Unlock()
	if p, ok := w.bulk.(*pool); ok {
		p.warm(n)
	}
}

// Path returns the path that Control's next request takes.
func (s *Session) Path() Path { return s.forControl().path() }

// Explain tells which paths are in use, and if none of them is direct, why not.
func (s *Session) Explain() string {
	control := s.forControl()
	s.mu.Lock()
	bulk := s.lastBulk[false]
	if bulk == nil || bulk.dead() {
		bulk = control
	}
	alive := len(s.aliveLocked())
	s.mu.Unlock()
	text := bulk.path().String()
	if control.path() != bulk.path() {
		text += ", small requests by " + control.path().String()
	}
	switch {
	case bulk.direct:
		return text
	case alive > 0:
		return text + " (a direct path is there, but slower)"
	case bulk.path().Kind != PathRelay:
		return text
	}
	if why := s.search.why(); why != "" {
		text += " (" + why + ")"
	}
	return text
}

// Close ends the session and whatever is under way.
func (s *Session) Close() error {
	s.starting.Lock()
	s.cancel()
	s.starting.Unlock()
	var work sync.WaitGroup
	work.Go(s.control.close)
	s.bulk.close()
	work.Wait()
	s.work.Wait()
	// Those that take no more requests, after a builder's restart, have no other owner.
	s.mu.Lock()
	left := s.circuits
	s.mu.Unlock()
	for _, c := range left {
		if !c.closed.Load() {
			work.Go(func() { _ = c.Close() })
		}
	}
	work.Wait()
	return nil
}

// start runs f in a goroutine that Close waits for; false after Close.
func (s *Session) start(f func()) bool {
	s.starting.Lock()
	defer s.starting.Unlock()
	if s.ctx.Err() != nil {
		return false
	}
	s.work.Go(f)
	return true
}

// worked moves a path to the front.
func (s *Session) worked(p Path) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i, d := range s.dialers {
		if d.path() == p {
			copy(s.dialers[1:i+1], s.dialers[:i])
			s.dialers[0] = d
			return
		}
	}
}

func (s *Session) paths() []dialer {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.dialers)
}

// lost tells why a request failed with its circuit.
func lost(p Path, err error) error {
	return fmt.Errorf("connection to the builder by %s was lost: %w", p, err)
}
