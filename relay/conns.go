package relay

import (
	"net"
	"net/http"
	"net/netip"
	"sync"
)

// pendingConns bounds connections that have not become a WebSocket: whoever
// opens them and says nothing holds a descriptor and a goroutine until
// net/http gives up on the header. Beyond a limit new ones are closed at once, or for
// one of an address that has few, one of an address that has more.
type pendingConns struct {
	total, perAddress int
	exempt            func(netip.Addr) bool // addresses of proxies, which stand for many
	refused           func(limit string)

	mu      sync.Mutex
	conn    map[net.Conn]*place
	counted places
}

func (s *Server) newPendingConns() *pendingConns {
	return &pendingConns{
		total: s.limits.Connections, perAddress: s.limits.ConnectionsPerAddress, exempt: s.cfg.Proxy,
		refused: func(limit string) {
			s.metrics.conns.WithLabelValues(limit).Inc()
			if limit == connsTotal {
				s.tellFull("connections that ask for nothing")
			}
		},
		conn: map[net.Conn]*place{},
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
		p.drop(c)
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
	exempt := p.exempt != nil && p.exempt(peer)
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.counted.by[addr] >= p.perAddress && !exempt {
		return connsAddress
	}
	if p.counted.all >= p.total {
		has := p.counted.by[addr]
		if exempt {
			has = 0
		}
		if !p.counted.makeRoom(has) {
			return connsTotal
		}
	}
	at := &place{addr: addr}
	if !exempt {
		at.leave = func() {
			p.drop(c)
			p.refused(connsTotal)
			_ = abort(c)
		}
	}
	p.conn[c] = at
	p.counted.take(at)
	return ""
}

func (p *pendingConns) drop(c net.Conn) {
	if at, ok := p.conn[c]; ok {
		delete(p.conn, c)
		p.counted.free(at)
	}
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
