package cache

import (
	"testing"
	"time"
)

// TestWindow: two round trips' worth are under way, of chunks and not of what
// they are compressed to, or an eighth of a second's if that is more.
func TestWindow(t *testing.T) {
	const rate = 12_500_000 // bytes a second, of the line
	for name, c := range map[string]struct {
		wait     time.Duration
		packed   int // bytes of chunks in a byte of the line
		from, to int
	}{
		"long":       {60 * time.Millisecond, 1, 1_400_000, 1_600_000},
		"short":      {time.Millisecond, 1, 1_400_000, 1_600_000},
		"longer":     {200 * time.Millisecond, 1, 4_800_000, 5_200_000},
		"compressed": {60 * time.Millisecond, 4, 5_500_000, 6_500_000},
		"longest":    {time.Second, 1, maxWindow, maxWindow},
	} {
		now := time.Unix(0, 0)
		g := goodput{now: func() time.Time { return now }}
		f := g.begin()
		now = now.Add(c.wait)
		g.read(&f, 1) // the first bytes are not measured
		for range 300 {
			now = now.Add(10 * time.Millisecond)
			g.read(&f, rate/100)
			g.unpacked(rate / 100 * c.packed)
		}
		if all, one := g.window(); all < c.from || all > c.to || one != min(all/4, blockSize) {
			t.Errorf("%s: %d bytes, %d in one request; expected %d to %d", name, all, one, c.from, c.to)
		}
	}
}
