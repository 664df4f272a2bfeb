package cache

import (
	"errors"
	"io"
	"sync"
)

// ErrAborted is wrapped by errors after the answer's headers were sent: the
// handler can only break the stream off.
var ErrAborted = errors.New("answer broken off")

const (
	// gatherSize is what small writes are collected to. Every write is a TLS record
	// and may wake up the peer.
	gatherSize = 256 << 10
	// directSize is the size from which on a write is not copied first.
	directSize = 64 << 10
)

var gatherBuffers = sync.Pool{New: func() any { return new([gatherSize]byte) }}

// gather collects small writes.
type gather struct {
	w   io.Writer
	buf *[gatherSize]byte
	n   int
}

func newGather(w io.Writer) *gather {
	return &gather{w: w, buf: gatherBuffers.Get().(*[gatherSize]byte)}
}

func (g *gather) free() {
	gatherBuffers.Put(g.buf)
	g.buf = nil
}

func (g *gather) Write(p []byte) (int, error) {
	if len(p) >= directSize {
		if err := g.flush(); err != nil {
			return 0, err
		}
		return g.w.Write(p)
	}
	if g.n+len(p) > gatherSize {
		if err := g.flush(); err != nil {
			return 0, err
		}
	}
	g.n += copy(g.buf[g.n:], p)
	return len(p), nil
}

func (g *gather) flush() error {
	if g.n == 0 {
		return nil
	}
	_, err := g.w.Write(g.buf[:g.n])
	g.n = 0
	return err
}
