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
	// gather is how much a FrameWriter collects before it writes: small writes
	// cost a packet, a TLS record and two wake-ups each.
	gather = 256 << 10
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

// FrameWriter writes chunks in frames, gathered into large writes.
type FrameWriter struct {
	w   io.Writer
	buf []byte
	err error
}

// NewFrameWriter returns a FrameWriter; it must be flushed after the last frame.
func NewFrameWriter(w io.Writer) *FrameWriter { return &FrameWriter{w: w} }

// Raw writes a chunk as it is.
func (w *FrameWriter) Raw(masked []byte) error {
	if w.err == nil && (len(masked) == 0 || len(masked) > MaxSize) {
		w.err = fmt.Errorf("write frame: a chunk of %d bytes", len(masked))
	}
	if w.err != nil {
		return w.err
	}
	w.buf = binary.BigEndian.AppendUint32(w.grown(), uint32(len(masked)))
	w.buf = append(w.buf, masked...)
	return w.full()
}

// Zstd writes a chunk compressed, if that makes it smaller, and returns the
// number of bytes of its payload.
func (w *FrameWriter) Zstd(masked []byte) (int, error) {
	if w.err == nil && (len(masked) == 0 || len(masked) > MaxSize) {
		w.err = fmt.Errorf("write frame: a chunk of %d bytes", len(masked))
	}
	if w.err != nil {
		return 0, w.err
	}
	at := len(w.buf)
	buf, smaller := Compress(append(w.grown(), 0, 0, 0, 0), masked)
	w.buf = buf[:at]
	if !smaller {
		return len(masked), w.Raw(masked)
	}
	n := len(buf) - at - FrameHeader
	w.buf = buf
	PutFrameHeader(buf[at:], n, true)
	return n, w.full()
}

// Unavailable writes that a chunk cannot be had.
func (w *FrameWriter) Unavailable() error {
	if w.err != nil {
		return w.err
	}
	w.buf = append(w.grown(), 0, 0, 0, 0)
	return w.full()
}

// Flush writes what has gathered.
func (w *FrameWriter) Flush() error {
	if w.err == nil && len(w.buf) > 0 {
		_, w.err = w.w.Write(w.buf)
		w.buf = w.buf[:0]
	}
	return w.err
}

// grown is the buffer, which has room for the largest frame at once so that
// appending never moves it.
func (w *FrameWriter) grown() []byte {
	if w.buf == nil {
		w.buf = make([]byte, 0, gather+2*(FrameHeader+MaxSize))
	}
	return w.buf
}

func (w *FrameWriter) full() error {
	if len(w.buf) < gather {
		return nil
	}
	return w.Flush()
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
// been compared with its ID. Wire is the number of bytes of the frame. The
// error is ErrUnavailable when the sender does not have the chunk, after which
// reading can go on; io.EOF at the end; any other ends the stream.
func (r *FrameReader) Next(dst []byte, size uint32) (p []byte, wire int, err error) {
	var head [FrameHeader]byte
	if _, err := io.ReadFull(r.r, head[:]); err != nil {
		if err == io.EOF {
			return dst, 0, err
		}
		return dst, 0, fmt.Errorf("read frame: %w", err)
	}
	h := binary.BigEndian.Uint32(head[:])
	n := int(h &^ frameZstd)
	switch {
	case h == 0:
		return dst, FrameHeader, ErrUnavailable
	case size == 0 || size > MaxSize:
		return dst, 0, fmt.Errorf("read frame: a chunk of %d bytes", size)
	case n == 0 || n > int(size) || h&frameZstd == 0 && n != int(size):
		return dst, 0, fmt.Errorf("%w: %d bytes for a chunk of %d", ErrFrame, n, size)
	}
	at := len(dst)
	if h&frameZstd == 0 {
		dst = slices.Grow(dst, n)[:at+n]
		if err := r.full(dst[at:]); err != nil {
			return dst[:at], 0, err
		}
		return dst, FrameHeader + n, nil
	}
	if cap(r.payload) < n {
		r.payload = make([]byte, MaxSize)
	}
	if err := r.full(r.payload[:n]); err != nil {
		return dst, 0, err
	}
	dst, err = Decompress(dst, r.payload[:n], size)
	return dst, FrameHeader + n, err
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
