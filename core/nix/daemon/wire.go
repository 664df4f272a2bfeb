package daemon

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"io"
)

const bufferSize = 64 << 10

// decoder reads the protocol's primitives. The first failure sticks; every
// method then returns zero values, and loops check err.
type decoder struct {
	r   *bufio.Reader
	err error
}

func newDecoder(r io.Reader) *decoder {
	return &decoder{r: bufio.NewReaderSize(r, bufferSize)}
}

func (d *decoder) fail(err error) {
	if d.err != nil {
		return
	}
	if err == io.EOF || err == io.ErrUnexpectedEOF { //nolint:errorlint // as they come from a stream, bare
		err = errHungUp
	}
	d.err = err
}

var errHungUp = fmt.Errorf("the Nix daemon closed the connection: %w", io.ErrUnexpectedEOF)

func (d *decoder) malformed(format string, args ...any) {
	d.fail(fmt.Errorf("%w: "+format, append([]any{ErrProtocol}, args...)...))
}

func (d *decoder) u64() uint64 {
	if d.err != nil {
		return 0
	}
	b, err := d.r.Peek(8)
	if err != nil {
		d.fail(err)
		return 0
	}
	n := binary.LittleEndian.Uint64(b)
	_, _ = d.r.Discard(8)
	return n
}

func (d *decoder) bool() bool { return d.u64() != 0 }

// count reads the length of a list.
func (d *decoder) count(most int, what string) int {
	n := d.u64()
	if n > uint64(most) {
		d.malformed("%d %s, at most %d are accepted", n, what, most)
		return 0
	}
	return int(n)
}

// each calls fn for a string's bytes in pieces, which are valid during the call.
func (d *decoder) each(n uint64, fn func(piece []byte, rest uint64)) {
	for left := n; left > 0 && d.err == nil; {
		if d.r.Buffered() == 0 {
			if _, err := d.r.Peek(1); err != nil {
				d.fail(err)
				return
			}
		}
		piece, _ := d.r.Peek(int(min(left, uint64(d.r.Buffered()), LogPiece)))
		left -= uint64(len(piece))
		if fn != nil {
			fn(piece, left)
		}
		_, _ = d.r.Discard(len(piece))
	}
	d.padding(n)
}

func (d *decoder) padding(n uint64) {
	if d.err != nil || n%8 == 0 {
		return
	}
	pad := int(8 - n%8)
	b, err := d.r.Peek(pad)
	if err != nil {
		d.fail(err)
		return
	}
	for _, c := range b {
		if c != 0 {
			d.malformed("padding that is not zero")
			return
		}
	}
	_, _ = d.r.Discard(pad)
}

func (d *decoder) size() uint64 {
	n := d.u64()
	if n > maxStringSize {
		d.malformed("a string of %d bytes", n)
		return 0
	}
	return n
}

// string reads a string that must not be longer than most bytes.
func (d *decoder) string(most int, what string) string {
	n := d.size()
	if n > uint64(most) {
		d.malformed("%s of %d bytes, at most %d are accepted", what, n, most)
		return ""
	}
	return d.take(n, int(n))
}

// text reads a string of any length and keeps its first bytes, at most keep.
func (d *decoder) text(keep int) string {
	n := d.size()
	return d.take(n, int(min(n, uint64(keep))))
}

func (d *decoder) take(n uint64, keep int) string {
	if d.err != nil {
		return ""
	}
	// The common case: all of it has arrived.
	if n <= uint64(d.r.Buffered()) {
		b, _ := d.r.Peek(int(n))
		s := string(b[:keep])
		_, _ = d.r.Discard(int(n))
		d.padding(n)
		return s
	}
	var b []byte
	d.each(n, func(piece []byte, _ uint64) {
		b = append(b, piece[:min(len(piece), keep-len(b))]...)
	})
	if d.err != nil {
		return ""
	}
	return string(b)
}

// pieces hands a string on in pieces of at most LogPiece bytes; more says that
// others follow. An empty string is one empty piece.
func (d *decoder) pieces(fn func(piece []byte, more bool)) {
	n := d.size()
	if n == 0 && d.err == nil {
		fn(nil, false)
		return
	}
	d.each(n, func(piece []byte, rest uint64) { fn(piece, rest > 0) })
}

func (d *decoder) strings(most, size int, what string) []string {
	n := d.count(most, what)
	var ss []string
	for range n {
		if d.err != nil {
			return nil
		}
		ss = append(ss, d.string(size, what))
	}
	return ss
}

// encoder writes the protocol's primitives; the first failure sticks.
type encoder struct {
	w   *bufio.Writer
	err error
}

func newEncoder(w io.Writer) *encoder {
	return &encoder{w: bufio.NewWriterSize(w, bufferSize)}
}

func (e *encoder) Write(p []byte) (int, error) {
	if e.err != nil {
		return 0, e.err
	}
	var n int
	n, e.err = e.w.Write(p)
	return n, e.err
}

func (e *encoder) u64(n uint64) {
	if e.err == nil {
		_, e.err = e.w.Write(binary.LittleEndian.AppendUint64(e.w.AvailableBuffer(), n))
	}
}

func (e *encoder) bool(b bool) {
	if b {
		e.u64(1)
	} else {
		e.u64(0)
	}
}

func (e *encoder) string(s string) {
	e.u64(uint64(len(s)))
	if e.err == nil {
		_, e.err = e.w.WriteString(s)
	}
	if e.err == nil && len(s)%8 != 0 {
		var zero [8]byte
		_, e.err = e.w.Write(zero[:8-len(s)%8])
	}
}

func (e *encoder) strings(ss []string) {
	e.u64(uint64(len(ss)))
	for _, s := range ss {
		e.string(s)
	}
}

func (e *encoder) flush() error {
	if e.err == nil {
		e.err = e.w.Flush()
	}
	return e.err
}
