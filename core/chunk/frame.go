package chunk

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"

	"github.com/klauspost/compress/zstd"
)

// FrameHeader is the size of what precedes a frame's payload.
const FrameHeader = 4

// PutFrameHeader writes the header of a frame whose payload has n bytes, for
// those who lay frames out themselves; 0 is a chunk that cannot be had.
func PutFrameHeader(dst []byte, n int, compressed bool) {
	head := uint32(n)
	if compressed {
		head |= frameZstd
	}
	binary.BigEndian.PutUint32(dst, head)
}

const (
	frameZstd = 1 << 31
	// headRoom is what a FrameReader reads at once to find a header. What is
	// larger goes past that buffer, straight to where the chunk is wanted.
	headRoom = 4 << 10
)

var (
	// ErrUnavailable stands for a chunk that the sender cannot give.
	ErrUnavailable = errors.New("chunk unavailable")
	// ErrFrame is what errors about a frame's contents wrap.
	ErrFrame = errors.New("damaged chunk frame")
)

// Encoders and decoders hold megabytes each, so there is one of each in a
// process, made when it is first needed. Both work on many chunks at once.
var (
	compressor = sync.OnceValue(func() *zstd.Encoder {
		e, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithWindowSize(MaxSize),
			zstd.WithEncoderCRC(false), zstd.WithSingleSegment(true), zstd.WithLowerEncoderMem(true))
		if err != nil {
			panic("make zstd encoder: " + err.Error()) // only wrong options fail
		}
		return e
	})
	decompressor = sync.OnceValue(func() *zstd.Decoder {
		d, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(0), zstd.WithDecoderLowmem(true),
			zstd.WithDecoderMaxMemory(MaxSize), zstd.WithDecoderMaxWindow(MaxSize))
		if err != nil {
			panic("make zstd decoder: " + err.Error()) // only wrong options fail
		}
		return d
	})
)

// Compress appends the zstd form of a chunk to dst, and tells whether it is
// smaller by a sixteenth at least; a form that is not is of no use, and dst is
// returned as it was.
func Compress(dst, masked []byte) ([]byte, bool) {
	n := len(dst)
	out := compressor().EncodeAll(masked, dst)
	if len(out)-n > len(masked)-len(masked)/16 {
		return out[:n], false
	}
	return out, true
}

// Decompress appends to dst what Compress made of a chunk of this size.
func Decompress(dst, compressed []byte, size uint32) ([]byte, error) {
	if size > MaxSize {
		return dst, fmt.Errorf("%w: a chunk of %d bytes", ErrFrame, size)
	}
	n := len(dst)
	out, err := decompressor().DecodeAll(compressed, dst)
	if err != nil {
		return dst[:n], fmt.Errorf("%w: %v", ErrFrame, err)
	}
	if len(out)-n != int(size) {
		return dst[:n], fmt.Errorf("%w: %d bytes instead of %d", ErrFrame, len(out)-n, size)
	}
	return out, nil
}

// AppendFrame appends a chunk in a frame to dst, with pack compressed if that makes
// it smaller. No bytes stand for a chunk that cannot be had.
func AppendFrame(dst, masked []byte, pack bool) []byte {
	at := len(dst)
	dst = append(dst, make([]byte, FrameHeader)...)
	if pack && len(masked) > 0 {
		if out, smaller := Compress(dst, masked); smaller {
			PutFrameHeader(out[at:], len(out)-at-FrameHeader, true)
			return out
		}
	}
	PutFrameHeader(dst[at:], len(masked), false)
	return append(dst, masked...)
}

// FrameReader reads frames.
type FrameReader struct {
	r       *bufio.Reader
	payload []byte
}

// NewFrameReader returns a FrameReader, which may read beyond the last frame
// that it is asked for. A [bufio.Reader] is used as it is.
func NewFrameReader(r io.Reader) *FrameReader {
	return &FrameReader{r: bufio.NewReaderSize(r, headRoom)}
}

// Reset makes the reader read frames from rd.
func (r *FrameReader) Reset(rd io.Reader) { r.r.Reset(rd) }

// Next appends the next chunk, which has this size, to dst. The chunk has not
// been compared with its ID. The error is ErrUnavailable when the sender does not
// have the chunk, after which reading can go on; io.EOF at the end; any other ends
// the stream.
func (r *FrameReader) Next(dst []byte, size uint32) ([]byte, error) {
	var head [FrameHeader]byte
	if _, err := io.ReadFull(r.r, head[:]); err != nil {
		if err == io.EOF {
			return dst, err
		}
		return dst, fmt.Errorf("read frame: %w", err)
	}
	h := binary.BigEndian.Uint32(head[:])
	n := int(h &^ frameZstd)
	switch {
	case h == 0:
		return dst, ErrUnavailable
	case size == 0 || size > MaxSize:
		return dst, fmt.Errorf("read frame: a chunk of %d bytes", size)
	case n == 0 || n > int(size) || h&frameZstd == 0 && n != int(size):
		return dst, fmt.Errorf("%w: %d bytes for a chunk of %d", ErrFrame, n, size)
	}
	at := len(dst)
	if h&frameZstd == 0 {
		dst = slices.Grow(dst, n)[:at+n]
		if err := r.full(dst[at:]); err != nil {
			return dst[:at], err
		}
		return dst, nil
	}
	if cap(r.payload) < n {
		r.payload = make([]byte, MaxSize)
	}
	if err := r.full(r.payload[:n]); err != nil {
		return dst, err
	}
	return Decompress(dst, r.payload[:n], size)
}

func (r *FrameReader) full(p []byte) error {
	_, err := io.ReadFull(r.r, p)
	if err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	if err != nil {
		return fmt.Errorf("read frame: %w", err)
	}
	return nil
}
