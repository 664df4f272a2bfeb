//go:build !js && !wasip1

package link

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/quic-go/quic-go"
	"github.com/quic-go/quic-go/http3"
	"golang.org/x/time/rate"

	"github.com/drv-thru/drv-thru/core/key"
	"github.com/drv-thru/drv-thru/core/link/direct"
	"github.com/drv-thru/drv-thru/core/link/portmap"
	"github.com/drv-thru/drv-thru/core/wire"
)

// observeEvery is how often a builder asks the STUN servers: often enough that
// address translators keep its port (RFC 4787 REQ-5 asks them for two minutes,
// many have thirty seconds).
const observeEvery = 25 * time.Second

// DirectConfig is what a builder's direct paths need.
type DirectConfig struct {
	// Identity is the builder's key.
	Identity key.Secret
	// Listen is the address for UDP and TCP; port 0 is any free one, and so is
	// the zero value, at all addresses.
	Listen netip.AddrPort
	// Announce are addresses that clients are told beside those that were found
	// out, such as those of a forwarded port.
	Announce []netip.AddrPort
	// STUN returns servers ("host:port") that tell how the network translates
	// addresses, as they are known now; nil is none.
	STUN func() []string
	// MapPorts asks the router for a port, see package portmap.
	MapPorts bool
	// Authorize refuses requests of whom the builder does not know, and tells who
	// shares with whom of the others: one ticket may have any number of clients. Who
	// has sent no other one soon after connecting is disconnected.
	Authorize func(*http.Request) (group string, err error)
	// Log gets what happens; nil discards it.
	Log *slog.Logger

	// For tests of this package: stay inside one host, tell nobody of TCP.
	loopback, quicOnly bool
}

// DirectListener takes a builder's direct connections.
type DirectListener struct {
	cfg    DirectConfig
	log    *slog.Logger
	e      *direct.Endpoint
	tcp    *gate
	quic   *quic.Listener
	gate   limiter
	each   direct.Quota[key.ID] // exchanges of a client's
	quota  direct.Quota[string] // exchanges of a group's, and all
	mapper *portmap.Keeper
	ctx    context.Context
	cancel context.CancelFunc
	work   sync.WaitGroup
	renew  chan struct{}

	mu   sync.Mutex
	nat  wire.NAT
	seen []netip.AddrPort

	acquaintances
}

// ListenDirect opens the sockets. Nothing is served before [DirectListener.Serve].
func ListenDirect(cfg DirectConfig) (*DirectListener, error) {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	d := &DirectListener{
		cfg: cfg, log: cfg.Log, renew: make(chan struct{}, 1), nat: wire.NATUnknown,
		each: direct.Quota[key.ID]{PerSecond: 0.5, Burst: 8},
		// An exchange takes five seconds: a group's are half of what there may be at once.
		quota: direct.Quota[string]{PerSecond: 5, Burst: 40, All: rate.NewLimiter(20, 100)},
	}
	d.ctx, d.cancel = context.WithCancel(context.Background())
	if err := d.open(); err != nil {
		d.cancel()
		return nil, fmt.Errorf("direct paths: %w", err)
	}
	if cfg.MapPorts {
		d.mapper = portmap.Keep(d.ctx, d.e.Port(), d.log)
	}
	d.work.Go(d.watch)
	return d, nil
}

func (d *DirectListener) open() error {
	tlsCfg, err := d.cfg.Identity.ServerTLS()
	if err != nil {
		return err
	}
	for attempt := 0; ; attempt++ {
		e, err := direct.Open(d.cfg.Listen, d.admit)
		if err != nil {
			return err
		}
		// One number for both is easier to forward and to remember.
		at := netip.AddrPortFrom(d.cfg.Listen.Addr(), e.Port())
		address := ":" + strconv.Itoa(int(e.Port()))
		if at.Addr().IsValid() {
			address = at.String()
		}
		l, err := net.Listen("tcp", address)
		if err == nil {
			d.e, d.tcp = e, newGate(l, circuitTLS(tlsCfg.Clone(), protoControl, protoBulk), &d.gate)
			break
		}
		_ = e.Close()
		if d.cfg.Listen.Port() != 0 || attempt == 10 {
			return err
		}
	}
	h3 := tlsCfg.Clone()
	h3.NextProtos = []string{http3.NextProtoH3}
	if d.quic, err = d.e.Listen(h3); err != nil {
		return errors.Join(err, d.e.Close(), d.tcp.Close())
	}
	return nil
}

