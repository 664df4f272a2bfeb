//go:build !js && !wasip1

package direct

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/drv-thru/drv-thru/core/wire"
)

// rounds are the pauses before each ping to every candidate. The first few are
// close: the two ends start within a round trip of each other.
var rounds = []time.Duration{
	0, 30 * time.Millisecond, 70 * time.Millisecond, 100 * time.Millisecond, 200 * time.Millisecond,
	300 * time.Millisecond, 500 * time.Millisecond, 800 * time.Millisecond, 1000 * time.Millisecond,
}

const (
	// linger is how long an exchange answers after its last ping.
	linger = 2 * time.Second
	// maxReflexive bounds the addresses that pings came from and that the
	// list did not name.
	maxReflexive = 4
	// maxPongs bounds the answers of one exchange.
	maxPongs = 64
)

// ErrBusy means that too many exchanges are under way.
var ErrBusy = errors.New("too many direct paths are being opened at once")

// Punch is one exchange: pings to the other end's addresses until one answers
// or time is up.
type Punch struct {
	e     *Endpoint
	group string
	token wire.PathToken
	scope Scope
	heard chan netip.AddrPort

	mu    sync.Mutex
	peers []netip.AddrPort
	extra int
	pongs int
	told  []netip.AddrPort
}

// Punch registers an exchange with the other end's addresses, of which those are
// used that the scope allows. A group's exchanges share its part of the packets.
// Nothing is sent before [Punch.Run].
func (e *Endpoint) Punch(group string, token wire.PathToken, scope Scope, peers []netip.AddrPort) (*Punch, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if len(e.punches) >= maxPunches || e.punches[token] != nil {
		return nil, ErrBusy
	}
	p := &Punch{
		e: e, group: group, token: token, scope: scope, peers: scope.Select(peers),
		heard: make(chan netip.AddrPort, wire.MaxCandidates+maxReflexive),
	}
	e.punches[token] = p
	return p, nil
}

// Aim adds addresses that became known later.
func (p *Punch) Aim(peers []netip.AddrPort) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.peers = p.scope.Select(append(p.peers, peers...))
}

// Heard gives each address that a packet of the exchange came from, once.
func (p *Punch) Heard() <-chan netip.AddrPort { return p.heard }

// Run sends the pings and returns when ctx ends or time is up. The exchange is
// over then.
func (p *Punch) Run(ctx context.Context) {
	defer p.Cancel()
	ping := wire.AppendPunch(nil, p.token, wire.PunchPing)
	timer := time.NewTimer(0)
	defer timer.Stop()
	for _, pause := range append(slices.Clone(rounds), linger) {
		timer.Reset(pause)
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		}
		if pause == linger {
			return
		}
		p.mu.Lock()
		peers := slices.Clone(p.peers)
		p.mu.Unlock()
		for _, to := range peers {
			p.send(ping, to)
		}
	}
}

// Cancel ends an exchange that is not run.
func (p *Punch) Cancel() {
	p.e.mu.Lock()
	delete(p.e.punches, p.token)
	p.e.mu.Unlock()
}

// send sends within the endpoint's budget. What fails is tried again or was in
// vain; there is no use in knowing.
func (p *Punch) send(packet []byte, to netip.AddrPort) {
	if p.e.budget.Take(p.group, time.Now()) {
		_ = p.e.send(packet, to)
	}
}

// packet takes a packet of the exchange.
func (p *Punch) packet(kind byte, from netip.AddrPort) {
	if !p.scope.Allows(from) {
		return
	}
	p.mu.Lock()
	if kind == wire.PunchPing && !slices.Contains(p.peers, from) && p.extra < maxReflexive {
		// An address translator gave the other end a port that nobody knew.
		p.extra++
		p.peers = append(p.peers, from)
	}
	pong := kind == wire.PunchPing && slices.Contains(p.peers, from) && p.pongs < maxPongs
	if pong {
		p.pongs++
	}
	tell := slices.Contains(p.peers, from) && !slices.Contains(p.told, from)
	if tell {
		p.told = append(p.told, from)
	}
	p.mu.Unlock()
	if pong {
		p.send(wire.AppendPunch(nil, p.token, wire.PunchPong), from)
	}
	if kind == wire.PunchPong || pong {
		p.e.know(from, time.Now())
	}
	if tell {
		p.heard <- from // has room for every peer
	}
}
