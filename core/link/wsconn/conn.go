package wsconn

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"runtime"
	"slices"
	"sync"
	"time"

	"github.com/coder/websocket"
)

const (
	// fullRecord is the size of a write after which more of the same is on
	// its way: a TLS record that is full (RFC 8446 §5.1) is followed by the
	// rest of what was written, and the last record of a write is shorter.
	fullRecord = 16 << 10
	// gatherFor bounds how long full records wait for the rest, for writes
	// that are an exact multiple of a record.
	gatherFor = 200 * time.Microsecond
	// readPiece is how much of a message is read at most before it is handed on,
	// so that decryption need not wait for a large message's end.
	readPiece = 64 << 10
	// readAhead is how many buffers are filled before anybody reads.
	readAhead = 2
	// linger is how long closing may take to send what was written and to say
	// goodbye.
	linger = 2 * time.Second
)

// maxText is how much of a text message is kept.
const maxText = 4 << 10

// TextError means that the peer sent a text message on a stream of bytes. Text
// holds its beginning: whoever knows the peer may know what it wants to say.
type TextError struct{ Text []byte }

func (e *TextError) Error() string { return "peer sent a text message on a byte stream" }

// CloseError is how the peer closed the stream, if it was not a clean end:
// its WebSocket close code and reason.
type CloseError struct {
	Code   int
	Reason string
}

func (e *CloseError) Error() string {
	if e.Reason == "" {
		return fmt.Sprintf("closed by peer with code %d", e.Code)
	}
	return fmt.Sprintf("closed by peer with code %d: %s", e.Code, e.Reason)
}

// Conn is a Socket as a stream of bytes. Its deadlines interrupt only the call
// that waits and leave the connection as it is, so that HTTP/1 and TLS servers
// work on it. Closing it sends what was written before, says goodbye, and
// waits at most two seconds for that; a second Close cuts it short.
//
// A goroutine each reads ahead and sends what writers have gathered. While
// nothing moves they hold no buffer.
type Conn struct {
	sock *Socket

	readDeadline, writeDeadline deadline
	readable                    chan struct{} // 1: in or readErr changed
	room                        chan struct{} // 1: in has room
	sendable                    chan struct{} // 1: due is set
	writable                    chan struct{} // 1: out was taken, or writeErr set
	closing                     chan struct{} // closed by Close
	readDone, writeDone         chan struct{}

	writeMu sync.Mutex // one Write at a time

	mu      sync.Mutex
	in      []segment // at most readAhead; only the last may be filling
	filling bool      // the reader goroutine writes into the last segment
	readErr error
	pieces  Pieces // of the reader goroutine

	out      message
	due      bool // out shall be sent
	writeErr error
	late     *time.Timer
	wrote    time.Time // the last full record, while late runs
	closed   bool
}

type segment struct {
	buf  *Buffer
	r, w int
}

var _ net.Conn = (*Conn)(nil)

// New makes a stream of s, which belongs to the Conn from then on. Messages
// larger than maxMessage close the stream.
func New(s *Socket, maxMessage int64) *Conn {
	c := &Conn{
		sock:      s,
		readable:  make(chan struct{}, 1),
		room:      make(chan struct{}, 1),
		sendable:  make(chan struct{}, 1),
		writable:  make(chan struct{}, 1),
		closing:   make(chan struct{}),
		readDone:  make(chan struct{}),
		writeDone: make(chan struct{}),
	}
	s.SetReadLimit(maxMessage)
	go c.readLoop()
	go c.writeLoop()
	return c
}

// NetConn returns the network connection underneath if this end dialled it, or nil.
func (c *Conn) NetConn() net.Conn { return c.sock.below }

// LocalAddr returns the address of the network connection underneath.
func (c *Conn) LocalAddr() net.Addr { return c.sock.LocalAddr() }

// RemoteAddr returns the address of whoever the WebSocket goes to.
func (c *Conn) RemoteAddr() net.Addr { return c.sock.RemoteAddr() }

// SetDeadline sets both deadlines.
func (c *Conn) SetDeadline(t time.Time) error {
	c.readDeadline.set(t)
	c.writeDeadline.set(t)
	return nil
}

// SetReadDeadline sets when Read gives up with [os.ErrDeadlineExceeded].
func (c *Conn) SetReadDeadline(t time.Time) error {
	c.readDeadline.set(t)
	return nil
}

