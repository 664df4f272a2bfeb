package chunk

import (
	"sync"
	"time"
)

// probe is how seldom compression is tried when it does not pay, so that a
// change of the data or of the link is noticed.
const probe = 32

// Pace decides whether compressing chunks pays: when the time that it takes is
// less than the time that the link is spared. It is safe for concurrent use,
// and its zero value is ready: before anything is known it says yes, because a
// slow link loses more by a wrong no than a fast one by a wrong yes.
type Pace struct {
	mu      sync.Mutex
	goodput float64 // bytes a second
	in, out float64 // recently compressed
	seconds float64 // which took so long
	skipped int
}

// Goodput tells how many bytes a second the link carries; 0 is unknown.
func (p *Pace) Goodput(bytesPerSecond float64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.goodput = bytesPerSecond
}

// Compressed tells that compressing in bytes to out bytes took so long.
func (p *Pace) Compressed(in, out int, took time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	const keep = 0.9
	p.in = p.in*keep + float64(in)
	p.out = p.out*keep + float64(min(in, out))
	p.seconds = p.seconds*keep + took.Seconds()
}

// Pays tells whether to compress the next chunk.
func (p *Pace) Pays() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.in == 0 || p.goodput <= 0 || (p.in-p.out)/p.goodput > p.seconds {
		p.skipped = 0
		return true
	}
	if p.skipped++; p.skipped == probe {
		p.skipped = 0
		return true
	}
	return false
}
