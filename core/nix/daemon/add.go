package daemon

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/drv-thru/drv-thru/core/nix"
)

// copyBuffer is the size of the reads from a caller's NAR.
const copyBuffer = 128 << 10

// Source yields the paths to add, one a call, and io.EOF after the last. A
// path's references must be valid or come before it. The reader gives the NAR,
// exactly info.NarSize bytes; it is read up to its end, and if it fails, even
// after the last byte, then the path is not added and the connection is closed.
// Source and readers are called from another goroutine; they must return when
// the operation's context is done.
type Source func() (info nix.PathInfo, nar io.Reader, err error)

// AddMultipleToStore adds count paths in one stream. The daemon wants a signature
// that it trusts, or a content address that it then checks, and in any case the
// right NAR hash. What is valid already does not change. Of the infos, the fields
// Ultimate and RegistrationTime are not used. Paths before the first error are in
// the store, later ones are not.
//
// With protocols before 1.36 it sends AddToStoreNar operations back to back
// instead, because the single operation of those daemons loses its place in the
// stream at a path that is valid already.
func (c *Conn) AddMultipleToStore(ctx context.Context, count int, next Source) error {
	if count == 0 {
		return nil
	}
	n := 0
	counted := func() (nix.PathInfo, io.Reader, error) {
		if n == count {
			return nix.PathInfo{}, nil, io.EOF
		}
		info, nar, err := next()
		if errors.Is(err, io.EOF) {
			err = fmt.Errorf("%d paths of %d came: %w", n, count, io.ErrUnexpectedEOF)
		}
		n++
		return info, nar, err
	}
	if !c.info.Protocol.AtLeast(versionAddMultiple) {
		return c.addEach(ctx, counted)
	}
	return c.pipeline(ctx, batch{
		live:  true,
		next:  times(1),
		read:  func(*decoder, int) {},
		write: func(e *encoder, _ int) error { return writeMultiple(e, count, counted) },
	})
}

// addFlags are the arguments "repair" and "don't check signatures".
func addFlags(e *encoder) {
	e.bool(false)
	e.bool(false)
}

func writeMultiple(e *encoder, count int, next Source) error {
	e.u64(opAddMultipleToStore)
	addFlags(e)
	f := &framer{e: e}
	body := newEncoder(f)
	body.u64(uint64(count))
	buf := make([]byte, copyBuffer)
	for range count {
		info, nar, err := next()
		if err != nil {
			return &sourceError{err}
		}
		body.info(&info)
		if err := copyExactly(body, nar, info.NarSize, buf); err != nil {
			return wrapPath(info.Path, err)
		}
	}
	if err := body.flush(); err != nil {
		return err
	}
	return f.end()
}

// addEach adds paths by pipelined AddToStoreNar operations.
func (c *Conn) addEach(ctx context.Context, next Source) error {
	var (
		info nix.PathInfo
		nar  io.Reader
		buf  = make([]byte, copyBuffer)
	)
	return c.pipeline(ctx, batch{
		live: true,
		next: func(int) (more bool, err error) {
			info, nar, err = next()
			if errors.Is(err, io.EOF) {
				return false, nil
			}
			return true, err
		},
		write: func(e *encoder, _ int) error {
			e.u64(opAddToStoreNar)
			e.info(&info)
			addFlags(e)
			f := &framer{e: e}
			if err := copyExactly(f, nar, info.NarSize, buf); err != nil {
				return wrapPath(info.Path, err)
			}
			return f.end()
		},
		read: func(*decoder, int) {},
	})
}

func wrapPath(p nix.Path, err error) error {
	var src *sourceError
	if errors.As(err, &src) {
		return &sourceError{fmt.Errorf("add %s: %w", p, src.err)}
	}
	return err
}
