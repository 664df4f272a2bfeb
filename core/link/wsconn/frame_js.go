package wsconn

import (
	"context"
	"sync/atomic"

	"github.com/coder/websocket"
)

// framer does not exist: the browser makes the frames.
type framer struct{ ended atomic.Bool }

func (*framer) Close() error { return nil }

// message is a message that is being gathered.
type message struct {
	buf *Buffer // nil when empty
	n   int
}

// add takes as much of p as there is room for.
func (m *message) add(_ *Socket, p []byte) int {
	if m.buf == nil {
		m.buf = GetBuffer()
	}
	n := copy(m.buf[m.n:MessageSize], p)
	m.n += n
	return n
}

// send sends a message and takes the buffer back.
func (m *message) send(s *Socket) error {
	err := s.Write(context.Background(), websocket.MessageBinary, m.buf[:m.n])
	PutBuffer(m.buf)
	return err
}
