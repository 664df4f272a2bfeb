package linktest

import (
	"io"
	"net"
	"os"
	"sync"
	"time"
)

// pipeBuffer is what one direction holds: an unbuffered pipe would deadlock
// where both ends write before they read, as TLS does when it fails.
const pipeBuffer = 64 << 10

// pipe is one direction of a connection.
type pipe struct {
	mu     sync.Mutex
	change sync.Cond
	store  []byte // pipeBuffer long once something was written
	buf    []byte // what is on its way, in store
	// closed is set by either end.
	closed, readerClosed        bool
	readDeadline, writeDeadline deadline
}

func newPipe() *pipe {
	p := &pipe{}
	p.change.L = &p.mu
	return p
}

// deadline is under its pipe's mutex.
type deadline struct {
	timer  *time.Timer
	passed bool
}

func (p *pipe) setDeadline(d *deadline, t time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if d.timer != nil {
		d.timer.Stop()
	}
	d.timer, d.passed = nil, false
	if t.IsZero() {
		return
	}
	var timer *time.Timer
	timer = time.AfterFunc(time.Until(t), func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		if d.timer == timer {
			d.passed = true
			p.change.Broadcast()
		}
	})
	d.timer = timer
}

func (p *pipe) read(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for {
		switch {
		case p.readerClosed:
			return 0, net.ErrClosed
		case p.readDeadline.passed:
			return 0, os.ErrDeadlineExceeded
		case len(b) == 0:
			return 0, nil
		case len(p.buf) > 0:
			n := copy(b, p.buf)
			p.buf = p.buf[n:]
			p.change.Broadcast()
			return n, nil
		case p.closed:
			return 0, io.EOF
		}
		p.change.Wait()
	}
}

func (p *pipe) write(b []byte) (n int, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for {
		switch {
		case p.closed:
			return n, net.ErrClosed
		case p.readerClosed:
			return n, io.ErrClosedPipe
		case p.writeDeadline.passed:
			return n, os.ErrDeadlineExceeded
		case len(b) == 0:
			return n, nil
		}
		if m := min(len(b), pipeBuffer-len(p.buf)); m > 0 {
			if p.store == nil {
				p.store = make([]byte, 0, pipeBuffer)
			}
			if m > cap(p.buf)-len(p.buf) {
				p.buf = p.store[:copy(p.store[:cap(p.store)], p.buf)]
			}
			p.buf = append(p.buf, b[:m]...)
			b, n = b[m:], n+m
			p.change.Broadcast()
			continue
		}
		p.change.Wait()
	}
}

func (p *pipe) close(reader bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if reader {
		p.readerClosed = true
		p.buf = nil
	} else {
		p.closed = true
	}
	for _, d := range []*deadline{&p.readDeadline, &p.writeDeadline} {
		if d.timer != nil && reader == (d == &p.readDeadline) {
			d.timer.Stop()
			d.timer = nil
		}
	}
	p.change.Broadcast()
}
