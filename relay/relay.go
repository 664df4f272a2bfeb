// Package relay is the relay server: builders register with it, clients dial
// them through it, and it joins the two WebSockets of a circuit. The protocol
// is specified in core/wire/relay.go.
//
// A relay sees endpoint IDs, addresses and byte counts, and passes ciphertext.
// It keeps no state on disk and shares none with other relays. The package
// opens no listener and reads no configuration of its own: cmd/drv-thru-relay
// and the relay inside "drv-thru serve" give it both.
package relay

import (
	"context"
	"crypto/rand"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"

	"github.com/drv-thru/drv-thru/core/key"
	"github.com/drv-thru/drv-thru/core/wire"
)

// headerTimeout is how long a request's header may take.
const headerTimeout = 10 * time.Second

// Config is what a relay is made of. The zero value is usable.
type Config struct {
	// Hosts are the names by which builders know this relay, "host" (on any
	// port) or "host:port". A registration for another name is refused, which
	// keeps a relay from registering at this one with what builders sent to
	// it. Without any, the Host header is taken at its word, and that
	// protection is missing: only the builder's own key still guards circuits.
	// See [Server.SetHosts].
	Hosts []string
	// Limits bound what peers may use; zero fields have defaults.
	Limits Limits
	// Access says which builders may register; see [Server.SetAccess].
	Access Access
	// ClientAddr tells who sent a request, for limits by address; nil takes
	// the peer of the TCP connection. See [ForwardedBy].
	ClientAddr func(*http.Request) netip.Addr
	// Proxy reports an address that many peers come from, so that limits on
	// the connections of one address do not count there; nil knows none.
	Proxy func(netip.Addr) bool
	// STUN is where the relay answers STUN ("host:port", or ":port" for the
	// relay's own host), to be told to peers; "" is nowhere.
	STUN string
	// Log gets what happens; nil discards it.
	Log *slog.Logger
	// LogAddresses puts the addresses of peers into the log.
	LogAddresses bool
	// Rand gives nonces and circuit IDs; nil is crypto/rand.
	Rand io.Reader
}

// Server is a relay. Make it with [New].
type Server struct {
	cfg      Config
	limits   Limits
	log      *slog.Logger
	mux      *http.ServeMux
	rate     rateLimiter
	metrics  *metrics
	pings    pinger
	stunRate rateLimiter
	conns    *pendingConns // of Serve
	clients  *pendingConns // of ServeClients
	speed    *rate.Limiter // of all circuits; nil is no limit
	buffers  atomic.Int64  // of circuits, in use
	full     seldom        // that a limit is reached
	// work counts the goroutines of registrations and circuits.
	work sync.WaitGroup
	// closing ends when Shutdown begins, aborted when its patience is over.
	closing, aborted context.Context
	close, abort     context.CancelFunc

	mu            sync.Mutex
	builders      map[key.ID]*registration
	registrations places // listen sockets, proved or not
	pending       map[wire.CircuitID]*pending
	circuits      places // open and half open
	circuitsTo    map[key.ID]*places
	refusals      counter // sockets that are told why they are refused
	servers       []*http.Server
	packets       []*net.UDPConn
	access        Access
	hosts         []string
}

// New makes a relay.
func New(cfg Config) *Server {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.Rand == nil {
		cfg.Rand = rand.Reader
	}
	if cfg.ClientAddr == nil {
		cfg.ClientAddr = peerAddr
	}
	s := &Server{
		cfg:        cfg,
		limits:     cfg.Limits.WithDefaults(),
		log:        cfg.Log,
		mux:        http.NewServeMux(),
		builders:   map[key.ID]*registration{},
		pending:    map[wire.CircuitID]*pending{},
		circuitsTo: map[key.ID]*places{},
	}
	s.rate = rateLimiter{perSecond: rate.Limit(s.limits.HandshakesPerSecond), burst: s.limits.HandshakeBurst}
	s.access = cfg.Access
	s.SetHosts(cfg.Hosts)
	s.metrics = newMetrics(s)
	s.stunRate = rateLimiter{perSecond: rate.Limit(s.limits.STUNPerSecond), burst: int(min(max(1, 2*s.limits.STUNPerSecond), 1<<30))}
	s.speed = newSpeed(s.limits.BytesPerSecond)
	s.conns, s.clients = s.newPendingConns(), s.newPendingConns()
	s.closing, s.close = context.WithCancel(context.Background())
	s.aborted, s.abort = context.WithCancel(context.Background())
	s.mux.HandleFunc("GET "+wire.RouteRelayListen, s.handshake("listen", s.listen))
	s.mux.HandleFunc("GET "+wire.RouteRelayDial, s.handshake("dial", s.dial))
	s.mux.HandleFunc("GET "+wire.RouteRelayAccept, s.handshake("accept", s.accept))
	s.mux.HandleFunc("GET /healthz", s.health)
	s.mux.HandleFunc("GET /readyz", s.ready)
	s.mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		wire.WriteError(w, wire.Errorf(wire.CodeNotFound, "this is a drv-thru relay; it has no page here"))
	})
	return s
}

