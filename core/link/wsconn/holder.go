package wsconn

import (
	"io"
	"net"
	"sync"
)

const (
	// inlineHold is what a holder keeps without a pooled buffer: a server's
	// frame header with the few bytes of payload that fill its bufio.Writer.
	inlineHold = 128
	// directWrite is the size from which a write is not worth copying.
	directWrite = 32 << 10
)

// holder collects the small writes that a message is made of, so that the
// message leaves in one system call. Unlike a buffer with a goroutine behind
// it, it knows where a message ends and so wakes nobody up.
//
// Outside of hold and release, writes pass through: control frames.
type holder struct {
	rwc io.ReadWriteCloser

	mu     sync.Mutex
	held   bool
	n      int // bytes kept, in inline or in big
	inline [inlineHold]byte
	big    *Buffer // nil while n fits inline
	vec    [2][]byte
}

func (h *holder) Read(p []byte) (int, error) { return h.rwc.Read(p) }

// Close closes the network connection. It does not wait for a write under way,
// because closing is what ends that.
func (h *holder) Close() error { return h.rwc.Close() }

// hold starts a message.
func (h *holder) hold() {
	h.mu.Lock()
	h.held = true
	h.mu.Unlock()
}

// release ends a message and sends what is left of it.
func (h *holder) release() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.held = false
	_, err := h.flush(nil)
	return err
}

func (h *holder) Write(p []byte) (int, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if !h.held && h.n == 0 {
		return h.rwc.Write(p)
	}
	if !h.held || (len(p) >= directWrite && (h.n == 0 || canVector(h.rwc))) {
		return h.flush(p)
	}
	written := 0
	for len(p) > 0 {
		n := h.keep(p)
		written += n
		p = p[n:]
		if len(p) > 0 {
			if _, err := h.flush(nil); err != nil {
				return written, err
			}
		}
	}
	return written, nil
}

// keep copies as much of p as there is room for.
func (h *holder) keep(p []byte) int {
	if h.big == nil {
		if h.n+len(p) <= len(h.inline) {
			h.n += copy(h.inline[h.n:], p)
			return len(p)
		}
		h.big = GetBuffer()
		copy(h.big[:], h.inline[:h.n])
	}
	n := copy(h.big[h.n:], p)
	h.n += n
	return n
}

// flush writes what is kept and then p, and returns how much of p was written.
// After an error the connection is of no use, so what was kept is dropped.
func (h *holder) flush(p []byte) (int, error) {
	kept := h.inline[:]
	if h.big != nil {
		kept = h.big[:]
	}
	kept = kept[:h.n]
	h.n = 0
	var err error
	switch {
	case len(kept) == 0 && len(p) == 0:
	case len(kept) == 0:
		return h.rwc.Write(p)
	case len(p) > 0 && canVector(h.rwc):
		h.vec = [2][]byte{kept, p}
		v := net.Buffers(h.vec[:])
		var n int64
		n, err = v.WriteTo(h.rwc)
		h.vec = [2][]byte{}
		h.drop()
		return max(0, int(n)-len(kept)), err
	default:
		_, err = h.rwc.Write(kept)
	}
	h.drop()
	if err != nil || len(p) == 0 {
		return 0, err
	}
	return h.rwc.Write(p)
}

func (h *holder) drop() {
	if h.big != nil {
		PutBuffer(h.big)
		h.big = nil
	}
}

// canVector reports whether w takes two buffers in one system call.
func canVector(w io.Writer) bool {
	_, ok := w.(*net.TCPConn)
	return ok
}
