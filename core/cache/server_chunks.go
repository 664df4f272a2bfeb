package cache

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"sync"
	"time"

	"github.com/drv-thru/drv-thru/core/chunk"
	"github.com/drv-thru/drv-thru/core/nix"
	"github.com/drv-thru/drv-thru/core/nix/nar"
	"github.com/drv-thru/drv-thru/core/wire"
)

const (
	// writeFrom is the size from which on what has gathered is written: each
	// write is a TLS record or several and a wake-up of the peer.
	writeFrom = 256 << 10
	// frameRoom is what one more frame may take: a chunk, its header, and what
	// zstd adds at most to what it cannot compress.
	frameRoom = chunk.MaxSize + 4<<10
	// paysBelow is the goodput above which no chunk is ever compressed: zstd's
	// fastest level does not reach it on one core.
	paysBelow = 300 << 20
	// maxPaces bounds the clients whose pace is remembered, in one generation.
	maxPaces = 1024
)

// ChunkItem is a NAR for ServeChunks. Info is nil for one that the caller may
// not read or that is not there.
type ChunkItem struct {
	Info   *nix.PathInfo
	Ranges []wire.ChunkRange
}

// ChunkAnswer says which chunks to send and how.
type ChunkAnswer struct {
	Items []ChunkItem
	// Client and Goodput (bytes per second, 0 for unknown) decide about compression.
	Client  string
	Goodput uint64
	// Check compares each chunk with its ID.
	Check bool
}

// ServeChunks answers with chunks in the order asked for (see package wire). Its
// memory does not depend on what is asked for.
func (s *Server) ServeChunks(ctx context.Context, w http.ResponseWriter, a ChunkAnswer) error {
	s.busy.Add(1)
	defer s.busy.Add(-1)
	w.Header().Set("Content-Type", wire.TypeFrames)
	w.WriteHeader(http.StatusOK)
	out := &chunkWriter{w: w, rc: http.NewResponseController(w), check: a.Check, buf: chunkBuffers.Get().(*[writeFrom + frameRoom]byte), left: wire.MaxChunkBytesRequest}
	defer chunkBuffers.Put(out.buf)
	if a.Goodput < paysBelow {
		out.pace = s.paces.Of(a.Client, new(chunk.Pace))
		out.pace.Goodput(float64(a.Goodput))
		out.scratch = chunkScratch.Get().(*[chunk.MaxSize]byte)
		defer chunkScratch.Put(out.scratch)
	}
	for _, item := range a.Items {
		if err := s.chunks(ctx, out, item); err != nil {
			return fmt.Errorf("%w: %w", ErrAborted, err)
		}
	}
	if err := out.flush(); err != nil {
		return fmt.Errorf("%w: %w", ErrAborted, err)
	}
	return nil
}

// chunks sends the chunks of one NAR.
func (s *Server) chunks(ctx context.Context, out *chunkWriter, item ChunkItem) error {
	if item.Info == nil {
		return out.unavailable(item.Ranges, 0)
	}
	e := s.use(*item.Info)
	defer s.entries.put(e)
	for i, r := range item.Ranges {
		first, last := int(r[0]), int(r[0])+int(r[1])
		// A manifest that is still being made is known to the client as far as
		// it was sent.
		st, err := follow(ctx, e, last, out.idle)
		if err != nil {
			if ctx.Err() != nil || s.ctx.Err() != nil {
				return err
			}
			return out.unavailable(item.Ranges[i:], 0)
		}
		for k := first; k < last; k++ {
			if k >= len(st.chunks) {
				if err := out.none(last - k); err != nil {
					return err
				}
				break
			}
			wrong, err := out.chunk(&st, k)
			if err != nil {
				return err
			}
			if wrong == nil {
				continue
			}
			s.wrong(e, k, wrong)
			return out.unavailable(item.Ranges[i:], k-first)
		}
	}
	return nil
}

// errMismatch: what was read does not have the chunk's ID.
var errMismatch = errors.New("a chunk does not have its hash")