// SetWriteDeadline sets when Write gives up with [os.ErrDeadlineExceeded]. A
// Write that succeeded may still wait to be sent.
func (c *Conn) SetWriteDeadline(t time.Time) error {
	c.writeDeadline.set(t)
	return nil
}

func notify(ch chan struct{}) {
	select {
	case ch <- struct{}{}:
	default:
	}
}

// Read reads what has arrived, or waits for something.
func (c *Conn) Read(p []byte) (int, error) {
	for {
		expired := c.readDeadline.expired()
		switch {
		case isClosed(c.closing):
			return 0, net.ErrClosed
		case isClosed(expired):
			return 0, os.ErrDeadlineExceeded
		case len(p) == 0:
			return 0, nil
		}
		if n, err := c.take(p); n > 0 || err != nil {
			return n, err
		}
		select {
		case <-c.readable:
		case <-expired:
		case <-c.closing:
		}
	}
}

// take copies out what has arrived. Without anything it returns why nothing
// more will come, if that is so.
func (c *Conn) take(p []byte) (n int, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for len(c.in) > 0 && n < len(p) {
		s := &c.in[0]
		m := copy(p[n:], s.buf[s.r:s.w])
		n += m
		s.r += m
		if s.r < s.w {
			break
		}
		if len(c.in) == 1 && c.filling {
			break
		}
		c.popLocked()
	}
	if n == 0 {
		return 0, c.readErr
	}
	return n, nil
}

// popLocked gives the first segment's buffer back.
func (c *Conn) popLocked() {
	PutBuffer(c.in[0].buf)
	c.in = slices.Delete(c.in, 0, 1)
	notify(c.room)
}

// readLoop reads messages until the socket fails. After Close it goes on to
// discard what comes, so that the peer's goodbye is seen.
func (c *Conn) readLoop() {
	defer close(c.readDone)
	err := c.readMessages()
	c.mu.Lock()
	c.readErr = CloseCause(err)
	c.mu.Unlock()
	notify(c.readable)
	if errors.As(err, new(*TextError)) {
		_ = c.sock.Close(websocket.StatusUnsupportedData, "")
	}
}

func (c *Conn) readMessages() error {
	for {
		typ, r, err := c.sock.Reader(context.Background())
		if err != nil {
			return err
		}
		if typ != websocket.MessageBinary {
			text, _ := io.ReadAll(io.LimitReader(r, maxText))
			return &TextError{text}
		}
		for err == nil {
			err = c.readPiece(r)
		}
		if err != io.EOF {
			return err
		}
	}
}

// readPiece reads a piece of a message, into the queue or after Close into
// nowhere.
func (c *Conn) readPiece(r io.Reader) error {
	p := c.space()
	if p == nil {
		b := GetBuffer()
		_, err := r.Read(b[:readPiece])
		PutBuffer(b)
		return err
	}
	begin := time.Now()
	n, err := r.Read(p[:c.pieces.Next(len(p))])
	c.pieces.Took(n, time.Since(begin))
	c.mu.Lock()
	c.filling = false
	last := len(c.in) - 1
	c.in[last].w += n
	if s := c.in[last]; s.r == s.w {
		PutBuffer(s.buf)
		c.in = c.in[:last]
	}
	c.mu.Unlock()
	if n > 0 {
		notify(c.readable)
	}
	return err
}

// space waits for room and returns it, nil after Close.
func (c *Conn) space() []byte {
	for {
		c.mu.Lock()
		if c.closed {
			c.mu.Unlock()
			return nil
		}
		last := len(c.in) - 1
		if last < 0 || (c.in[last].w == len(c.in[last].buf) && last+1 < readAhead) {
			c.in = append(c.in, segment{buf: GetBuffer()})
			last++
		}
		if s := c.in[last]; s.w < len(s.buf) {
			c.filling = true
			c.mu.Unlock()
			return s.buf[s.w:min(s.w+readPiece, len(s.buf))]
		}
		c.mu.Unlock()
		select {
		case <-c.room:
		case <-c.closing:
		}
	}
}

