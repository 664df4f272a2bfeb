package wsconn

import "time"

const (
	// leastPiece takes half a second at 64 kbit/s.
	leastPiece = 4 << 10
	// quickPiece and slowPiece are what a piece takes that the next may be larger
	// than, or should be smaller.
	quickPiece = 500 * time.Millisecond
	slowPiece  = 2 * time.Second
)

// Pieces says how much of a message is read at a time. The WebSocket hands on what
// it was asked for, whole, and on a slow line a whole message takes longer than
// anybody waits for a sign of life. The zero value is for a line that is not known.
type Pieces struct{ size int }

// Next returns how much to ask for, at most that much.
func (p *Pieces) Next(most int) int { return min(max(p.size, leastPiece), most) }

// Took notes how long n bytes took to come.
func (p *Pieces) Took(n int, d time.Duration) {
	switch {
	case d >= slowPiece:
		p.size = n / 4
	case d <= quickPiece && n >= max(p.size, leastPiece):
		p.size = min(2*n, MessageSize)
	}
}
