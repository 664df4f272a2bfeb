package link

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"sync/atomic"
	"time"
)

const (
	// drainSize is how much of an answer that nobody wants is read to keep its
	// connection, drainTime how long that may take.
	drainSize = 64 << 10
	drainTime = 200 * time.Millisecond
)

// use is a request's time with a connection: what it waits for, other than for
// this end or for an answer to begin.
type use struct {
	sending, answering atomic.Bool
	// ended: it was given up for dead.
	ended atomic.Bool
}

// RoundTrip sends a request; see [Session.Bulk].
func (p *pool) RoundTrip(req *http.Request) (*http.Response, error) {
	ctx := req.Context()
	for repeated := false; ; repeated = true {
		c, err := p.take(ctx)
		if err != nil {
			closeBody(req)
			return nil, err
		}
		resp, unread, err := p.send(c, req)
		switch {
		case err == nil:
			return resp, nil
		case ctx.Err() != nil:
			p.drop(c, true)
			return nil, err
		case unread:
			p.drop(c, true)
			return nil, fmt.Errorf("request by %s: %w", c.circuit.path, err)
		}
		p.drop(c, false)
		if repeated {
			return nil, lost(c.circuit.path, err)
		}
		again, ok := repeat(req)
		if !ok {
			return nil, lost(c.circuit.path, err)
		}
		req = again
		p.s.log.Debug("request is repeated", slog.String("lane", "bulk"), slog.String("path", c.circuit.path.String()), slog.Any("error", err))
	}
}

// send sends a request by a connection, which is the answer's until that was read.
// When it fails, unread tells that it was because the request's body could not be read.
func (p *pool) send(c *pooled, req *http.Request) (resp *http.Response, unread bool, err error) {
	ctx := req.Context()
	// The transport closes the connection of a request that is cancelled.
	sctx, cancel := context.WithCancelCause(context.WithoutCancel(ctx))
	stop := context.AfterFunc(ctx, func() {
		c.circuit.well.Store(true)
		cancel(context.Cause(ctx))
	})
	end := func() {
		stop()
		cancel(nil)
	}
	sent, body := req.WithContext(sctx), (*sentBody)(nil)
	if req.Body != nil && req.Body != http.NoBody {
		body = &sentBody{ReadCloser: req.Body, c: c, use: c.use}
		sent.Body = body
	}
	resp, err = c.cc.RoundTrip(sent)
	if err != nil {
		end()
		return nil, body != nil && body.failed.Load(), err
	}
	if resp.StatusCode == http.StatusSwitchingProtocols {
		// No request asks for that. The transport has let go of the connection, and
		// nothing would end a Read of the answer's body any more.
		_ = resp.Body.Close()
		resp.Body = http.NoBody
	}
	if resp.Close {
		c.circuit.well.Store(true)
	}
	b := &pooledBody{ReadCloser: resp.Body, p: p, c: c, use: c.use, ctx: ctx, end: end}
	if b.left.Store(resp.ContentLength); resp.Body == http.NoBody {
		b.left.Store(0) // whatever the length that an answer to HEAD tells
	}
	resp.Body, resp.Request = b, req
	return resp, false, nil
}

// sentBody tells whether it is the network that a body waits for.
type sentBody struct {
	io.ReadCloser
	c      *pooled
	use    *use
	failed atomic.Bool
}

func (b *sentBody) Read(p []byte) (int, error) {
	b.use.sending.Store(false)
	n, err := b.ReadCloser.Read(p)
	b.use.sending.Store(err == nil)
	if err != nil && err != io.EOF {
		b.failed.Store(true)
		b.c.circuit.well.Store(true)
	}
	return n, err
}

// pooledBody is an answer, which holds its connection until it was read.
type pooledBody struct {
	io.ReadCloser
	p       *pool
	c       *pooled
	use     *use
	ctx     context.Context
	end     func()       // ends what cancels the request
	left    atomic.Int64 // bytes to come, below 0 if nobody knows
	over    atomic.Bool  // the connection is not this answer's any more
	closing atomic.Bool
}

func (b *pooledBody) Read(p []byte) (int, error) {
	b.use.answering.Store(true)
	n, err := b.ReadCloser.Read(p)
	b.use.answering.Store(false)
	b.left.Add(-int64(n))
	if err == io.EOF {
		// Told that it is not wanted any more, a handler may end an answer as if it
		// were complete.
		switch {
		case b.use.ended.Load():
			err = io.ErrUnexpectedEOF
		case b.ctx.Err() != nil:
			err = context.Cause(b.ctx)
		}
	}
	if err != nil && b.over.CompareAndSwap(false, true) {
		if err == io.EOF {
			b.p.release(b.c)
		} else {
			b.p.drop(b.c, b.closing.Load() || b.ctx.Err() != nil)
		}
		b.end()
	}
	if err != nil && err != io.EOF {
		err = fmt.Errorf("answer by %s: %w", b.c.circuit.path, err)
	}
	return n, err
}

// Close reads what little is left, and otherwise gives the connection up.
func (b *pooledBody) Close() error {
	b.closing.Store(true)
	if !b.over.Load() && !b.use.answering.Load() && b.left.Load() <= drainSize {
		late := time.AfterFunc(drainTime, func() {
			b.c.circuit.well.Store(true)
			_ = b.ReadCloser.Close()
		})
		_, _ = io.CopyN(io.Discard, b, drainSize+1)
		late.Stop()
	}
	if !b.over.Load() {
		b.c.circuit.well.Store(true)
	}
	err := b.ReadCloser.Close()
	if b.over.CompareAndSwap(false, true) {
		b.p.drop(b.c, true)
		b.end()
	}
	return err
}
