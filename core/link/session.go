package link

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"sync"
	"time"

	"github.com/drv-thru/drv-thru/core/key"
)

const (
	// openTimeout bounds opening a circuit, all relays together.
	openTimeout = 30 * time.Second
	// stagger is how long a relay has before the next is tried beside it
	// (RFC 8305 §5 suggests 250 ms).
	stagger = 250 * time.Millisecond
)

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
	// Log gets what happens to circuits; nil discards it.
	Log *slog.Logger
}

// Session is a client's connection to a builder. It is safe for concurrent use.
type Session struct {
	cfg           Config
	log           *slog.Logger
	control, bulk *lane

	ctx    context.Context
	cancel context.CancelFunc
	work   sync.WaitGroup

	mu      sync.Mutex
	closed  bool
	dialers []dialer // the one that worked last is first
}

// Dial opens a session: it returns once the builder has proved its identity on
// a circuit. The error is an [*UnreachableError] when no path led there; it
// wraps [ErrWrongPeer] if somebody else answered.
func Dial(ctx context.Context, cfg Config) (*Session, error) {
	relays, err := relayURLs(cfg.Relays)
	if err != nil {
		return nil, err
	}
	var dialers []dialer
	for _, u := range relays {
		dialers = append(dialers, &relayDialer{network: cfg.Network, relay: u, builder: cfg.Peer})
	}
	return newSession(ctx, cfg, dialers)
}

func newSession(ctx context.Context, cfg Config, dialers []dialer) (*Session, error) {
	s := &Session{cfg: cfg, log: cfg.Log, dialers: dialers}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	s.control = &lane{s: s, name: "control", pingTimeout: pingTimeout}
	s.bulk = &lane{s: s, name: "bulk", pingTimeout: bulkPingTimeout}
	if _, _, err := s.control.conn(ctx); err != nil {
		_ = s.Close()
		return nil, err
	}
	return s, nil
}

// Control carries small requests and events. It opens another circuit when it
// has lost its own; a request whose answer had not begun by then is sent once
// more if it has no body or one that can be had again (http.Request.GetBody),
// since every request of the protocol may be repeated.
func (s *Session) Control() http.RoundTripper { return s.control }

// Bulk carries uploads and downloads, apart from Control, so that neither
// waits behind the other. It is like Control in all else.
func (s *Session) Bulk() http.RoundTripper { return s.bulk }

// Warm begins to open the bulk circuit, for a caller that will soon need it.
func (s *Session) Warm() { s.bulk.warm() }

// Path returns the path that Control uses or used last.
func (s *Session) Path() Path { return s.control.lastPath() }

// Close ends the session and whatever is under way.
func (s *Session) Close() error {
	s.mu.Lock()
	s.closed = true
	s.mu.Unlock()
	s.cancel()
	s.control.close()
	s.bulk.close()
	s.work.Wait()
	return nil
}

// begin counts a goroutine that Close waits for; false after Close.
func (s *Session) begin() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return false
	}
	s.work.Add(1)
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
	return append([]dialer(nil), s.dialers...)
}

// lost tells why a request failed with its circuit.
func lost(p Path, err error) error {
	return fmt.Errorf("connection to the builder by %s was lost: %w", p, err)
}
