package link

import (
	"context"
	"crypto/tls"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/drv-thru/drv-thru/core/key"
)

const (
	// strangerTime is how long a connection may stay of whom the builder does not know.
	strangerTime    = 15 * time.Second
	knownClientFor  = time.Hour
	maxKnownClients = 4096
)

// LimitStrangers makes a server of [NewServer] close circuits by which nothing has
// come soon that authorize allows. A relay takes so many circuits to a builder, and
// anyone may open them who has heard of its ID.
func LimitStrangers(srv *http.Server, authorize func(*http.Request) (group string, err error)) {
	k := new(acquaintances)
	connContext, next := srv.ConnContext, srv.Handler
	srv.ConnContext = func(ctx context.Context, c net.Conn) context.Context {
		if circuit := circuitBelow(c); circuit != nil && circuit.path.Kind == PathRelay {
			if conn, ok := c.(*tls.Conn); ok {
				k.await(&circuit.arrived, conn.ConnectionState, func() { _ = conn.NetConn().Close() })
			}
		}
		return connContext(ctx, c)
	}
	srv.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if c := circuitOf(r.Context()); c != nil && c.path.Kind == PathRelay && !c.arrived.settled() {
			if _, err := authorize(r); err == nil {
				k.allowed(&c.arrived, r)
			}
		}
		next.ServeHTTP(w, r)
	})
}

// arrival is a connection that has to prove itself useful.
type arrival struct {
	mu      sync.Mutex
	welcome bool
	timer   *time.Timer
}

// acquaintances are clients whose requests were authorized. The zero value has none.
type acquaintances struct {
	mu    sync.Mutex
	known map[key.ID]time.Time
}

// limit begins the time in which a connection has to prove itself. Its client may
// do so on another one: the second of its connections may have nothing to ask for
// a while.
func (k *acquaintances) limit(a *arrival, state tls.ConnectionState, end func()) {
	id, err := key.PeerID(state)
	if err != nil {
		end()
		return
	}
	if k.knows(id) {
		a.settle()
		return
	}
	k.await(a, func() tls.ConnectionState { return state }, end)
}

// await is limit for a connection whose handshake is to come, for which a server has
// less time.
func (k *acquaintances) await(a *arrival, state func() tls.ConnectionState, end func()) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.timer = time.AfterFunc(strangerTime, func() {
		if id, err := key.PeerID(state()); err != nil || !k.knows(id) {
			a.expel(end)
		}
	})
}

// allowed notes that a request was allowed which came by a connection; without a limit
// that is nil.
func (k *acquaintances) allowed(a *arrival, r *http.Request) {
	if a != nil {
		a.settle()
	}
	if id, err := PeerID(r); err == nil {
		k.know(id, time.Now())
	}
}

// settle takes away the time limit.
func (a *arrival) settle() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.welcome = true
	if a.timer != nil {
		a.timer.Stop()
	}
}

func (a *arrival) settled() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.welcome
}

func (a *arrival) expel(end func()) {
	if !a.settled() {
		end()
	}
}

func (k *acquaintances) knows(id key.ID) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	since, known := k.known[id]
	return known && time.Since(since) < knownClientFor
}

func (k *acquaintances) know(id key.ID, now time.Time) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if len(k.known) >= maxKnownClients {
		for id, since := range k.known {
			if now.Sub(since) > knownClientFor {
				delete(k.known, id)
			}
		}
	}
	if k.known == nil {
		k.known = make(map[key.ID]time.Time)
	}
	if len(k.known) < maxKnownClients {
		k.known[id] = now
	}
}