// admit bounds what strangers' QUIC connections cost.
func (d *DirectListener) admit(ctx context.Context, from netip.AddrPort) error {
	leave, err := d.gate.enter(from.Addr(), time.Now())
	if err == nil {
		context.AfterFunc(ctx, leave)
	}
	return err
}

// Port returns the number of the UDP and the TCP port.
func (d *DirectListener) Port() uint16 { return d.e.Port() }

// watch keeps what is known of the network up to date.
func (d *DirectListener) watch() {
	if d.mapper != nil {
		defer d.mapper.Wait()
	}
	changed, err := direct.Watch(d.ctx)
	if err != nil {
		d.log.Debug("changes of the network are not noticed", slog.Any("error", err))
	}
	tick := time.NewTicker(observeEvery)
	defer tick.Stop()
	for {
		var servers []string
		if d.cfg.STUN != nil {
			servers = d.cfg.STUN()
		}
		nat, seen := observe(d.ctx, d.e, servers)
		d.mu.Lock()
		d.nat, d.seen = nat, seen
		d.mu.Unlock()
		select {
		case <-d.ctx.Done():
			return
		case <-changed:
			if d.mapper != nil {
				d.mapper.Renew()
			}
		case <-tick.C:
		case <-d.renew:
		}
	}
}

// Renew looks at the network again: there are other STUN servers, or a relay was lost,
// perhaps because the router has another address.
func (d *DirectListener) Renew() {
	select {
	case d.renew <- struct{}{}:
	default:
	}
}

func (d *DirectListener) scope() direct.Scope {
	scope, err := direct.LocalScope()
	if err != nil {
		d.log.Debug("addresses of this host", slog.Any("error", err))
	}
	scope.Loopback = d.cfg.loopback
	return scope
}

// addresses returns where UDP and TCP may reach the builder.
func (d *DirectListener) addresses() (udp, tcp []netip.AddrPort) {
	scope := d.scope()
	own := scope.Addresses()
	if a := d.cfg.Listen.Addr(); a.IsValid() && !a.IsUnspecified() {
		own = []netip.Addr{a}
	}
	d.mu.Lock()
	seen := slices.Clone(d.seen)
	d.mu.Unlock()
	first := slices.Clone(d.cfg.Announce)
	var mappedTCP []netip.AddrPort
	if d.mapper != nil {
		m := d.mapper.Mapped()
		if m.UDP.IsValid() {
			first = append(first, m.UDP)
		}
		if m.TCP.IsValid() {
			mappedTCP = append(mappedTCP, m.TCP)
		}
	}
	udp = direct.Candidates(append(first, seen...), own, d.e.Port())
	tcp = direct.Candidates(append(slices.Clone(d.cfg.Announce), mappedTCP...), own, d.e.Port())
	if d.cfg.quicOnly {
		tcp = nil
	}
	return udp, tcp
}

// Addresses returns where clients may reach the builder without a relay's help:
// what tickets without relays hold.
func (d *DirectListener) Addresses() []netip.AddrPort {
	udp, tcp := d.addresses()
	d.mu.Lock()
	open := d.nat == wire.NATNone || d.nat == wire.NATUnknown
	d.mu.Unlock()
	for _, at := range udp {
		// A translated address leads here only while it is being punched.
		if open && !slices.Contains(tcp, at) && len(tcp) < wire.MaxCandidates {
			tcp = append(tcp, at)
		}
	}
	return tcp
}

// DirectStatus is how a builder's direct paths stand.
type DirectStatus struct {
	Port      uint16           `json:"port"`
	NAT       wire.NAT         `json:"nat"`
	Addresses []netip.AddrPort `json:"addresses"`
	// Mapping says by which protocol the router forwards a port, or why it does not.
	Mapping string `json:"mapping,omitempty"`
}

// Status returns how the direct paths stand.
func (d *DirectListener) Status() DirectStatus {
	udp, _ := d.addresses()
	d.mu.Lock()
	defer d.mu.Unlock()
	s := DirectStatus{Port: d.e.Port(), NAT: d.nat, Addresses: udp}
	if d.mapper != nil {
		s.Mapping = d.mapper.Mapped().String()
	}
	return s
}

