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
	// acceptWriteBuffer holds a frame's header until its payload comes.
	acceptWriteBuffer = 64
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

// hijackWriter hands the WebSocket a holder in place of the connection, with
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
	h := &holder{rwc: conn}
	w.s.hold, w.s.local, w.s.remote = h, conn.LocalAddr(), conn.RemoteAddr()
	held := &heldConn{Conn: conn, h: h}
	reader := bufio.NewReaderSize(held, acceptReadBuffer)
	if len(early) > 0 {
		held.early = io.MultiReader(bytes.NewReader(bytes.Clone(early)), conn)
	} else if w.s.idle = newWaiter(conn); w.s.idle != nil {
		w.s.buffered = reader
	}
	return held, bufio.NewReadWriter(reader, bufio.NewWriterSize(held, acceptWriteBuffer)), nil
}

// heldConn is a connection that is written through its holder.
type heldConn struct {
	net.Conn
	h     *holder
	early io.Reader // what the client sent before it had our answer
}

func (c *heldConn) Read(p []byte) (int, error) {
	if c.early != nil {
		return c.early.Read(p)
	}
	return c.Conn.Read(p)
}

func (c *heldConn) Write(p []byte) (int, error) { return c.h.Write(p) }
