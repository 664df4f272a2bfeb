package main

import (
	"context"
	"net"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/drv-thru/drv-thru/core/link/wsconn"
)

// ownListener listens on the loopback interface for this process alone: whoever else
// connects is cut off before anything counts them.
type ownListener struct {
	net.Listener

	mu   sync.Mutex
	ours map[string]bool // the ends that this process connects from
}

func listenOwn() (*ownListener, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	return &ownListener{Listener: l, ours: make(map[string]bool)}, nil
}

// Accept implements [net.Listener].
func (l *ownListener) Accept() (net.Conn, error) {
	for {
		c, err := l.Listener.Accept()
		if err != nil || l.forget(c.RemoteAddr().String()) {
			return c, err
		}
		_ = c.Close()
	}
}

// forget reports whether the end is one of this process's; the next that has its port
// may be somebody else's.
func (l *ownListener) forget(end string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	ours := l.ours[end]
	delete(l.ours, end)
	return ours
}

// dial connects to the listener, or to anywhere else.
func (l *ownListener) dial(ctx context.Context, network, address string) (net.Conn, error) {
	if address != l.Addr().String() {
		return wsconn.DialHost(ctx, network, address)
	}
	var end string
	d := net.Dialer{Control: func(_, _ string, raw syscall.RawConn) error {
		// It has its port before it connects, so that the listener knows it when it comes.
		var err error
		if cerr := raw.Control(func(fd uintptr) { end, err = bindLoopback(int(fd)) }); cerr != nil {
			return cerr
		}
		if err == nil {
			l.mu.Lock()
			l.ours[end] = true
			l.mu.Unlock()
		}
		return err
	}}
	c, err := d.DialContext(ctx, "tcp4", address)
	if err != nil {
		l.forget(end)
	}
	return c, err
}

// bindLoopback gives a socket a free port of 127.0.0.1.
func bindLoopback(fd int) (end string, err error) {
	at := &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}
	if err := unix.Bind(fd, at); err != nil {
		return "", err
	}
	name, err := unix.Getsockname(fd)
	if err != nil {
		return "", err
	}
	bound, ok := name.(*unix.SockaddrInet4)
	if !ok {
		return "", unix.EAFNOSUPPORT
	}
	return (&net.TCPAddr{IP: bound.Addr[:], Port: bound.Port}).String(), nil
}
