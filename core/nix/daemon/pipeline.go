package daemon

import (
	"context"
	"errors"
	"sync/atomic"
)

// pipelineWindow bounds the operations that are sent but not yet answered.
const pipelineWindow = 512

// batch is a series of operations that are sent without waiting for answers.
type batch struct {
	// next reports whether there is an operation i. An error is fatal.
	next func(i int) (bool, error)
	// write sends operation i. A *sourceError is fatal at once.
	write func(e *encoder, i int) error
	// read reads the result of operation i, after the log channel.
	read func(d *decoder, i int)
	// live says that next or write may wait for someone else, so that nothing
	// sent may linger in the buffer meanwhile.
	live bool
}

// pipeline sends a batch from a goroutine of its own and reads the answers
// meanwhile on the caller's: neither side ever waits for the other to read.
// After the daemon's first error no further operation is begun, the answers of
// those under way are read, and the error is returned: the connection stays
// usable.
func (c *Conn) pipeline(ctx context.Context, b batch) error {
	o, err := c.begin(ctx)
	if err != nil {
		return err
	}
	var stop atomic.Bool
	sent := make(chan int, pipelineWindow)
	wrote := make(chan error, 1)
	go func() {
		err := c.sendBatch(b, sent, &stop)
		var src *sourceError
		if errors.As(err, &src) {
			c.kill(err) // the answer of a half-sent operation never comes
		}
		close(sent)
		wrote <- err
	}()

	var first error
	for i := range sent {
		err := c.dec.stderr(c.sink)
		if err == nil {
			b.read(c.dec, i)
			err = c.dec.err
		}
		if err == nil {
			continue
		}
		stop.Store(true)
		if first == nil {
			first = err
		}
		if !isRemote(err) {
			c.kill(err) // unblocks the writer
			for range sent {
			}
		}
	}
	if err := <-wrote; err != nil {
		c.kill(err)
		var src *sourceError
		if errors.As(err, &src) || first == nil {
			first = err
		}
	}
	return o.end(first)
}

func (c *Conn) sendBatch(b batch, sent chan<- int, stop *atomic.Bool) error {
	for i := 0; !stop.Load(); i++ {
		more, err := b.next(i)
		if err != nil {
			return &sourceError{err}
		}
		if !more {
			break
		}
		select {
		case sent <- i:
		default:
			if err := c.enc.flush(); err != nil {
				return err
			}
			sent <- i
		}
		if err := b.write(c.enc, i); err != nil {
			return err
		}
		if b.live {
			if err := c.enc.flush(); err != nil {
				return err
			}
		}
	}
	return c.enc.flush()
}

// times is the next of a batch of n operations.
func times(n int) func(int) (bool, error) {
	return func(i int) (bool, error) { return i < n, nil }
}
