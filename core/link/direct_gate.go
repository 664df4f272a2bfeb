//go:build !js && !wasip1

package link

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"time"

	"github.com/quic-go/quic-go"
	"github.com/quic-go/quic-go/http3"
	"golang.org/x/time/rate"

	"github.com/drv-thru/drv-thru/core/link/direct"
	"github.com/drv-thru/drv-thru/core/link/wsconn"
)

// What anyone may ask of a builder's open ports: a handshake, of which so many
// are taken; then a request that the builder allows, soon.
const (
	maxDirect          = 2048 // connections
	maxDirectPerHost   = 128  // connections from one IPv4 address or IPv6 /64
	maxHandshakes      = 1024 // at once, by TCP: more than a few hosts hold up that never go on
	handshakesEach     = 20   // a second from one host
	handshakesAll      = 200  // a second
	acceptRetryPause   = 50 * time.Millisecond
	handshakeBurstEach = 40
)

var errFull = errors.New("too many direct connections")

// limiter counts connections.
type limiter struct {
	mu    sync.Mutex
	total int
	hosts map[netip.Prefix]int
	quota direct.Quota[netip.Prefix]
}

// enter lets a connection in; leave is to be called once, when it ends.
func (l *limiter) enter(from netip.Addr, now time.Time) (leave func(), err error) {
	bits := 32
	if from = from.Unmap(); !from.Is4() {
		bits = 64
	}
	host, err := from.WithZone("").Prefix(bits)
	if err != nil {
		return nil, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.hosts == nil {
		l.hosts = make(map[netip.Prefix]int)
		l.quota.PerSecond, l.quota.Burst = handshakesEach, handshakeBurstEach
		l.quota.All = rate.NewLimiter(handshakesAll, handshakesAll)
	}
	if l.total >= maxDirect || l.hosts[host] >= maxDirectPerHost || !l.quota.Take(host, now) {
		return nil, errFull
	}
	l.total++
	l.hosts[host]++
	return func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.total--
		if l.hosts[host]--; l.hosts[host] == 0 {
			delete(l.hosts, host)
		}
	}, nil
}

// welcome reports whether a request may go on to the handlers: on a direct
// connection the first has to be one that the builder allows.
func (d *DirectListener) welcome(r *http.Request) bool {
	a := arrivalOf(r.Context())
	if a != nil && a.settled() {
		return true
	}
	if _, err := d.authorize(r); err != nil {
		return a == nil
	}
	d.allowed(a, r)
	return true
}

func arrivalOf(ctx context.Context) *arrival {
	if p, ok := ctx.Value(connKey{}).(*quicPeer); ok {
		return &p.arrived
	}
	if c := circuitOf(ctx); c != nil && c.path.Kind == PathDirectTCP {
		return &c.arrived
	}
	return nil
}

// quicPeer is what a request by QUIC knows of its connection.
type quicPeer struct {
	conn    *quic.Conn
	arrived arrival
}

func (p *quicPeer) path() Path {
	return Path{Kind: PathDirectQUIC, Via: p.conn.RemoteAddr().String()}
}
func (p *quicPeer) close() {
	_ = p.conn.CloseWithError(quic.ApplicationErrorCode(http3.ErrCodeNoError), "")
}

// gate is a net.Listener of TLS connections whose handshakes are done.
type gate struct {
	net.Listener
	tls    *tls.Config
	limit  *limiter
	arrive func(*arrival, tls.ConnectionState, func())
	conns  chan net.Conn
	slots  chan struct{}
	done   chan struct{}
	once   sync.Once
}

func newGate(l net.Listener, cfg *tls.Config, limit *limiter) *gate {
	return &gate{
		Listener: l, tls: cfg, limit: limit,
		conns: make(chan net.Conn), slots: make(chan struct{}, maxHandshakes), done: make(chan struct{}),
	}
}

func (g *gate) Accept() (net.Conn, error) {
	select {
	case c := <-g.conns:
		return c, nil
	case <-g.done:
		return nil, net.ErrClosed
	}
}

func (g *gate) Close() error {
	g.once.Do(func() { close(g.done) })
	return g.Listener.Close()
}

// run accepts until the listener is closed.
func (g *gate) run(ctx context.Context) {
	var work sync.WaitGroup
	defer work.Wait()
	for {
		select {
		case g.slots <- struct{}{}:
		case <-g.done:
			return
		}
		c, err := g.Listener.Accept()
		if err != nil {
			<-g.slots
			select {
			case <-g.done:
				return
			case <-time.After(acceptRetryPause): // out of descriptors, perhaps
			}
			continue
		}
		at := remote(c)
		leave, err := g.limit.enter(at.Addr(), time.Now())
		if err != nil {
			<-g.slots
			_ = c.Close()
			continue
		}
		work.Go(func() {
			defer func() { <-g.slots }()
			g.shake(ctx, c, at, leave)
		})
	}
}

func remote(c net.Conn) netip.AddrPort {
	if a, ok := c.RemoteAddr().(*net.TCPAddr); ok {
		at := a.AddrPort()
		return netip.AddrPortFrom(at.Addr().Unmap(), at.Port())
	}
	return netip.AddrPort{}
}

// shake does a handshake and hands the connection over.
func (g *gate) shake(ctx context.Context, c net.Conn, at netip.AddrPort, leave func()) {
	wsconn.Tune(c)
	left := sync.OnceFunc(leave)
	raw := &circuit{
		Conn: &gathering{Conn: c}, path: Path{Kind: PathDirectTCP, Via: at.String()},
		ended: func(bool) { left() },
	}
	conn := tls.Server(raw, g.tls)
	ctx, cancel := context.WithTimeout(ctx, handshakeTimeout)
	defer cancel()
	if err := conn.HandshakeContext(ctx); err != nil {
		_ = raw.Close()
		return
	}
	g.arrive(&raw.arrived, conn.ConnectionState(), func() { _ = raw.Close() })
	select {
	case g.conns <- conn:
	case <-g.done:
		_ = raw.Close()
	}
}