// ServeHTTP answers one request.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) { s.mux.ServeHTTP(w, r) }

// Serve answers connections of l, which may be plain or TLS, until Shutdown,
// and then returns [http.ErrServerClosed].
func (s *Server) Serve(l net.Listener) error { return s.serve(l, s, s.conns) }

// ServeClients is [Server.Serve] for a listener at which no builder can
// register: the relay inside a builder, which registers elsewhere. Connections
// that ask for nothing are counted apart, as clients may have the builder's own
// address: behind a proxy there all of them do.
func (s *Server) ServeClients(l net.Listener) error { return s.serve(l, clientsOnly(s), s.clients) }

// clientsOnly keeps builders out.
func clientsOnly(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == wire.RouteRelayListen || strings.HasPrefix(r.URL.Path, "/v1/accept/") {
			wire.WriteError(w, wire.Errorf(wire.CodeNotFound, "this relay serves one builder only"))
			return
		}
		h.ServeHTTP(w, r)
	})
}

// withoutBodies answers without a look at a request's body, which none here has.
// net/http would read it first, and a connection of a proxy, which no limit for an
// address counts, would last for as long as whoever is behind it sends nothing.
func withoutBodies(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.ContentLength != 0 {
			w.Header().Set("Connection", "close")
		}
		h.ServeHTTP(w, r)
	})
}

func (s *Server) serve(l net.Listener, h http.Handler, conns *pendingConns) error {
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true) // WebSockets are HTTP/1.1
	// Longer than a dial waits for its builder. Else whoever does not send the body
	// that a request tells of, or reads no answer, stays for as long as it likes. A
	// WebSocket is not bound by it.
	longest := headerTimeout + sendTimeout + s.limits.HalfOpen + sendTimeout
	srv := &http.Server{
		Handler:           withoutBodies(h),
		Protocols:         protocols,
		ReadHeaderTimeout: headerTimeout,
		ReadTimeout:       longest,
		WriteTimeout:      longest,
		IdleTimeout:       time.Minute,
		MaxHeaderBytes:    16 << 10,
		ConnState:         conns.state,
		// It would name addresses.
		ErrorLog: slog.NewLogLogger(slog.DiscardHandler, slog.LevelDebug),
	}
	if s.cfg.LogAddresses {
		srv.ErrorLog = slog.NewLogLogger(s.log.Handler(), slog.LevelDebug)
	}
	s.mu.Lock()
	if s.closing.Err() != nil {
		s.mu.Unlock()
		return errors.Join(http.ErrServerClosed, l.Close())
	}
	s.servers = append(s.servers, srv)
	s.mu.Unlock()
	return srv.Serve(&toldListener{Listener: l, s: s})
}

// Shutdown takes no new work, tells every builder that the relay goes, and
// waits for the circuits that are open. Both ends of those that are left when
// ctx ends are told so too before they are closed, and ctx's error is returned.
func (s *Server) Shutdown(ctx context.Context) error {
	s.mu.Lock()
	s.close()
	servers, packets := s.servers, s.packets
	s.mu.Unlock()
	for _, c := range packets {
		_ = c.Close()
	}
	for _, srv := range servers {
		// Closes listeners and idle connections; circuits are not its own.
		if srv.Shutdown(ctx) != nil {
			_ = srv.Close()
		}
	}
	done := make(chan struct{})
	go func() {
		s.work.Wait()
		close(done)
	}()
	defer s.abort()
	select {
	case <-done:
		return nil
	case <-ctx.Done():
	}
	s.abort()
	<-done
	return ctx.Err()
}

func (s *Server) health(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	_, _ = io.WriteString(w, "ok\n")
}

// ready answers whether the relay takes new work.
func (s *Server) ready(w http.ResponseWriter, r *http.Request) {
	if s.closing.Err() != nil {
		wire.WriteError(w, closingError())
		return
	}
	s.health(w, r)
}

// Stats is what a relay does at the moment.
type Stats struct {
	Builders int // registered
	Circuits int // open, and dialled but not open yet
	HalfOpen int // of them: the builder has not come yet
}

// Stats counts.
func (s *Server) Stats() Stats {
	s.mu.Lock()
	defer s.mu.Unlock()
	return Stats{Builders: len(s.builders), Circuits: s.circuits.all, HalfOpen: len(s.pending)}
}
