//go:build !js

package wsconn

import (
	"crypto/rand"
	"crypto/subtle"
	"encoding/binary"
	"io"
	"net"
	"sync"
	"sync/atomic"
)

// framer writes the frames of a socket. The WebSocket library writes control
// frames and text through it, each in one piece. Bulk is framed here: the
// library's client side copies and writes 4 KiB at a time.
type framer struct {
	rwc   io.ReadWriteCloser
	masks bool // a client's frames are masked (RFC 6455 §5.3)

	mu    sync.Mutex  // one frame at a time
	ended atomic.Bool // nothing follows a goodbye (RFC 6455 §5.5.1)
}

func (f *framer) Read(p []byte) (int, error) { return f.rwc.Read(p) }

// Close closes the network connection. It does not wait for a write under way,
// because closing is what ends that.
func (f *framer) Close() error { return f.rwc.Close() }

func (f *framer) Write(p []byte) (int, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.rwc.Write(p)
}

// send sends what is behind the headroom of buf, which is masked already where
// that is needed.
func (f *framer) send(buf []byte, key [4]byte) error {
	frame := f.frame(buf, key)
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.ended.Load() {
		return net.ErrClosed
	}
	_, err := f.rwc.Write(frame)
	return err
}

// Parts of a frame's header (RFC 6455 §5.2).
const (
	finText   = 0x81
	finBinary = 0x82
	maskBit   = 0x80
	length16  = 126
	length64  = 127
)

// frame puts a header before what is behind the headroom.
func (f *framer) frame(buf []byte, key [4]byte) []byte {
	var h [Headroom]byte
	h[0] = finBinary
	n := 2
	switch size := len(buf) - Headroom; {
	case size < length16:
		h[1] = byte(size)
	case size <= 0xffff:
		h[1] = length16
		binary.BigEndian.PutUint16(h[2:], uint16(size))
		n = 4
	default:
		h[1] = length64
		binary.BigEndian.PutUint64(h[2:], uint64(size))
		n = 10
	}
	if f.masks {
		h[1] |= maskBit
		n += copy(h[n:], key[:])
	}
	copy(buf[Headroom-n:], h[:n])
	return buf[Headroom-n:]
}

// message is a message that is being gathered.
type message struct {
	buf *Buffer // nil when empty
	n   int
	key [4]byte
}

// add takes as much of p as there is room for. It masks while it copies, when
// the bytes are in the nearest cache.
func (m *message) add(s *Socket, p []byte) int {
	masks := s.frames.masks
	if m.buf == nil {
		m.buf = GetBuffer()
		if masks {
			_, _ = rand.Read(m.key[:]) // never fails
			for i := 0; i < len(m.pattern()); i += len(m.key) {
				copy(m.pattern()[i:], m.key[:])
			}
		}
	}
	to := m.buf[Headroom+m.n : Headroom+MessageSize]
	if !masks {
		n := copy(to, p)
		m.n += n
		return n
	}
	sum := 0
	for len(p) > 0 && len(to) > 0 {
		from := m.pattern()[m.n%len(m.key):]
		n := subtle.XORBytes(to[:min(len(to), len(p))], p[:min(len(to), len(p))], from)
		m.n += n
		sum += n
		to, p = to[n:], p[n:]
	}
	return sum
}

// pattern is the key again and again, in the buffer's room behind the message.
func (m *message) pattern() []byte { return m.buf[len(m.buf)-patternSize:] }

// patternSize fits into the room that a frame leaves.
const patternSize = 2 << 10

// send sends a message and takes the buffer back.
func (m *message) send(s *Socket) error {
	err := s.frames.send(m.buf[:Headroom+m.n], m.key)
	PutBuffer(m.buf)
	return err
}
