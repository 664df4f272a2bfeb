package relay

import (
	"log/slog"
	"net"
	"sync"
	"time"
)

// tellEvery is how often the log has what happens to many.
const tellEvery = time.Minute

// seldom is for such a line in the log. Its zero value is ready.
type seldom struct {
	mu   sync.Mutex
	told time.Time
}

// due reports whether it is time for the line.
func (s *seldom) due() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	if now.Sub(s.told) < tellEvery {
		return false
	}
	s.told = now
	return true
}

// tellFull says of what the relay has as much as it takes, when something of it is closed.
func (s *Server) tellFull(what string) {
	if s.full.due() {
		s.log.Warn("refused", slog.String("error", "the relay has as many "+what+" as it takes"))
	}
}

// toldListener says that connections cannot be accepted, such as for want of
// descriptors. net/http goes on trying, and tells only a log that would name addresses.
type toldListener struct {
	net.Listener
	s    *Server
	told seldom
}

func (l *toldListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil && l.s.closing.Err() == nil && l.told.due() {
		l.s.log.Error("connections are not accepted", slog.Any("error", withoutAddresses(err)))
	}
	return c, err
}
