package relay

import (
	"cmp"
	"maps"
	"net/netip"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"github.com/drv-thru/drv-thru/core/wire"
)

// Limits bound what peers may use of a relay. A zero field means its default.
// An address is an IPv4 address or an IPv6 /64.
type Limits struct {
	// Registrations is how many builders may be registered: 20,000. Of these, of
	// circuits and of connections, an address that has more makes room for one that
	// has fewer.
	Registrations int
	// RegistrationsPerAddress is how many of them may come from one address: 1,000.
	RegistrationsPerAddress int
	// Circuits is how many circuits may be open or half open: 8,192.
	Circuits int
	// CircuitsPerBuilder is how many of them may lead to one builder: 1,024.
	CircuitsPerBuilder int
	// CircuitsPerAddress is how many of them may be dialled from one address: 256.
	CircuitsPerAddress int
	// HalfOpenPerBuilder is how many may wait for one builder to come: 64.
	HalfOpenPerBuilder int
	// HandshakesPerSecond is the rate of handshakes from one address: 50. One by
	// which a builder comes for a circuit counts only as its dial.
	HandshakesPerSecond float64
	// HandshakeBurst is how many of them may come at once: 500.
	HandshakeBurst int
	// Connections is how many connections may have asked for nothing yet, and how
	// many may wait on a WebSocket to be told why they are refused: 4,096 each.
	Connections int
	// ConnectionsPerAddress is how many of them may come from one address: 256.
	ConnectionsPerAddress int
	// BytesPerSecond is what all circuits together may carry, both directions
	// counted: unlimited.
	BytesPerSecond int64
	// CircuitBytesPerSecond is what one circuit may carry: unlimited. Each large
	// transfer has a circuit of its own.
	CircuitBytesPerSecond int64
	// STUNPerSecond is the rate of STUN answers to one address: 20, with
	// twice as many at once.
	STUNPerSecond float64
	// HalfOpen is how long a builder has to come for a circuit: 10 s.
	HalfOpen time.Duration
	// Idle is how long a circuit may move nothing in either direction before
	// it is cut, and how long a piece of a message may take, of which those on slow
	// lines are small: 2 minutes. Peers send pings every few seconds, but not inside
	// of a large transfer.
	Idle time.Duration
}

// WithDefaults returns l with defaults for the fields that are zero.
func (l Limits) WithDefaults() Limits {
	l.Registrations = cmp.Or(l.Registrations, 20_000)
	l.RegistrationsPerAddress = cmp.Or(l.RegistrationsPerAddress, 1_000)
	l.Circuits = cmp.Or(l.Circuits, 8_192)
	l.CircuitsPerBuilder = cmp.Or(l.CircuitsPerBuilder, 1_024)
	l.CircuitsPerAddress = cmp.Or(l.CircuitsPerAddress, 256)
	l.HalfOpenPerBuilder = cmp.Or(l.HalfOpenPerBuilder, 64)
	l.HandshakesPerSecond = cmp.Or(l.HandshakesPerSecond, 50)
	l.HandshakeBurst = cmp.Or(l.HandshakeBurst, 500)
	l.Connections = cmp.Or(l.Connections, 4_096)
	l.ConnectionsPerAddress = cmp.Or(l.ConnectionsPerAddress, 256)
	l.STUNPerSecond = cmp.Or(l.STUNPerSecond, 20)
	l.HalfOpen = cmp.Or(l.HalfOpen, wire.RelayAcceptTimeout)
	l.Idle = cmp.Or(l.Idle, 2*time.Minute)
	return l
}

// started is what [clock] counts from.
var started = time.Now()

// clock is a point in time in nanoseconds: not by the wall clock, a step of which
// would look as if all had been silent since, or had just been heard.
func clock(t time.Time) int64 { return int64(t.Sub(started)) }

// group returns what is counted as one address: an IPv6 host has a whole /64.
func group(a netip.Addr) netip.Addr {
	a = a.Unmap().WithZone("")
	if a.Is6() {
		p, err := a.Prefix(64)
		if err == nil {
			return p.Addr()
		}
	}
	return a
}

// counter counts things, in all and by address. Its zero value is ready.
type counter struct {
	all int
	by  map[netip.Addr]int
}

func (c *counter) add(a netip.Addr) {
	if c.by == nil {
		c.by = map[netip.Addr]int{}
	}
	c.all++
	c.by[a]++
}

func (c *counter) drop(a netip.Addr) {
	c.all--
	if c.by[a]--; c.by[a] <= 0 {
		delete(c.by, a)
	}
}

// places are counted things that each hold a place of which there are only so many.
// When all are taken, an address that has more makes room for one that has fewer.
// The zero value is ready.
type places struct {
	counter
	held map[*place]struct{}
}

type place struct {
	addr  netip.Addr
	since int64 // by [clock]
	// leave frees the place and ends what holds it, without waiting; nil while that
	// cannot be.
	leave func()
}

func (ps *places) take(p *place) {
	if ps.held == nil {
		ps.held = map[*place]struct{}{}
	}
	p.since = clock(time.Now())
	ps.held[p] = struct{}{}
	ps.add(p.addr)
}

// free does nothing for a place that is free already.
func (ps *places) free(p *place) {
	if _, ok := ps.held[p]; ok {
		delete(ps.held, p)
		ps.drop(p.addr)
	}
}

// maxCompared is how many places are looked at for one that is made free. In a flood
// of few addresses nearly all are theirs; in one of many there is none, and to look at
// them all would cost more than to refuse.
const maxCompared = 256

// makeRoom frees a place for an address that has so many, of one that has more and
// would still have as many then: its youngest, as that has done the least.
func (ps *places) makeRoom(has int) bool {
	var found *place
	compared, most := 0, has+1 // what the newcomer makes of it
	for p := range ps.held {   // begins anywhere
		n := ps.by[p.addr]
		if p.leave != nil && (n > most || n == most && found != nil && p.since > found.since) {
			found, most = p, n
		}
		if compared++; compared == maxCompared {
			break
		}
	}
	if found == nil {
		return false
	}
	found.leave()
	return true
}

// maxBuckets bounds a rateLimiter's memory, about 10 MB.
const maxBuckets = 1 << 16

// rateLimiter is a token bucket for each address. It remembers a bounded number
// of them: beyond, one that is forgotten starts with a full bucket again.
type rateLimiter struct {
	perSecond rate.Limit
	burst     int

	mu      sync.Mutex
	buckets map[netip.Addr]*rate.Limiter
	sweep   time.Time
}

// allow takes a token of a's bucket if there is one.
func (l *rateLimiter) allow(a netip.Addr) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := time.Now()
	if l.buckets == nil {
		l.buckets = map[netip.Addr]*rate.Limiter{}
		l.sweep = now
	}
	full := time.Duration(float64(l.burst) / float64(l.perSecond) * float64(time.Second))
	if now.Sub(l.sweep) > full {
		maps.DeleteFunc(l.buckets, func(_ netip.Addr, b *rate.Limiter) bool { return b.TokensAt(now) >= float64(l.burst) })
		l.sweep = now
	}
	b := l.buckets[a]
	if b == nil {
		if len(l.buckets) >= maxBuckets {
			for k := range l.buckets { // begins anywhere
				delete(l.buckets, k)
				break
			}
		}
		b = rate.NewLimiter(l.perSecond, l.burst)
		l.buckets[a] = b
	}
	return b.AllowN(now, 1)
}
