package cache

import (
	"sync"
	"time"
)

const (
	// minWindow and maxWindow bound what is under way: the first keeps a
	// slow link's answers short, the second fills 1 Gb/s over 60 ms twice.
	minWindow = 512 << 10
	maxWindow = 16 << 20
	// unknownWindow is that while the link is unknown.
	unknownWindow = 1 << 20
	fastWindow    = 8 << 20
	// sampleBytes is how much must have come before the measure is believed.
	sampleBytes = 512 << 10
	// sampleTime is how long what was measured counts fully.
	sampleTime = 500 * time.Millisecond
)

// goodput measures how fast the link brings chunks: the bytes that arrive while
// an answer is coming in, which leaves out the time that the builder takes to
// begin with one.
type goodput struct {
	now func() time.Time

	mu     sync.Mutex
	coming int // answers that have begun
	last   time.Time
	bytes  float64
	chunks float64 // what the bytes have become
	busy   time.Duration
	wait   time.Duration // the least time to a first byte
}

// flight is one answer.
type flight struct {
	asked time.Time
	begun bool
}

func (g *goodput) begin() flight {
	if g.now == nil {
		return flight{}
	}
	return flight{asked: g.now()}
}

// read notes bytes of an answer.
func (g *goodput) read(t *flight, n int) {
	if g.now == nil {
		return
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	now := g.now()
	if !t.begun {
		t.begun = true
		if wait := now.Sub(t.asked); g.wait == 0 || wait < g.wait {
			g.wait = wait
		}
		if g.coming++; g.coming == 1 {
			// What came first has been on its way before.
			g.last = now
			return
		}
	}
	g.bytes += float64(n)
	g.busy += now.Sub(g.last)
	g.last = now
	if g.busy > sampleTime {
		g.bytes, g.chunks, g.busy = g.bytes/2, g.chunks/2, g.busy/2
	}
}

// unpacked notes that a chunk of n bytes has come.
func (g *goodput) unpacked(n int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.chunks += float64(n)
}

func (g *goodput) end(t *flight) {
	if !t.begun {
		return
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.coming--
}

// rate is in bytes per second; 0 when it is not known.
func (g *goodput) rate() uint64 {
	g.mu.Lock()
	defer g.mu.Unlock()
	return uint64(g.perSecond())
}

func (g *goodput) perSecond() float64 {
	if g.bytes < sampleBytes && g.busy < sampleTime/4 || g.busy <= 0 {
		return 0
	}
	return g.bytes / g.busy.Seconds()
}

// window returns how much may be under way, and how much one request may ask
// for, in bytes of chunks: two round trips' worth, at least an eighth of a
// second's. More would only wait in the line's queue, and what else goes there,
// such as a log, would wait or be dropped with it.
func (g *goodput) window() (all, one int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	rate := g.perSecond()
	all = unknownWindow
	if rate > 0 {
		// Compressed chunks take less of the line than they count here.
		rate *= max(g.chunks/g.bytes, 1)
		all = int(min(max(2*rate*g.wait.Seconds(), min(rate/8, fastWindow), minWindow), maxWindow))
	}
	return all, min(max(all/4, minWindow/2), blockSize)
}
