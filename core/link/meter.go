package link

import (
	"sync"
	"time"
)

const (
	// meterWindow is how long a sample of goodput is at least.
	meterWindow = 250 * time.Millisecond
	// meterBytes make a sample when nothing follows them, too: the request by which
	// a path is tried again may take less time than that.
	meterBytes = 1 << 20
	// meterWeight is the newest sample's in the average: the start of a
	// transfer, which is slow everywhere, is soon forgotten.
	meterWeight = 0.4
	// A path is measured once it was in use for trialTime or moved trialBytes.
	trialTime  = time.Second
	trialBytes = 8 << 20
	// maxGap is the most that a pause between bytes counts: longer ones are the
	// builder's, which has nothing to send, or a dead path's, whose end liveness
	// tells.
	maxGap = 500 * time.Millisecond
	// fresh is how old the last byte is at most for a comparison while both
	// paths are in use.
	fresh = 2 * time.Second
)

// meter measures goodput: bytes in the time in which anything was under way.
type meter struct {
	mu     sync.Mutex
	flight int
	since  time.Time // the last call
	last   time.Time // the last byte
	busy   time.Duration
	bytes  int64
	rate   float64 // bytes a second; 0: no sample yet

	allBusy  time.Duration
	allBytes int64
}

func (m *meter) begin(now time.Time) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.tick(now)
	m.flight++
}

func (m *meter) end(now time.Time) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.tick(now)
	if m.flight--; m.flight == 0 && m.bytes >= meterBytes && m.busy > 0 {
		m.sample()
	}
}

func (m *meter) add(n int, now time.Time) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.bytes += int64(n)
	m.allBytes += int64(n)
	m.last = now
	m.tick(now)
}

// tick counts the time since the last call and takes a sample when one is due.
func (m *meter) tick(now time.Time) {
	if m.flight > 0 {
		d := min(now.Sub(m.since), maxGap)
		m.busy += d
		m.allBusy += d
	}
	m.since = now
	if m.busy >= meterWindow && m.bytes > 0 {
		m.sample()
	}
}

func (m *meter) sample() {
	sample := float64(m.bytes) / m.busy.Seconds()
	if m.rate == 0 {
		m.rate = sample
	} else {
		m.rate += meterWeight * (sample - m.rate)
	}
	m.busy, m.bytes = 0, 0
}

func (m *meter) flying() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.flight
}

// estimate returns the goodput in bytes a second, and whether it was measured
// for long enough to choose by it.
func (m *meter) estimate() (rate float64, measured bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	rate = m.rate
	if rate == 0 && m.allBusy > 0 {
		rate = float64(m.allBytes) / m.allBusy.Seconds()
	}
	return rate, m.allBusy >= trialTime || m.allBytes >= trialBytes
}

// condemn ends a measurement early: the path was too slow to wait for.
func (m *meter) condemn() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.allBusy = max(m.allBusy, trialTime)
}

// refuse forgets what was measured: nothing goes by the path now.
func (m *meter) refuse() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.rate, m.busy, m.bytes = 0, 0, 0
	m.allBusy, m.allBytes = trialTime, 0
}

// moving reports whether bytes come at this time.
func (m *meter) moving(now time.Time) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return !m.last.IsZero() && now.Sub(m.last) < fresh
}
