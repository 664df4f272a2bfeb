package client

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"sync"

	"github.com/drv-thru/drv-thru/core/nix"
	"github.com/drv-thru/drv-thru/core/nix/nar"
	"github.com/drv-thru/drv-thru/core/wire"
)

// sendBuf is how much is handed to the transport at a time: smaller pieces
// cost a wake-up of the relay each.
const sendBuf = 256 << 10

// batch is what is sent together: small paths in one compressed request, or
// large ones in chunks, each with requests of its own.
type batch struct {
	indexes []int
	large   bool
}

// isLarge tells whether a path travels in chunks.
func isLarge(size uint64, p nix.Path) bool { return size >= wire.ChunkedInput && !p.IsDrv() }

// batches splits the wanted paths, keeping their order.
func (in *Inputs) batches(wanted []int) []batch {
	var out []batch
	for _, i := range wanted {
		large := isLarge(in.Wire[i].NarSize, in.Paths[i])
		if n := len(out); n == 0 || out[n-1].large != large {
			out = append(out, batch{large: large})
		}
		b := &out[len(out)-1]
		b.indexes = append(b.indexes, i)
	}
	return out
}

// size returns the bytes of the paths' archives.
func (in *Inputs) size(wanted []int) (sum int64) {
	for _, i := range wanted {
		sum += int64(in.Wire[i].NarSize)
	}
	return sum
}

// sendFrames sends small paths.
func (s *Session) sendFrames(ctx context.Context, id wire.BuildID, in *Inputs, indexes []int, t *tally) (wire.Build, error) {
	src := &frames{ctx: ctx, files: s.Files, in: in, todo: indexes, sent: t.add}
	body := packFrames(src, t)
	build, err := s.API.Inputs(ctx, id, body, len(in.Paths))
	_ = body.Close()
	// What failed on this side hides behind the transport's error.
	if lerr := src.failed(); lerr != nil {
		return wire.Build{}, lerr
	}
	return build, err
}

// packFrames compresses src. Closing the result ends the compressor.
func packFrames(src *frames, t *tally) io.ReadCloser {
	pr, pw := io.Pipe()
	done := make(chan struct{})
	go func() {
		defer close(done)
		buf := bufio.NewWriterSize(pw, sendBuf)
		err := compressTo(buf, src)
		if err == nil {
			err = buf.Flush()
		}
		pw.CloseWithError(err) // nil reads as the end
	}()
	return &packedFrames{pr, src, t, done}
}

type packedFrames struct {
	*io.PipeReader
	src  *frames
	t    *tally
	done chan struct{}
}

func (p *packedFrames) Read(b []byte) (int, error) {
	n, err := p.PipeReader.Read(b)
	p.t.onWire(n)
	return n, err
}

func (p *packedFrames) Close() error {
	err := p.PipeReader.Close()
	<-p.done
	return errors.Join(err, p.src.Close())
}

// frames is the sequence of input frames of some paths, read on demand.
type frames struct {
	ctx   context.Context
	files Files
	in    *Inputs
	sent  func(int64)

	mu     sync.Mutex // the transport may close while it reads
	todo   []int
	head   []byte // of the frame's header and of small archives, still to be read
	nar    Nar    // nil between frames
	off    int64
	err    error // local failure
	closed bool
}

func (f *frames) failed() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.err
}

// Read implements [io.Reader].
func (f *frames) Read(p []byte) (int, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	switch {
	case f.closed:
		return 0, io.ErrClosedPipe
	case f.err != nil:
		return 0, f.err
	}
	for {
		if len(f.head) > 0 {
			n := copy(p, f.head)
			f.head = f.head[n:]
			return n, nil
		}
		if f.nar != nil {
			n, err := f.nar.ReadAt(p[:min(int64(len(p)), f.nar.Size()-f.off)], f.off)
			f.off += int64(n)
			if f.off == f.nar.Size() {
				err = f.nar.Close()
				f.nar = nil
			}
			f.sent(int64(n))
			if err != nil {
				f.err = fmt.Errorf("read what is to be sent: %w", err)
				return n, f.err
			}
			return n, nil
		}
		if len(f.todo) == 0 {
			return 0, io.EOF
		}
		if err := f.open(f.todo[0]); err != nil {
			f.err = err
			return 0, err
		}
		f.todo = f.todo[1:]
	}
}

// open makes path i the current frame.
func (f *frames) open(i int) error {
	if err := f.ctx.Err(); err != nil {
		return err
	}
	path, size := f.in.Paths[i], f.in.Wire[i].NarSize
	head := make([]byte, wire.InputFrameHeader)
	binary.BigEndian.PutUint32(head, uint32(i))
	binary.BigEndian.PutUint64(head[4:], size)
	var has uint64
	if path.IsDrv() {
		text, err := f.files.ReadDrv(path)
		if err != nil {
			return fmt.Errorf("read derivation: %w", err)
		}
		w := bytes.NewBuffer(head)
		_ = nar.WriteFile(w, text, false) // memory takes everything
		head, has = w.Bytes(), uint64(w.Len()-wire.InputFrameHeader)
		f.sent(int64(has))
	} else {
		n, err := f.files.OpenNar(f.ctx, path)
		if err != nil {
			return fmt.Errorf("read what is to be sent: %w", err)
		}
		f.nar, f.off, has = n, 0, uint64(n.Size())
	}
	if has != size {
		if f.nar != nil {
			_ = f.nar.Close()
			f.nar = nil
		}
		return fmt.Errorf("%s is damaged: its archive has %d bytes, the local Nix knows %d", path, has, size)
	}
	f.head = head
	return nil
}

// Close implements [io.Closer].
func (f *frames) Close() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.closed = true
	if f.nar == nil {
		return nil
	}
	err := f.nar.Close()
	f.nar = nil
	return err
}
