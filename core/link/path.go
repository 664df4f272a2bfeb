package link

import (
	"context"
	"net"
	"net/netip"
	"sync/atomic"
	"time"

	"github.com/drv-thru/drv-thru/core/link/wsconn"
	"github.com/drv-thru/drv-thru/core/wire"
)

// Path says how a circuit reaches the other end.
type Path struct {
	// Kind is how bytes travel.
	Kind PathKind
	// Via is the relay's URL, or the peer's address on a direct path.
	Via string
}

// PathKind says how bytes travel.
type PathKind string

// Kinds of paths.
const (
	PathRelay      PathKind = "relay"
	PathDirectTCP  PathKind = "direct-tcp"
	PathDirectQUIC PathKind = "direct-quic"
)

func (p Path) String() string {
	if p.Via == "" {
		return string(p.Kind)
	}
	return string(p.Kind) + " " + p.Via
}

// dialer is a way to reach one builder. The session asks it for circuits and
// does TLS and HTTP on them itself, so that the same pinned identities hold
// on every path.
type dialer interface {
	// path says what this is.
	path() Path
	// dial opens a circuit.
	dial(ctx context.Context) (*circuit, error)
}

// tcpDialer is the path to an address of the builder itself.
type tcpDialer struct{ at netip.AddrPort }

func (d tcpDialer) path() Path { return Path{Kind: PathDirectTCP, Via: d.at.String()} }

func (d tcpDialer) dial(ctx context.Context) (*circuit, error) {
	ctx, cancel := context.WithTimeout(ctx, directTimeout)
	defer cancel()
	var nd net.Dialer
	conn, err := nd.DialContext(ctx, "tcp", d.at.String())
	if err != nil {
		return nil, err
	}
	wsconn.Tune(conn)
	return &circuit{Conn: &gathering{Conn: conn}, path: d.path()}, nil
}

// directTimeout bounds connecting to an address.
const directTimeout = 5 * time.Second

// circuit is a raw circuit that knows its path.
type circuit struct {
	net.Conn
	path Path
	// id is what the relay calls it, for logs; "" on other paths.
	id wire.CircuitID
	// ended is told when it is closed, and whether that is well; may be nil.
	ended func(well bool)
	well  atomic.Bool
	// arrived is heeded by builders, see LimitStrangers and DirectListener.
	arrived arrival
	// moved counts bytes, both ways; heard is when the last came, as [sinceStart]
	// tells it.
	moved  atomic.Uint64
	heard  atomic.Int64
	closed atomic.Bool
}

// sinceStart is a time that no change of the clock changes.
func sinceStart() time.Duration { return time.Since(processStart) }

var processStart = time.Now()

// progress is a count that changes while bytes arrive, here or there: those that
// were written may wait in buffers for minutes, on a slow line.
func (c *circuit) progress() uint64 {
	if n, known := wsconn.Moved(c.Conn); known {
		return n
	}
	return c.moved.Load()
}

// circuitBelow finds the circuit that a connection stands on, nil for none.
func circuitBelow(c net.Conn) *circuit {
	for c != nil {
		switch t := c.(type) {
		case *circuit:
			return t
		case interface{ NetConn() net.Conn }:
			c = t.NetConn()
		default:
			return nil
		}
	}
	return nil
}

// Read reads, and says what a relay's goodbye means.
func (c *circuit) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	c.moved.Add(uint64(n))
	if n > 0 {
		c.heard.Store(int64(sinceStart()))
	}
	if err != nil && c.path.Kind == PathRelay {
		err = relayCause(err)
	}
	return n, err
}

// Write writes.
func (c *circuit) Write(p []byte) (int, error) {
	n, err := c.Conn.Write(p)
	c.moved.Add(uint64(n))
	return n, err
}

// Close closes the connection below.
func (c *circuit) Close() error {
	c.closed.Store(true)
	if c.ended != nil {
		c.ended(c.well.Load())
	}
	return c.Conn.Close()
}
