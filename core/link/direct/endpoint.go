//go:build !js && !wasip1

package direct

import (
	"context"
	"crypto/tls"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/pion/stun/v3"
	"github.com/quic-go/quic-go"
	"golang.org/x/time/rate"

	"github.com/drv-thru/drv-thru/core/wire"
)

// QUIC's settings, of both ends. A dead path is known after silence of a
// keepalive and an idle time: 6.5 s. Windows are those of HTTP/2 (package link).
const (
	keepAlive        = 1500 * time.Millisecond
	idleTimeout      = 5 * time.Second
	handshakeTimeout = 3 * time.Second
	streamWindow     = 16 << 20
	connWindow       = 32 << 20
	maxStreams       = 250
	// strangerWindow is what a listening end takes at first of all streams of who has yet
	// to show that it is allowed: bytes that come before those that they follow wait in the
	// packets that they came in, which hold up to eleven times as much. With what is read
	// the window grows, so that uploads are no slower.
	strangerWindow = 512 << 10
	// firstPackets is the size of packets before QUIC has found out what the line
	// takes: the least that it allows (RFC 9000 §14). Its default, 1280, is more than
	// fits where the line takes 1280 with the headers, as many tunnels do.
	firstPackets = 1200
)

func quicConfig() *quic.Config {
	return &quic.Config{
		HandshakeIdleTimeout:           handshakeTimeout,
		MaxIdleTimeout:                 idleTimeout,
		KeepAlivePeriod:                keepAlive,
		InitialStreamReceiveWindow:     2 << 20,
		MaxStreamReceiveWindow:         streamWindow,
		InitialConnectionReceiveWindow: 4 << 20,
		MaxConnectionReceiveWindow:     connWindow,
		MaxIncomingStreams:             maxStreams,
		InitialPacketSize:              firstPackets,
	}
}

const (
	// All packets that punching sends are within this, whoever asks for them; those
	// that one group asks for within half of it.
	punchesPerSecond = 400
	punchBurst       = 800
	// maxPunches bounds the exchanges that are under way.
	maxPunches = 128
	// maxKnown bounds the addresses whose owners have shown that they get
	// what is sent there.
	maxKnown = 1024
	knownFor = 30 * time.Second
)

// Endpoint is one UDP socket. QUIC owns it; STUN and punch packets go through
// QUIC's hands, so that one port serves all three and the kernel's segmentation
// offload stays usable.
type Endpoint struct {
	conn   *net.UDPConn
	quic   *quic.Transport
	cancel context.CancelFunc
	done   chan struct{}
	budget Quota[string] // of groups

	mu      sync.Mutex
	stun    map[[stun.TransactionIDSize]byte]func(netip.AddrPort)
	punches map[wire.PathToken]*Punch
	known   map[netip.AddrPort]time.Time
}

// Open opens a socket at an address; the zero address is any free port of all
// addresses, IPv4 and IPv6. admit, if not nil, is asked before anything is done
// for a stranger who wants to connect; the context ends with the connection.
func Open(at netip.AddrPort, admit func(context.Context, netip.AddrPort) error) (*Endpoint, error) {
	var local *net.UDPAddr
	if at != (netip.AddrPort{}) {
		local = net.UDPAddrFromAddrPort(at)
	}
	conn, err := net.ListenUDP("udp", local)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(context.Background())
	e := &Endpoint{
		conn: conn, cancel: cancel, done: make(chan struct{}),
		budget: Quota[string]{
			PerSecond: punchesPerSecond / 2, Burst: punchBurst / 2, All: rate.NewLimiter(punchesPerSecond, punchBurst),
		},
		stun:    make(map[[stun.TransactionIDSize]byte]func(netip.AddrPort)),
		punches: make(map[wire.PathToken]*Punch),
		known:   make(map[netip.AddrPort]time.Time),
	}
	e.quic = &quic.Transport{
		Conn: gathering(conn),
		// A Retry costs strangers a round trip and spares this host the work
		// for forged addresses.
		VerifySourceAddress: func(a net.Addr) bool { return !e.isKnown(addrPort(a)) },
	}
	if admit != nil {
		e.quic.ConnContext = func(ctx context.Context, c *quic.ClientInfo) (context.Context, error) {
			return ctx, admit(ctx, addrPort(c.RemoteAddr))
		}
	}
	go e.read(ctx)
	return e, nil
}

// Port returns the socket's port.
func (e *Endpoint) Port() uint16 { return addrPort(e.conn.LocalAddr()).Port() }

// Addr returns where the socket listens.
func (e *Endpoint) Addr() netip.AddrPort { return addrPort(e.conn.LocalAddr()) }

// Listen takes QUIC connections.
func (e *Endpoint) Listen(cfg *tls.Config) (*quic.Listener, error) {
	c := quicConfig()
	c.InitialConnectionReceiveWindow = strangerWindow
	return e.quic.Listen(cfg, c)
}

// Dial opens a QUIC connection from the socket.
func (e *Endpoint) Dial(ctx context.Context, to netip.AddrPort, cfg *tls.Config) (*quic.Conn, error) {
	return e.quic.Dial(ctx, net.UDPAddrFromAddrPort(to), cfg, quicConfig())
}

// Close closes the socket and with it every connection.
func (e *Endpoint) Close() error {
	e.cancel()
	err := e.quic.Close()
	_ = e.conn.Close()
	<-e.done
	return err
}

func (e *Endpoint) send(p []byte, to netip.AddrPort) error {
	_, err := e.quic.WriteTo(p, net.UDPAddrFromAddrPort(to))
	return err
}

// read hands out what is not QUIC.
func (e *Endpoint) read(ctx context.Context) {
	defer close(e.done)
	buf := make([]byte, 1500)
	for {
		n, from, err := e.quic.ReadNonQUICPacket(ctx, buf)
		if err != nil {
			return
		}
		e.packet(buf[:n], addrPort(from))
	}
}

func (e *Endpoint) packet(p []byte, from netip.AddrPort) {
	if token, kind, ok := wire.ParsePunch(p); ok {
		e.mu.Lock()
		punch := e.punches[token]
		e.mu.Unlock()
		if punch != nil {
			punch.packet(kind, from)
		}
		return
	}
	if !isSTUN(p) {
		return
	}
	if id, at, ok := mappedAddress(p); ok {
		e.mu.Lock()
		found := e.stun[id]
		e.mu.Unlock()
		if found != nil {
			found(at)
		}
	}
}

// expect names who gets the answer to a STUN request; nil is nobody any more.
func (e *Endpoint) expect(id [stun.TransactionIDSize]byte, found func(netip.AddrPort)) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if found == nil {
		delete(e.stun, id)
	} else {
		e.stun[id] = found
	}
}

// know remembers that a peer of an exchange gets what is sent to an address.
func (e *Endpoint) know(at netip.AddrPort, now time.Time) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if len(e.known) >= maxKnown {
		for a, since := range e.known {
			if now.Sub(since) > knownFor {
				delete(e.known, a)
			}
		}
	}
	if len(e.known) < maxKnown {
		e.known[at] = now
	}
}

func (e *Endpoint) isKnown(at netip.AddrPort) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	since, ok := e.known[at]
	return ok && time.Since(since) < knownFor
}

// addrPort makes one form of each address: IPv4 never as IPv6.
func addrPort(a net.Addr) netip.AddrPort {
	u, ok := a.(*net.UDPAddr)
	if !ok {
		return netip.AddrPort{}
	}
	at := u.AddrPort()
	return netip.AddrPortFrom(at.Addr().Unmap(), at.Port())
}
