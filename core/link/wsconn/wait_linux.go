package wsconn

import (
	"net"
	"syscall"

	"golang.org/x/sys/unix"
)

// headRoom is how much of what has come is looked at: the header of a frame, and a
// short message.
const headRoom = 32

// waiter waits for a TCP connection to become readable.
type waiter struct {
	raw    syscall.RawConn
	peeked func(fd uintptr) bool
	head   [headRoom]byte // the first bytes of what has come
	got    int            // how many
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
	w := &waiter{raw: raw}
	w.peeked = func(fd uintptr) bool {
		n, _, err := unix.Recvfrom(int(fd), w.head[:], unix.MSG_PEEK|unix.MSG_DONTWAIT)
		w.got = max(n, 0)
		return err != unix.EAGAIN && err != unix.EINTR
	}
	return w
}

func (w *waiter) wait() {
	w.got = 0
	_ = w.raw.Read(w.peeked)
}

// skip takes a masked text message away if it is all that has come.
func (w *waiter) skip(text string) bool {
	const header = 2 + keySize
	h := w.head[:w.got]
	if len(h) != header+len(text) || h[0] != finText || int(h[1]) != maskBit|len(text) {
		return false
	}
	for i := range len(text) {
		if h[header+i]^h[2+i%keySize] != text[i] {
			return false
		}
	}
	// It has come already, so this takes all of it.
	taken := false
	err := w.raw.Read(func(fd uintptr) bool {
		n, _, err := unix.Recvfrom(int(fd), h, unix.MSG_DONTWAIT)
		taken = err == nil && n == len(h)
		return true
	})
	w.got = 0
	return err == nil && taken
}

// try sends a frame if the kernel takes it at once. Of one that it takes a part
// of only, the rest could not be told from what others send.
func (w *waiter) try(frame []byte) (sent, begun bool) {
	n := 0
	err := w.raw.Write(func(fd uintptr) bool {
		n, _ = unix.SendmsgN(int(fd), frame, nil, nil, unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL)
		return true
	})
	return err == nil && n == len(frame), n > 0
}
