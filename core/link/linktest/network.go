// Package linktest is a network in memory for tests of links and relays. Unlike
// the loopback interface it works inside testing/synctest and in a browser,
// its connections can be cut or silenced, and it counts writes.
package linktest

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// Network is a set of listening addresses. The zero value is ready.
type Network struct {
	mu        sync.Mutex
	listeners map[string]*Listener
	dials     int
}

// ErrRefused is returned by dials to an address where nobody listens.
var ErrRefused = errors.New("connection refused")

// Listen listens on an address such as "relay.example:80".
func (n *Network) Listen(address string) *Listener {
	n.mu.Lock()
	defer n.mu.Unlock()
	l := &Listener{
		network: n,
		address: Addr(address),
		conns:   make(chan net.Conn),
		done:    make(chan struct{}),
	}
	if n.listeners == nil {
		n.listeners = map[string]*Listener{}
	}
	if n.listeners[address] != nil {
		panic("linktest: two listeners on " + address)
	}
	n.listeners[address] = l
	return l
}

// DialContext connects to a listener. Every connection comes from an address
// of its own unless the context has one, see [From].
func (n *Network) DialContext(ctx context.Context, _, address string) (net.Conn, error) {
	n.mu.Lock()
	l := n.listeners[address]
	n.dials++
	from, ok := ctx.Value(fromKey{}).(string)
	if !ok {
		from = fmt.Sprintf("10.0.%d.%d:1", n.dials/256%256, n.dials%256)
	}
	n.mu.Unlock()
	if l == nil {
		return nil, &net.OpError{Op: "dial", Net: "memory", Addr: Addr(address), Err: ErrRefused}
	}
	client, server := pair(Addr(from), Addr(address))
	select {
	case l.conns <- server:
		l.track(client, server)
		return client, nil
	case <-l.done:
		return nil, &net.OpError{Op: "dial", Net: "memory", Addr: Addr(address), Err: ErrRefused}
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

type fromKey struct{}

// From makes dials come from an address such as "192.0.2.1:1".
func From(ctx context.Context, address string) context.Context {
	return context.WithValue(ctx, fromKey{}, address)
}

// Addr is an address of a Network.
type Addr string

// Network returns "memory".
func (Addr) Network() string  { return "memory" }
func (a Addr) String() string { return string(a) }

// Listener is a net.Listener of a Network.
type Listener struct {
	network *Network
	address Addr
	conns   chan net.Conn
	done    chan struct{}

	mu     sync.Mutex
	closed bool
	open   []*Conn
}

var _ net.Listener = (*Listener)(nil)

func (l *Listener) track(conns ...*Conn) {
	l.mu.Lock()
	l.open = append(l.open, conns...)
	l.mu.Unlock()
}

// Accept waits for a connection.
func (l *Listener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.done:
		return nil, net.ErrClosed
	}
}

// Close stops listening; connections stay.
func (l *Listener) Close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return net.ErrClosed
	}
	l.closed = true
	close(l.done)
	l.network.mu.Lock()
	delete(l.network.listeners, string(l.address))
	l.network.mu.Unlock()
	return nil
}

// Addr returns the address.
func (l *Listener) Addr() net.Addr { return l.address }

// Cut breaks every connection that was made so far, both ends, without a word
// of what is above it.
func (l *Listener) Cut() {
	for _, c := range l.Conns() {
		_ = c.Close()
	}
}

// Silence makes every connection that was made so far swallow what is written,
// as a network does whose cable was pulled.
func (l *Listener) Silence() {
	for _, c := range l.Conns() {
		c.silent.Store(true)
	}
}

// Conns returns both ends of every connection that was made so far.
func (l *Listener) Conns() []*Conn {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.open)
}

// Conn is a connection of a Network.
type Conn struct {
	in, out       *pipe
	local, remote Addr
	silent        atomic.Bool
	writes        atomic.Int64
}

var _ net.Conn = (*Conn)(nil)

func pair(client, server Addr) (*Conn, *Conn) {
	a, b := newPipe(), newPipe()
	return &Conn{in: a, out: b, local: client, remote: server}, &Conn{in: b, out: a, local: server, remote: client}
}

// LocalAddr returns this end's address.
func (c *Conn) LocalAddr() net.Addr { return c.local }

// RemoteAddr returns the other end's address.
func (c *Conn) RemoteAddr() net.Addr { return c.remote }

// Writes returns how often Write was called.
func (c *Conn) Writes() int64 { return c.writes.Load() }

func (c *Conn) Read(p []byte) (int, error) { return c.in.read(p) }

func (c *Conn) Write(p []byte) (int, error) {
	c.writes.Add(1)
	if c.silent.Load() {
		return len(p), nil
	}
	return c.out.write(p)
}

// Close closes both directions; the other end reads what is on its way and
// then io.EOF.
func (c *Conn) Close() error {
	c.in.close(true)
	c.out.close(false)
	return nil
}

// SetDeadline sets both deadlines.
func (c *Conn) SetDeadline(t time.Time) error {
	_ = c.SetReadDeadline(t)
	return c.SetWriteDeadline(t)
}

// SetReadDeadline sets when Read gives up.
func (c *Conn) SetReadDeadline(t time.Time) error {
	c.in.setDeadline(&c.in.readDeadline, t)
	return nil
}

// SetWriteDeadline sets when Write gives up.
func (c *Conn) SetWriteDeadline(t time.Time) error {
	c.out.setDeadline(&c.out.writeDeadline, t)
	return nil
}
