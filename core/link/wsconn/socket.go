package wsconn

import (
	"bufio"
	"net"
	"sync"
	"time"

	"github.com/coder/websocket"
)

// Socket is a WebSocket with a fast way to send bulk: a Conn's, and
// [Socket.Pass]. Only one of these and Write may be in use at a time; reading and
// pinging are those of websocket.Conn.
type Socket struct {
	*websocket.Conn
	frames        *framer
	local, remote net.Addr
	below         net.Conn      // nil where the platform hides it
	idle          *waiter       // nil where waiting needs the WebSocket
	buffered      *bufio.Reader // what idle does not see
	// parting is held by a goodbye, which reads too, and by whoever looks at what
	// has come past the WebSocket.
	parting sync.Mutex
}

// Wait waits for something to read, if the socket was accepted on TCP: a
// goroutine that waits in here has a shallow stack, which the garbage collector
// shrinks, and thousands of idle sockets are mostly stacks. It may return early;
// what there is to read, or why there is nothing, the Reader tells. Wait has to
// be called by the goroutine that reads, between messages.
func (s *Socket) Wait() {
	if s.idle == nil {
		return
	}
	s.parting.Lock()
	seen := s.buffered.Buffered() == 0
	s.parting.Unlock()
	if seen {
		s.idle.wait()
	}
}

// Skip takes away what Wait has found, if it is this one short text and nothing
// else. It costs less than reading, in time and in stack.
func (s *Socket) Skip(text string) bool {
	if s.idle == nil {
		return false
	}
	s.parting.Lock()
	defer s.parting.Unlock()
	return !s.frames.ended.Load() && s.buffered.Buffered() == 0 && s.idle.skip(text)
}

// goodbye is how long saying it and waiting for the peer's may take. The WebSocket
// itself waits for five seconds for each, but for a message that the peer has begun
// as long as that takes.
const goodbye = 10 * time.Second

// Close says goodbye and waits for the peer's. Nothing is sent after it.
func (s *Socket) Close(code websocket.StatusCode, reason string) error {
	s.frames.ended.Store(true)
	cut := time.AfterFunc(goodbye, s.abort)
	defer cut.Stop()
	if s.idle != nil {
		s.parting.Lock()
		defer s.parting.Unlock()
	}
	return s.Conn.Close(code, reason)
}

// LocalAddr and RemoteAddr return the addresses of the network connection
// underneath, or of a nameless one where the platform hides it.
func (s *Socket) LocalAddr() net.Addr { return addrOr(s.local) }

// RemoteAddr returns the address of the peer: a relay, or a proxy before it.
func (s *Socket) RemoteAddr() net.Addr { return addrOr(s.remote) }

func addrOr(a net.Addr) net.Addr {
	if a == nil {
		return hiddenAddr{}
	}
	return a
}

type hiddenAddr struct{}

func (hiddenAddr) Network() string { return "websocket" }
func (hiddenAddr) String() string  { return "websocket" }

// CloseWithin closes the socket with a goodbye, and without waiting for the
// peer's for longer than limit.
func (s *Socket) CloseWithin(limit time.Duration, code websocket.StatusCode, reason string) {
	cut := time.AfterFunc(limit, s.abort)
	defer cut.Stop()
	_ = s.Close(code, reason)
}

// abort closes the network connection, which ends whatever waits on it.
func (s *Socket) abort() {
	_ = s.frames.Close()
	_ = s.CloseNow()
}
