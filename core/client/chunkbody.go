package client

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"sync"
	"time"

	"github.com/drv-thru/drv-thru/core/chunk"
	"github.com/drv-thru/drv-thru/core/wire"
)

// chunkBody is the body of a request with some chunks of a path: read from the
// store, masked and framed as the transport asks for it.
type chunkBody struct {
	s        *Session
	nar      Nar
	manifest *chunk.Manifest
	t        *tally

	mu       sync.Mutex // the transport may close while it reads
	ordinals []int
	scratch  *scratch  // nil once closed
	err      error     // local failure
	given    int       // bytes of the last Read
	at       time.Time // when it returned; zero: not yet
}

// scratch is what a request needs to make frames: a megabyte, so it is kept.
type scratch struct {
	raw [chunk.MaxSize]byte
	buf bytes.Buffer
}

var scratches = sync.Pool{New: func() any { return new(scratch) }}

// frameRoom is what one more frame may take, and what zstd adds at most to what it
// cannot compress.
const frameRoom = wire.ChunkOrdinal + chunk.FrameHeader + chunk.MaxSize + 4<<10

var errChanged = errors.New("it is not what it was a moment ago")

func (b *chunkBody) failed() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.err
}

// Close implements [io.Closer].
func (b *chunkBody) Close() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.scratch != nil {
		b.scratch.buf.Reset()
		scratches.Put(b.scratch)
		b.scratch = nil
	}
	return nil
}

// Read implements [io.Reader].
func (b *chunkBody) Read(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	switch {
	case b.scratch == nil:
		return 0, io.ErrClosedPipe
	case b.err != nil:
		return 0, b.err
	}
	if !b.at.IsZero() {
		b.s.pace.took(b.given, b.s.Now().Sub(b.at))
	}
	for b.scratch.buf.Len() < len(p) && len(b.ordinals) > 0 {
		if b.err = b.next(b.ordinals[0]); b.err != nil {
			return 0, b.err
		}
		b.ordinals = b.ordinals[1:]
	}
	n, err := b.scratch.buf.Read(p)
	b.given, b.at = n, b.s.Now()
	b.t.onWire(n)
	return n, err
}

// next appends a chunk to what is to be read.
func (b *chunkBody) next(i int) error {
	c := &b.manifest.Chunks[i]
	p := b.scratch.raw[:c.Size]
	if n, err := b.nar.ReadAt(p, c.Offset); n < len(p) {
		if err == nil || errors.Is(err, io.EOF) {
			err = errChanged
		}
		return err
	}
	b.manifest.Mask(i, p)
	if chunk.Sum(p) != c.ID {
		return errChanged
	}
	buf := &b.scratch.buf
	buf.Grow(frameRoom)
	pack, start := b.s.pace.Pays(), b.s.Now()
	frame := binary.BigEndian.AppendUint32(buf.AvailableBuffer(), uint32(i))
	frame = chunk.AppendFrame(frame, p, pack)
	if pack {
		b.s.pace.Compressed(len(p), len(frame)-wire.ChunkOrdinal-chunk.FrameHeader, b.s.Now().Sub(start))
	}
	buf.Write(frame)
	b.t.add(int64(len(p)))
	return nil
}

// pace decides about compression by how fast the transport takes what it is
// given.
type pace struct {
	chunk.Pace

	mu      sync.Mutex
	bytes   float64 // lately taken
	seconds float64 // of all requests together
}

// took notes that the transport came back for more after some time. Up to
// requestsAtOnce requests share the link, and wait at the same time.
func (p *pace) took(n int, d time.Duration) {
	p.mu.Lock()
	const keep = 0.95
	p.bytes = p.bytes*keep + float64(n)
	p.seconds = p.seconds*keep + d.Seconds()
	bytes, seconds := p.bytes, p.seconds/requestsAtOnce
	p.mu.Unlock()
	if seconds > 0 {
		p.Goodput(bytes / seconds)
	}
}
