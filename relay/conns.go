package relay

import (
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"time"
)

// pendingConns bounds connections that have not become a WebSocket: whoever
// opens them and says nothing holds a descriptor and a goroutine until
// net/http gives up on the header. Beyond a limit new ones are closed at once.
type pendingConns struct {
	total, perAddress int
	exempt            func(netip.Addr) bool // addresses of proxies, which stand for many
	refused           func(limit string)

	mu      sync.Mutex
	conn    map[net.Conn]netip.Addr
	counted counter
}

func (s *Server) newPendingConns() *pendingConns {
	return &pendingConns{
		total: s.limits.Connections, perAddress: s.limits.ConnectionsPerAddress, exempt: s.cfg.Proxy,
		refused: func(limit string) { s.metrics.conns.WithLabelValues(limit).Inc() },
		conn:    map[net.Conn]netip.Addr{},
	}
}

// state is an http.Server's ConnState.
func (p *pendingConns) state(c net.Conn, st http.ConnState) {
	switch st {
	case http.StateNew:
		if limit := p.add(c); limit != "" {
			p.refused(limit)
			_ = abort(c)
		}
	case http.StateHijacked, http.StateClosed:
		p.mu.Lock()
		if a, ok := p.conn[c]; ok {
			delete(p.conn, c)
			p.counted.drop(a)
		}
		p.mu.Unlock()
	}
}

// add counts a connection, or returns the limit that it meets.
func (p *pendingConns) add(c net.Conn) (limit string) {
	var peer, addr netip.Addr
	if ap, err := netip.ParseAddrPort(c.RemoteAddr().String()); err == nil {
		peer = ap.Addr().Unmap().WithZone("")
		addr = group(peer)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.counted.all >= p.total {
		return connsTotal
	}
	if p.counted.by[addr] >= p.perAddress && !(p.exempt != nil && p.exempt(peer)) {
		return connsAddress
	}
	p.conn[c] = addr
	p.counted.add(addr)
	return ""
}

func (p *pendingConns) count() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.counted.all
}

// abort closes a connection without a word: tls.Conn.Close would try to say one.
func abort(c net.Conn) error {
	if t, ok := c.(interface{ NetConn() net.Conn }); ok {
		return t.NetConn().Close()
	}
	return c.Close()
}

// tellEvery is how often it is said that connections cannot be accepted.
const tellEvery = time.Minute

// toldListener says that connections cannot be accepted, such as for want of
// descriptors. net/http goes on trying, and tells only a log that would name addresses.
// It is for one goroutine.
type toldListener struct {
	net.Listener
	s    *Server
	told time.Time
}

func (l *toldListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if now := time.Now(); err != nil && l.s.closing.Err() == nil && now.Sub(l.told) >= tellEvery {
		l.told = now
		l.s.log.Error("connections are not accepted", slog.Any("error", withoutAddresses(err)))
	}
	return c, err
}