// Handler puts the exchange of addresses before a builder's handler.
func (d *DirectListener) Handler(next http.Handler) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET "+wire.RoutePath, func(w http.ResponseWriter, r *http.Request) {
		if _, err := d.authorize(r); err != nil {
			wire.WriteError(w, err)
			return
		}
		w.WriteHeader(http.StatusNoContent)
	})
	mux.HandleFunc("POST "+wire.RoutePath, func(w http.ResponseWriter, r *http.Request) {
		answer, err := d.exchange(w, r)
		if err != nil {
			wire.WriteError(w, err)
			return
		}
		w.Header().Set("Content-Type", wire.TypeJSON)
		_ = json.NewEncoder(w).Encode(answer) // the peer is gone if this fails
	})
	mux.Handle("/", next)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set(wire.HeaderVersion, strconv.Itoa(wire.Version))
		if !d.welcome(r) {
			wire.WriteError(w, wire.CodeNoCredentials.Err())
			return
		}
		mux.ServeHTTP(w, r)
	})
}

func (d *DirectListener) authorize(r *http.Request) (group string, err error) {
	if d.cfg.Authorize == nil {
		return "", nil
	}
	return d.cfg.Authorize(r)
}

// exchange answers POST /v1/path.
func (d *DirectListener) exchange(w http.ResponseWriter, r *http.Request) (*wire.PathAnswer, error) {
	group, err := d.authorize(r)
	if err != nil {
		return nil, err
	}
	id, err := PeerID(r)
	if err != nil {
		return nil, wire.CodeNoCredentials.Err()
	}
	rc := http.NewResponseController(w)
	_ = rc.SetReadDeadline(time.Now().Add(handshakeTimeout)) // not every server has deadlines
	text, err := io.ReadAll(io.LimitReader(r.Body, wire.MaxPathDocument+1))
	if err != nil {
		return nil, wire.Errorf(wire.CodeBadRequest, "the document breaks off: %v", err)
	}
	_ = rc.SetReadDeadline(time.Time{})
	req, err := wire.ParsePathRequest(text)
	if err != nil {
		return nil, wire.Errorf(wire.CodeBadRequest, "%v", err)
	}
	if now := time.Now(); !d.each.Take(id, now) || !d.quota.Take(group, now) {
		return nil, wire.CodeRate.Err()
	}
	punch, err := d.e.Punch(group, req.Token, d.scope(), req.Candidates)
	if err != nil {
		return nil, wire.Errorf(wire.CodeRate, "%v", err)
	}
	udp, tcp := d.addresses()
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.ctx.Err() != nil {
		return nil, ErrClosed // Close waits, or has waited, for all work
	}
	d.work.Go(func() { punch.Run(d.ctx) })
	return &wire.PathAnswer{NAT: d.nat, UDP: udp, TCP: tcp}, nil
}

// Serve serves what a server made by [NewServer] serves, until Close.
func (d *DirectListener) Serve(srv *http.Server) error {
	h3 := &http3.Server{
		Handler:        uploads(srv.Handler),
		MaxHeaderBytes: maxHeader,
		ConnContext: func(ctx context.Context, c *quic.Conn) context.Context {
			p := &quicPeer{conn: c}
			d.limit(&p.arrived, c.ConnectionState().TLS, p.close)
			return context.WithValue(ctx, connKey{}, p)
		},
		Logger: slog.New(slog.DiscardHandler),
	}
	d.work.Go(func() {
		for {
			conn, err := d.quic.Accept(d.ctx)
			if err != nil {
				return
			}
			d.work.Go(func() { _ = h3.ServeQUICConn(conn) })
		}
	})
	stop := context.AfterFunc(d.ctx, func() { _ = h3.Close() })
	defer stop()
	d.tcp.arrive = d.limit
	d.work.Go(func() { d.tcp.run(d.ctx) })
	err := srv.Serve(d.tcp)
	if d.ctx.Err() != nil {
		err = http.ErrServerClosed
	}
	return err
}

// Close closes the sockets and every connection by QUIC.
func (d *DirectListener) Close() error {
	d.mu.Lock() // no request begins work from here on
	d.cancel()
	d.mu.Unlock()
	err := d.tcp.Close()
	_ = d.quic.Close()
	d.work.Wait()
	return errors.Join(err, d.e.Close())
}