// wrong deals with a chunk that could not be read as it was cut.
func (s *Server) wrong(e *entry, k int, err error) {
	if errors.Is(err, errMismatch) || errors.Is(err, nar.ErrChanged) {
		s.doubt(e, fmt.Errorf("chunk %d: %w", k, err))
		return
	}
	s.cfg.Log.Warn("read chunk", "path", e.info.Path, "chunk", k, "err", err)
}

// chunkWriter lays frames one after another into a buffer, most of them right
// where their bytes are read to.
type chunkWriter struct {
	w       io.Writer
	rc      *http.ResponseController
	check   bool // compare each chunk with its ID
	buf     *[writeFrom + frameRoom]byte
	n       int
	left    int64 // chunk bytes that may still be asked for
	pace    *chunk.Pace
	scratch *[chunk.MaxSize]byte
}

var (
	chunkBuffers = sync.Pool{New: func() any { return new([writeFrom + frameRoom]byte) }}
	chunkScratch = sync.Pool{New: func() any { return new([chunk.MaxSize]byte) }}
)

var errTooMany = wire.Errorf(wire.CodeTooLarge, "more than %d bytes of chunks in one request", wire.MaxChunkBytesRequest)

// chunk adds chunk k. wrong says why it is not what its manifest says; then
// nothing was added.
func (c *chunkWriter) chunk(st *state, k int) (wrong, err error) {
	ch := &st.chunks[k]
	if c.left -= int64(ch.Size); c.left < 0 {
		return nil, errTooMany
	}
	if err := c.room(); err != nil {
		return nil, err
	}
	size := int(ch.Size)
	body := c.buf[c.n+chunk.FrameHeader : c.n+chunk.FrameHeader+size]
	pack := c.pace != nil && c.pace.Pays()
	if pack {
		body = c.scratch[:size]
	}
	if st.small != nil {
		// Cut and hashed in this very memory.
		copy(body, st.small[ch.Offset:])
	} else if err := readChunk(st, k, body, c.check); err != nil {
		return err, nil
	}
	compressed := false
	if pack {
		begun := time.Now()
		packed, smaller := chunk.Compress(c.buf[c.n+chunk.FrameHeader:c.n+chunk.FrameHeader], body)
		n := size
		if smaller {
			n = len(packed)
			copy(c.buf[c.n+chunk.FrameHeader:], packed) // where it is already, unless it had to grow
			compressed = true
		} else {
			copy(c.buf[c.n+chunk.FrameHeader:], body)
		}
		c.pace.Compressed(size, n, time.Since(begun))
		size = n
	}
	chunk.PutFrameHeader(c.buf[c.n:], size, compressed)
	c.n += chunk.FrameHeader + size
	return nil, nil
}

// readChunk reads chunk k from the store and masks it. With check it is compared
// with its ID.
func readChunk(st *state, k int, p []byte, check bool) error {
	ch := &st.chunks[k]
	if _, err := st.nar.ReadAt(p, ch.Offset); err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	(&chunk.Manifest{Chunks: st.chunks}).Mask(k, p)
	if check && chunk.Sum(p) != ch.ID {
		return errMismatch
	}
	return nil
}

// none adds that n chunks cannot be had.
func (c *chunkWriter) none(n int) error {
	for range n {
		if err := c.room(); err != nil {
			return err
		}
		chunk.PutFrameHeader(c.buf[c.n:], 0, false)
		c.n += chunk.FrameHeader
	}
	return nil
}

// unavailable adds that the chunks of ranges cannot be had, but for the first
// done of them.
func (c *chunkWriter) unavailable(ranges []wire.ChunkRange, done int) error {
	n := -done
	for _, r := range ranges {
		n += int(r[1])
	}
	return c.none(n)
}

// room makes sure that one more frame fits.
func (c *chunkWriter) room() error {
	if c.n < writeFrom {
		return nil
	}
	return c.flush()
}

func (c *chunkWriter) flush() error {
	if c.n == 0 {
		return nil
	}
	_, err := c.w.Write(c.buf[:c.n])
	c.n = 0
	return err
}

// idle sends what there is before a wait.
func (c *chunkWriter) idle() error {
	if err := c.flush(); err != nil {
		return err
	}
	return c.rc.Flush()
}
