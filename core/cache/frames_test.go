package cache

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"

	"github.com/drv-thru/drv-thru/core/wire"
)

// frameReader reads the NAR frames of POST /v1/cache/nars (core/wire).
type frameReader struct {
	r io.Reader
	// count is the number of ranges that were asked for.
	count int
	// next is the lowest index that may come.
	next int
	// left is what was not read of the current frame.
	left uint64
	// scratch takes what is skipped.
	scratch []byte
	header  [wire.NarFrameHeader]byte
}

// newFrameReader reads frames that answer a request for count ranges.
func newFrameReader(r io.Reader, count int) *frameReader {
	return &frameReader{r: r, count: count}
}

// Next reads the next frame's header. Frames come in the order asked for, one
// for each range.
func (f *frameReader) Next() (Frame, error) {
	if err := f.skip(); err != nil {
		return Frame{}, err
	}
	if _, err := io.ReadFull(f.r, f.header[:]); err != nil {
		if err == io.EOF && f.next < f.count {
			err = io.ErrUnexpectedEOF
		}
		return Frame{}, err
	}
	if f.next == f.count {
		return Frame{}, Permanent(fmt.Errorf("%w: more NARs than were asked for", ErrStream))
	}
	index := binary.BigEndian.Uint32(f.header[:4])
	size := binary.BigEndian.Uint64(f.header[4:])
	if index != uint32(f.next) {
		return Frame{}, Permanent(fmt.Errorf("%w: NAR %d where %d was due", ErrStream, index, f.next))
	}
	f.next++
	if size == wire.NarUnavailable {
		return Frame{Index: int(index), Unavailable: true}, nil
	}
	if size > math.MaxInt64 {
		return Frame{}, Permanent(fmt.Errorf("%w: a NAR of %d bytes", ErrStream, size))
	}
	f.left = size
	return Frame{Index: int(index), Size: size}, nil
}

// Read reads from the current frame.
func (f *frameReader) Read(p []byte) (int, error) {
	if f.left == 0 {
		return 0, io.EOF
	}
	if uint64(len(p)) > f.left {
		p = p[:f.left]
	}
	n, err := f.r.Read(p)
	if n < 0 || n > len(p) {
		return 0, errors.New("reader of the connection is broken")
	}
	f.left -= uint64(n)
	if err == io.EOF {
		// The end of the body is the next header's matter, unless it
		// comes inside a frame.
		err = nil
		if f.left > 0 {
			err = io.ErrUnexpectedEOF
		}
	}
	return n, err
}

// skip discards what was not read of the current frame.
func (f *frameReader) skip() error {
	for f.left > 0 {
		if f.scratch == nil {
			f.scratch = make([]byte, 32<<10)
		}
		if _, err := f.Read(f.scratch); err != nil {
			return err
		}
	}
	return nil
}
