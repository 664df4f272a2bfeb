package daemon

import (
	"context"
	"errors"
	"io"

	"github.com/drv-thru/drv-thru/core/nix"
)

// NarFromPath reads a path's NAR of size bytes, the NarSize of its path info.
// The connection is busy until the reader has returned io.EOF or is closed; if
// it is closed before the end then the connection is too.
//
// The daemon cannot report an error in the middle of a NAR (it writes the error
// into the stream and hangs up), so a caller that needs to know must check the
// hash: what the reader yields without one is size bytes, and nothing more.
func (c *Conn) NarFromPath(ctx context.Context, p nix.Path, size uint64) (io.ReadCloser, error) {
	o, err := c.begin(ctx)
	if err != nil {
		return nil, err
	}
	err = c.exchange(func(e *encoder) {
		e.u64(opNarFromPath)
		e.string(string(p))
	}, nil)
	if err != nil {
		return nil, o.end(err)
	}
	return &narReader{op: o, left: size}, nil
}

type narReader struct {
	op   *operation
	left uint64
	err  error // set when the operation has ended
}

func (r *narReader) Read(p []byte) (int, error) {
	if r.err != nil {
		return 0, r.err
	}
	if r.left == 0 {
		return 0, r.finish(nil)
	}
	if len(p) == 0 {
		return 0, nil
	}
	d := r.op.c.dec
	n, err := d.r.Read(p[:min(uint64(len(p)), r.left)])
	r.left -= uint64(n)
	if err != nil {
		d.fail(err)
		return n, r.finish(d.err)
	}
	return n, nil
}

var errNarAbandoned = errors.New("a NAR was not read to its end")

func (r *narReader) finish(err error) error {
	if r.err = r.op.end(err); r.err == nil {
		r.err = io.EOF
	}
	return r.err
}

// Close ends the operation.
func (r *narReader) Close() error {
	if r.err == nil {
		if r.left == 0 {
			_ = r.finish(nil)
		} else {
			_ = r.finish(errNarAbandoned)
		}
	}
	return nil
}
