package wsconn

import (
	"net"
	"syscall"

	"golang.org/x/sys/unix"
)

// waiter waits for a TCP connection to become readable.
type waiter struct {
	raw    syscall.RawConn
	peeked func(fd uintptr) bool
}

func newWaiter(c net.Conn) *waiter {
	t, ok := c.(*net.TCPConn)
	if !ok {
		return nil // TLS may hold what has come already
	}
	raw, err := t.SyscallConn()
	if err != nil {
		return nil
	}
	return &waiter{raw, func(fd uintptr) bool {
		var b [1]byte
		_, _, err := unix.Recvfrom(int(fd), b[:], unix.MSG_PEEK|unix.MSG_DONTWAIT)
		return err != unix.EAGAIN && err != unix.EINTR
	}}
}

func (w *waiter) wait() { _ = w.raw.Read(w.peeked) }
