package link

import (
	"net"
	"sync"
	"time"

	"github.com/drv-thru/drv-thru/core/link/wsconn"
)

const (
	// fullRecord is the size of a write after which more of the same is on its
	// way: a TLS record that is full (RFC 8446 §5.1) is followed by the rest of
	// what was written, and the last record of a write is shorter.
	fullRecord = 16 << 10
	// gatherFor bounds how long full records wait for the rest, for writes that
	// are an exact multiple of a record.
	gatherFor = 200 * time.Microsecond
	// lastWords bounds sending what is left when a connection is closed.
	lastWords = 2 * time.Second
)

// gathering is a TCP connection under TLS that sends the records of one write
// together: TLS writes each of them on its own, and each would be a system call
// and wake up the other end. It holds a buffer only while records wait.
type gathering struct {
	net.Conn

	mu   sync.Mutex
	buf  *wsconn.Buffer // nil when nothing waits
	n    int
	err  error
	late *time.Timer
	last time.Time // the last full record, while late runs
}

// Write sends p, or keeps it if more is about to come. An error of sending what
// was kept shows at a later Write.
func (c *gathering) Write(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err != nil {
		return 0, c.err
	}
	if c.n == 0 && len(p) < fullRecord {
		return c.Conn.Write(p)
	}
	if c.n+len(p) > wsconn.MessageSize {
		if err := c.flushLocked(); err != nil {
			return 0, err
		}
	}
	if len(p) > wsconn.MessageSize {
		return c.Conn.Write(p)
	}
	if c.buf == nil {
		c.buf = wsconn.GetBuffer()
		c.wait()
	}
	c.n += copy(c.buf[c.n:], p)
	if len(p) < fullRecord {
		return len(p), c.flushLocked()
	}
	c.last = time.Now()
	return len(p), nil
}

// wait has full records sent that nothing follows.
func (c *gathering) wait() {
	if c.late == nil {
		c.late = time.AfterFunc(gatherFor, c.sendLate)
		return
	}
	c.late.Reset(gatherFor)
}

func (c *gathering) sendLate() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.n == 0 || c.err != nil {
		return
	}
	// A writer that is still at it, on a machine with other work to do, is
	// waited for.
	if left := gatherFor - time.Since(c.last); left > 0 {
		c.late.Reset(left)
		return
	}
	_ = c.flushLocked() // the next Write tells
}

func (c *gathering) flushLocked() error {
	if c.n > 0 {
		c.late.Stop()
		_, c.err = c.Conn.Write(c.buf[:c.n])
		wsconn.PutBuffer(c.buf)
		c.buf, c.n = nil, 0
	}
	return c.err
}

// NetConn returns the connection underneath.
func (c *gathering) NetConn() net.Conn { return c.Conn }

// Close sends what waits and closes the connection. Whoever is stuck in a Write
// is not waited for.
func (c *gathering) Close() error {
	if c.mu.TryLock() {
		if c.n > 0 && c.err == nil {
			_ = c.SetWriteDeadline(time.Now().Add(lastWords))
			_ = c.flushLocked()
		}
		c.mu.Unlock()
	}
	return c.Conn.Close()
}
