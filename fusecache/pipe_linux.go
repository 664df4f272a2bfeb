package fusecache

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"os"
	"strconv"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/drv-thru/drv-thru/core/cache"
)

const (
	// pipeSize is what a pipe holds, the most that a user may have by default (pipe(7)).
	pipeSize = 1 << 20
	// pieceSize is how much has to be here before it goes into a pipe.
	pieceSize = 64 << 10
	// drainTime is how long a full pipe is left to its reader, more each time when it
	// has taken nothing.
	drainTime, maxDrainTime = time.Millisecond, 50 * time.Millisecond
	// longestOpen bounds the pauses, each twice the one before, after which it is looked
	// whether a pipe was opened. Who has asked for its name may not want to, as ls -l.
	longestOpen = 8 * time.Second
	// openTime is more than passes between finding a pipe's name and waiting in open(2)
	// for who writes to it.
	openTime = time.Second
)

// pipes hands large NARs to programs that read from the beginning to the end. A
// pipe's reader takes what is there already, where a FUSE file system's sends a
// request for each 64 KiB and sleeps until it is answered.
type pipes struct {
	view   *cache.View
	prefix string // of the pipes' paths
	ctx    context.Context
	cancel context.CancelFunc
	served sync.WaitGroup

	mu    sync.Mutex // nothing begins once ctx is done
	count int
}

// newPipes fails where no pipe can be made.
func newPipes(view *cache.View, prefix string) (*pipes, error) {
	p := &pipes{view: view, prefix: prefix}
	path, err := p.make()
	if err != nil {
		return nil, err
	}
	_ = os.Remove(path)
	p.ctx, p.cancel = context.WithCancel(context.Background())
	return p, nil
}

// close ends all pipes and removes them.
func (p *pipes) close() {
	p.mu.Lock()
	p.cancel()
	p.mu.Unlock()
	p.served.Wait()
}

// open makes a pipe out of which a NAR comes, for one reader, and returns its path.
func (p *pipes) open(nar string) (string, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.ctx.Err() != nil {
		return "", os.ErrClosed
	}
	path, err := p.make()
	if err != nil {
		return "", err
	}
	p.served.Go(func() { p.serve(path, nar) })
	return path, nil
}

// begin has do done beside the pipes, until they are closed.
func (p *pipes) begin(do func(context.Context)) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.ctx.Err() == nil {
		p.served.Go(func() { do(p.ctx) })
	}
}

func (p *pipes) make() (string, error) {
	p.count++
	path := p.prefix + strconv.Itoa(p.count)
	if err := unix.Mkfifo(path, 0o600); err != nil {
		return "", fmt.Errorf("make named pipe %s: %w", path, err)
	}
	return path, nil
}

// serve writes the NAR to who opens the pipe. An error ends it early, which nobody
// takes for a whole NAR; the View knows what kept its bytes from coming.
func (p *pipes) serve(path, nar string) {
	w := p.reader(path)
	if w == nil {
		return
	}
	defer w.Close()
	defer context.AfterFunc(p.ctx, func() { w.Close() })()
	pipe, err := w.SyscallConn()
	if err != nil {
		return
	}
	// A smaller one does as well.
	_ = pipe.Control(func(fd uintptr) { _, _ = unix.FcntlInt(fd, unix.F_SETPIPE_SZ, pipeSize) })
	pieces, err := p.view.Pieces(p.ctx, nar)
	switch {
	case err != nil:
	case pieces != nil:
		p.hand(pipe, nar, pieces)
	default:
		p.copy(pipe, nar)
	}
}

// copy writes what the View reads.
func (p *pipes) copy(pipe syscall.RawConn, nar string) {
	file, err := p.view.OpenFile(p.ctx, nar)
	if err != nil {
		return
	}
	defer file.Close()
	for off := int64(0); off < file.Size(); {
		span, err := file.Borrow(p.ctx, off, pieceSize)
		if err != nil {
			return
		}
		for _, b := range span.Bufs {
			if err = fill(pipe, len(b), from(b)); err != nil {
				break
			}
		}
		off += int64(span.Len())
		span.Release()
		if err != nil {
			return
		}
	}
}

// hand has the kernel refer to the files that have the NAR: nobody copies its bytes into
// the pipe.
func (p *pipes) hand(pipe syscall.RawConn, nar string, pieces iter.Seq[cache.Piece]) {
	for piece := range pieces {
		left := refer(pipe, piece)
		if left == 0 {
			continue
		}
		b, err := piece.Load()
		if err != nil {
			p.view.Fail(nar, err)
			return
		}
		if err := fill(pipe, left, from(b[len(b)-left:])); err != nil {
			return // its reader is gone, or it is closed
		}
	}
}

// refer puts a piece of a file into a pipe, and returns how much of it could not be.
func refer(pipe syscall.RawConn, piece cache.Piece) (left int) {
	left = int(piece.Size)
	if piece.File == nil {
		return left
	}
	file, err := piece.File.SyscallConn()
	if err != nil {
		return left
	}
	off := piece.Offset
	_ = fill(pipe, left, func(out int, size int) (n int, err error) {
		closed := file.Control(func(in uintptr) {
			var k int64
			k, err = unix.Splice(int(in), &off, out, nil, size, unix.SPLICE_F_NONBLOCK)
			n = max(int(k), 0)
		})
		if err == nil && n == 0 {
			err = io.ErrUnexpectedEOF // the file is shorter
		}
		left -= n
		return n, cmp.Or(closed, err)
	})
	return left
}

// RemovePipe removes a pipe that nobody writes to any more. Whoever waits for that in
// open(2), where they would for ever, sees the pipe's end; so does who has found its name
// just now.
func RemovePipe(path string) {
	both, err := os.OpenFile(path, os.O_RDWR|unix.O_NONBLOCK, 0)
	_ = os.Remove(path)
	if err == nil {
		time.AfterFunc(openTime, func() { both.Close() })
	}
}

// reader waits until somebody has opened the pipe to read, opens the other end, and
// takes the pipe's name away. It returns nil if nobody came.
func (p *pipes) reader(path string) *os.File {
	for pause := 20 * time.Microsecond; pause < longestOpen && p.ctx.Err() == nil; pause *= 2 {
		w, err := os.OpenFile(path, os.O_WRONLY|unix.O_NONBLOCK, 0)
		if err == nil {
			_ = os.Remove(path)
			return w
		}
		// ENXIO: nobody has. Or descriptors are short, and a reader waits.
		select {
		case <-time.After(pause):
		case <-p.ctx.Done():
		}
	}
	RemovePipe(path)
	return nil
}

// from gives bytes to fill.
func from(b []byte) func(pipe, size int) (int, error) {
	return func(pipe, size int) (int, error) {
		n, err := unix.Write(pipe, b[len(b)-size:])
		return max(n, 0), err
	}
}

// fill has size bytes put into a pipe, as much each time as fits of what is left. While it
// is full, its reader has some time to itself: to wake this process for each piece that was
// read costs both of them more.
func fill(pipe syscall.RawConn, size int, put func(pipe, size int) (int, error)) error {
	for pause := drainTime; ; {
		var n int
		var err error
		closed := pipe.Control(func(fd uintptr) { n, err = put(int(fd), size) })
		switch {
		case closed != nil:
			return closed
		case err != nil && !errors.Is(err, unix.EAGAIN):
			return err
		}
		if size -= n; size == 0 {
			return nil
		}
		if n > 0 {
			pause = drainTime
		}
		time.Sleep(pause)
		pause = min(2*pause, maxDrainTime)
	}
}