// CloseCause says what the end of reading means for a stream: io.EOF after the
// peer's clean goodbye, a [*CloseError] after another, io.ErrUnexpectedEOF when
// the connection was lost.
func CloseCause(err error) error {
	var ce websocket.CloseError
	switch {
	case errors.As(err, &ce):
		if ce.Code == websocket.StatusNormalClosure {
			return io.EOF
		}
		return &CloseError{Code: int(ce.Code), Reason: ce.Reason}
	case errors.As(err, new(*TextError)), errors.Is(err, websocket.ErrMessageTooBig):
		return err
	case errors.Is(err, io.EOF), errors.Is(err, net.ErrClosed):
		// Not said goodbye: bytes may be missing.
		return io.ErrUnexpectedEOF
	}
	return err
}

// Write gathers p for sending and waits only while too much is gathered
// already. An error of sending shows at a later Write.
func (c *Conn) Write(p []byte) (n int, err error) {
	c.writeMu.Lock()
	defer c.writeMu.Unlock()
	more := len(p) >= fullRecord
	for {
		expired := c.writeDeadline.expired()
		if isClosed(expired) {
			return n, os.ErrDeadlineExceeded
		}
		m, err := c.gather(p[n:], more)
		n += m
		if err != nil || n == len(p) {
			return n, err
		}
		select {
		case <-c.writable:
		case <-expired:
		case <-c.closing:
		}
	}
}

// gather takes as much of p as there is room for.
func (c *Conn) gather(p []byte, more bool) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return 0, net.ErrClosed
	}
	if c.writeErr != nil {
		return 0, c.writeErr
	}
	if len(p) == 0 {
		return 0, nil
	}
	n := c.out.add(c.sock, p)
	switch {
	case c.due:
		return n, nil
	case !more || c.out.n == MessageSize:
		c.due = true
		notify(c.sendable)
		return n, nil
	}
	c.wrote = time.Now()
	switch {
	case c.out.n > n: // the timer runs since the first of them
	case c.late == nil:
		c.late = time.AfterFunc(gatherFor, c.sendLate)
	default:
		c.late.Reset(gatherFor)
	}
	return n, nil
}

// sendLate sends full records that nothing followed. A writer that is still
// at it, on a machine with other work to do, is waited for: a message in two
// pieces wakes everybody up twice.
func (c *Conn) sendLate() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.out.n == 0 || c.due {
		return
	}
	if left := gatherFor - time.Since(c.wrote); left > 0 {
		c.late.Reset(left)
		return
	}
	c.due = true
	notify(c.sendable)
}

// writeLoop sends what was gathered, and after Close says goodbye.
func (c *Conn) writeLoop() {
	defer close(c.writeDone)
	for closing := false; ; {
		for c.send(closing) {
			// Without a turn for others, a writer and this goroutine wake each
			// other for as long as the network takes it, and of many streams
			// some starve.
			runtime.Gosched()
		}
		if closing {
			// Waits for the peer's goodbye; readLoop sees it.
			_ = c.sock.Close(websocket.StatusNormalClosure, "")
			return
		}
		select {
		case <-c.sendable:
		case <-c.closing:
			closing = true
		}
	}
}

// send sends what is due, or all there is; false when there is nothing.
func (c *Conn) send(all bool) bool {
	c.mu.Lock()
	out := c.out
	if out.n == 0 || !(c.due || all) || c.writeErr != nil {
		c.mu.Unlock()
		return false
	}
	c.out, c.due = message{}, false
	if c.late != nil {
		c.late.Stop()
	}
	c.mu.Unlock()
	notify(c.writable)

	if err := out.send(c.sock); err != nil {
		c.mu.Lock()
		c.writeErr = fmt.Errorf("write: %w", io.ErrUnexpectedEOF)
		if c.readErr != nil && c.readErr != io.EOF {
			c.writeErr = fmt.Errorf("write: %w", c.readErr)
		}
		c.mu.Unlock()
		notify(c.writable)
		return false
	}
	return true
}

// Close ends the stream; see [Conn].
func (c *Conn) Close() error {
	c.mu.Lock()
	second := c.closed
	c.closed = true
	c.mu.Unlock()
	if second {
		c.abort()
		return net.ErrClosed
	}
	close(c.closing)
	cut := time.NewTimer(linger)
	defer cut.Stop()
	select {
	case <-c.writeDone:
	case <-cut.C:
	}
	c.abort()
	if !abortEnds {
		return nil
	}
	<-c.writeDone
	<-c.readDone
	c.mu.Lock()
	defer c.mu.Unlock()
	for len(c.in) > 0 {
		c.popLocked()
	}
	if c.out.buf != nil {
		PutBuffer(c.out.buf)
		c.out = message{}
	}
	return nil
}
