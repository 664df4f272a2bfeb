package wsconn

import (
	"testing"
	"time"
)

// A piece never takes long, and on a fast line it is soon a whole message.
func TestPieces(t *testing.T) {
	for _, c := range []struct {
		name        string
		rate        int // bytes a second
		least, most int // of a piece, in the end
	}{
		{"64 kbit/s", 8_000, leastPiece, 16 << 10},
		{"1 Mbit/s", 125_000, 32 << 10, 256 << 10},
		{"100 Mbit/s", 12_500_000, MessageSize, MessageSize},
	} {
		var p Pieces
		for _, rate := range []int{c.rate, 1 << 30, c.rate} { // also after one that was another
			for range 20 {
				n := p.Next(MessageSize)
				p.Took(n, time.Duration(n)*time.Second/time.Duration(rate))
				p.Took(100, 0) // a short message tells nothing
			}
		}
		if n := p.Next(MessageSize); n < c.least || n > c.most {
			t.Errorf("%s: pieces of %d bytes", c.name, n)
		}
		if n := p.Next(1000); n != 1000 {
			t.Errorf("%s: %d bytes of at most 1000", c.name, n)
		}
	}
}
