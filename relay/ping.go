package relay

import (
	"sync"
	"time"

	"github.com/drv-thru/drv-thru/core/link/wsconn"
	"github.com/drv-thru/drv-thru/core/wire"
)

var (
	ping      = wire.RelayMessage{Type: wire.RelayPing}.Encode()
	pingFrame = wsconn.TextFrame(string(ping))
)

// beat is how often pings are sent: the process wakes up for many at once, and
// their answers come together too.
const beat = 250 * time.Millisecond

// pinger pings registered builders, each every wire.RelayKeepalive, and cuts off
// those that are silent. A relay has thousands, so they share one timer and stand
// in a queue: who was pinged goes to its end.
type pinger struct {
	mu         sync.Mutex
	head, tail *registration
	timer      *time.Timer // nil before the first builder
}

// add puts a builder at the end of the queue.
func (p *pinger) add(reg *registration, now time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	reg.due, reg.next = together(now.Add(wire.RelayKeepalive)), nil
	if p.head != nil {
		p.tail.next, p.tail = reg, reg
		return
	}
	p.head, p.tail = reg, reg
	if wait := reg.due.Sub(now); p.timer == nil {
		p.timer = time.AfterFunc(wait, p.beat)
	} else {
		p.timer.Reset(wait)
	}
}

// together is a point in time that others share.
func together(t time.Time) time.Time {
	return t.Add(-time.Duration(t.UnixNano() % int64(beat)))
}

// beat pings all whose turn it is. The timer is set again by whoever finds that
// the first in the queue has to wait, so there is one beat at a time.
func (p *pinger) beat() {
	for now := time.Now(); ; {
		reg := p.take(now)
		if reg == nil {
			return
		}
		if reg.ping(now) {
			p.add(reg, now)
		}
	}
}

// take takes the first builder out of the queue if its ping is due, or sets the
// timer.
func (p *pinger) take(now time.Time) *registration {
	p.mu.Lock()
	defer p.mu.Unlock()
	reg := p.head
	if reg == nil {
		return nil
	}
	if wait := reg.due.Sub(now); wait > 0 {
		p.timer.Reset(wait)
		return nil
	}
	p.head = reg.next
	return reg
}

// ping pings a builder, false if there is none any more. It never waits.
func (reg *registration) ping(now time.Time) bool {
	left := reg.patience(now)
	switch {
	case reg.gone.Err() != nil:
		return false
	case left <= 0:
		_ = reg.ws.CloseNow()
		return false
	case left < wire.RelayKeepalive:
		// Silent for a while: it is cut off before its next turn.
		time.AfterFunc(left, func() {
			if reg.patience(time.Now()) <= 0 {
				_ = reg.ws.CloseNow()
			}
		})
	}
	reg.messages.Store(0)
	select {
	case <-reg.turn:
		sent := reg.ws.Try(pingFrame)
		reg.turn <- struct{}{}
		if sent {
			return true
		}
	default:
	}
	go func() { _ = reg.write(ping) }() // its reader finds out
	return true
}

// patience is how long a builder may stay silent.
func (reg *registration) patience(now time.Time) time.Duration {
	return wire.RelayDeadAfter - time.Duration(clock(now)-reg.heard.Load())
}
