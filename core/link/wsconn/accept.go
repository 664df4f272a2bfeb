//go:build !js

package wsconn

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"

	"github.com/coder/websocket"
)

const (
	// acceptReadBuffer holds a frame's header and a short message; what is longer
	// is read past it.
	acceptReadBuffer = 128
	// acceptWriteBuffer holds the largest control frame (RFC 6455 §5.5), so that
	// each leaves in one piece.
	acceptWriteBuffer = 128
)

// Accept completes a WebSocket handshake for one of protocols. On failure it
// has answered the request. The socket does not keep net/http's buffers or the
// handler's goroutine, so the handler may return at once and an idle socket
// costs little more than its two structs.
func Accept(w http.ResponseWriter, r *http.Request, protocols ...string) (*Socket, error) {
	s := &Socket{}
	ws, err := websocket.Accept(&hijackWriter{w, s}, r, &websocket.AcceptOptions{
		Subprotocols:    protocols,
		CompressionMode: websocket.CompressionDisabled,
		// What a page of another origin could do here, any program can.
		InsecureSkipVerify: true,
	})
	if err != nil {
		return nil, err
	}
	s.Conn = ws
	return s, nil
}

// hijackWriter hands the WebSocket a framer in place of the connection, with
// buffers of its own.
type hijackWriter struct {
	http.ResponseWriter
	s *Socket
}

func (w *hijackWriter) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	conn, rw, err := http.NewResponseController(w.ResponseWriter).Hijack()
	if err != nil {
		return nil, nil, err
	}
	early, err := rw.Reader.Peek(rw.Reader.Buffered())
	if err != nil {
		_ = conn.Close()
		return nil, nil, fmt.Errorf("take over connection: %w", err)
	}
	Tune(conn)
	f := &framer{rwc: conn}
	w.s.frames, w.s.local, w.s.remote = f, conn.LocalAddr(), conn.RemoteAddr()
	framed := &framedConn{Conn: conn, frames: f}
	reader := bufio.NewReaderSize(framed, acceptReadBuffer)
	if len(early) > 0 {
		framed.early = io.MultiReader(bytes.NewReader(bytes.Clone(early)), conn)
	} else if w.s.idle = newWaiter(conn); w.s.idle != nil {
		w.s.buffered = reader
	}
	return framed, bufio.NewReadWriter(reader, bufio.NewWriterSize(framed, acceptWriteBuffer)), nil
}

// framedConn is a connection that is written through its framer.
type framedConn struct {
	net.Conn
	frames *framer
	early  io.Reader // what the client sent before it had our answer
}

func (c *framedConn) Read(p []byte) (int, error) {
	if c.early != nil {
		return c.early.Read(p)
	}
	return c.Conn.Read(p)
}

func (c *framedConn) Write(p []byte) (int, error) { return c.frames.Write(p) }

// TextFrame is a short text as a server sends it.
func TextFrame(text string) []byte {
	if len(text) >= length16 {
		panic("not a short text")
	}
	return append([]byte{finText, byte(len(text))}, text...)
}

// Try sends a [TextFrame] if that takes no waiting, and reports whether it did. It
// is for sockets that were accepted, and never does on one behind TLS. One that
// takes the beginning of a frame and not its end is cut.
func (s *Socket) Try(frame []byte) bool {
	if s.idle == nil || !s.frames.mu.TryLock() {
		return false
	}
	defer s.frames.mu.Unlock()
	if s.frames.ended.Load() {
		return false
	}
	sent, begun := s.idle.try(frame)
	if begun && !sent {
		_ = s.frames.Close()
	}
	return sent
}

// Pass sends what is behind the [Headroom] of buf as one binary message, by one
// write to the network. It is for sockets that were accepted: the frame is made
// in place, and theirs are not masked.
func (s *Socket) Pass(buf []byte) error { return s.frames.send(buf, [4]byte{}) }
