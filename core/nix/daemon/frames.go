package daemon

import (
	"errors"
	"fmt"
	"io"
)

// frameSize is the payload of a full frame. The daemon allocates a frame as a
// whole; Nix's own client sends 32 KiB.
const frameSize = 128 << 10

// framer writes the framed streams of AddToStoreNar and AddMultipleToStore:
// frames of a length and as many bytes, without padding, ended by an empty frame
// (Nix libutil/serialise.hh, FramedSink).
type framer struct {
	e   *encoder
	buf []byte
}

func (f *framer) Write(p []byte) (int, error) {
	n := len(p)
	for len(p) > 0 {
		if f.buf == nil {
			f.buf = make([]byte, 0, frameSize)
		}
		k := min(len(p), frameSize-len(f.buf))
		f.buf = append(f.buf, p[:k]...)
		p = p[k:]
		if len(f.buf) == frameSize {
			if err := f.send(); err != nil {
				return 0, err
			}
		}
	}
	return n, nil
}

func (f *framer) send() error {
	if len(f.buf) > 0 {
		f.e.u64(uint64(len(f.buf)))
		_, _ = f.e.Write(f.buf)
		f.buf = f.buf[:0]
	}
	return f.e.err
}

// end sends what is left and the empty frame.
func (f *framer) end() error {
	if err := f.send(); err != nil {
		return err
	}
	f.e.u64(0)
	return f.e.err
}

// sourceError marks an error of the caller's reader, which must not pass for
// one of the connection.
type sourceError struct{ err error }

func (e *sourceError) Error() string { return e.err.Error() }
func (e *sourceError) Unwrap() error { return e.err }

// copyExactly copies size bytes from src to dst. It holds the last piece back
// until src has ended without an error, so that a reader which verifies what
// passes through it can still refuse the whole.
func copyExactly(dst io.Writer, src io.Reader, size uint64, buf []byte) error {
	for left := size; ; {
		n, err := io.ReadFull(src, buf[:min(uint64(len(buf)), left)])
		if err != nil && left > 0 {
			if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
				err = fmt.Errorf("the NAR ends %d bytes early: %w", left-uint64(n), io.ErrUnexpectedEOF)
			}
			return &sourceError{err}
		}
		left -= uint64(n)
		if left == 0 {
			var extra [1]byte
			switch k, err := io.ReadFull(src, extra[:]); {
			case k > 0:
				return &sourceError{fmt.Errorf("the NAR is longer than %d bytes", size)}
			case !errors.Is(err, io.EOF):
				return &sourceError{err}
			}
		}
		if _, err := dst.Write(buf[:n]); err != nil {
			return err
		}
		if left == 0 {
			return nil
		}
	}
}
