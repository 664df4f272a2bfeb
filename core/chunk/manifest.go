package chunk

import (
	"bufio"
	"encoding/base32"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
)

const magic = "DTM\x01"

// rawRef is the number of bytes of a reference in a manifest.
const rawRef = RefLen * 5 / 8

var refEncoding = base32.NewEncoding(alphabet).WithPadding(base32.NoPadding)

// ErrManifest is what all errors about a manifest's contents wrap. A manifest
// that ends too early is io.ErrUnexpectedEOF.
var ErrManifest = errors.New("damaged manifest")

func damaged(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrManifest, fmt.Sprintf(format, args...))
}

// checker holds what an encoder and a decoder know of the chunks so far.
type checker struct {
	refs   int
	off    int64 // end of the last chunk
	end    int64 // end of the last substitution
	last   uint32
	any    bool
	substs int
}

func (c *checker) size(size uint64) error {
	switch {
	case size == 0 || size > MaxSize:
		return damaged("a chunk of %d bytes", size)
	case c.any && c.last < MinSize:
		return damaged("a chunk of %d bytes that is not the last", c.last)
	}
	c.any, c.last = true, uint32(size)
	return nil
}

// subst checks the next substitution of the chunk that begins at c.off.
func (c *checker) subst(s Subst) error {
	switch {
	case s.Offset < c.off || s.Offset < c.end || s.Offset >= c.off+int64(c.last):
		return damaged("a reference at %d in the chunk from %d to %d, after one that ends at %d", s.Offset, c.off, c.off+int64(c.last), c.end)
	case int64(s.Ref) >= int64(c.refs):
		return damaged("reference %d of %d", s.Ref, c.refs)
	case c.substs == MaxSubsts:
		return damaged("more than %d substitutions", MaxSubsts)
	}
	c.end = s.Offset + RefLen
	c.substs++
	return nil
}

func (c *checker) finish(size uint64) error {
	switch {
	case size != uint64(c.off):
		return damaged("chunks of %d bytes for a NAR of %d", c.off, size)
	case c.end > c.off:
		return damaged("a reference that ends at %d in a NAR of %d bytes", c.end, c.off)
	}
	return nil
}

// Encoder writes a manifest.
type Encoder struct {
	w     io.Writer
	buf   []byte
	check checker
	err   error
}

// NewEncoder begins a manifest. Refs are as SortRefs leaves them.
func NewEncoder(w io.Writer, refs []Ref) *Encoder {
	e := &Encoder{w: w, err: checkRefs(refs), check: checker{refs: len(refs)}}
	e.buf = binary.AppendUvarint(append(make([]byte, 0, 4096), magic...), uint64(len(refs)))
	for i := range refs {
		if e.err != nil {
			break
		}
		n := len(e.buf)
		e.buf = append(e.buf, make([]byte, rawRef)...)
		if _, err := refEncoding.Decode(e.buf[n:], refs[i][:]); err != nil {
			e.err = err
		}
	}
	return e
}

// Chunk adds the next chunk. It may stay in memory until Flush or Close.
func (e *Encoder) Chunk(c Chunk) error {
	if e.err != nil {
		return e.err
	}
	if e.err = e.check.size(uint64(c.Size)); e.err != nil {
		return e.err
	}
	e.buf = binary.AppendUvarint(e.buf, uint64(c.Size))
	e.buf = append(e.buf, c.ID[:]...)
	e.buf = binary.AppendUvarint(e.buf, uint64(len(c.Substs)))
	for _, s := range c.Substs {
		from := max(e.check.off, e.check.end)
		if e.err = e.check.subst(s); e.err != nil {
			return e.err
		}
		e.buf = binary.AppendUvarint(e.buf, uint64(s.Offset-from))
		e.buf = binary.AppendUvarint(e.buf, uint64(s.Ref))
	}
	e.check.off += int64(c.Size)
	if len(e.buf) >= 4096 {
		return e.Flush()
	}
	return nil
}

// Flush writes what there is.
func (e *Encoder) Flush() error {
	if e.err == nil && len(e.buf) > 0 {
		_, e.err = e.w.Write(e.buf)
		e.buf = e.buf[:0]
	}
	return e.err
}

// Close writes the end of the manifest. It does not close the writer.
func (e *Encoder) Close() error {
	if e.err != nil {
		return e.err
	}
	if e.err = e.check.finish(uint64(e.check.off)); e.err != nil {
		return e.err
	}
	e.buf = binary.AppendUvarint(append(e.buf, 0), uint64(e.check.off))
	return e.Flush()
}

// Write writes a whole manifest.
func (m *Manifest) Write(w io.Writer) error {
	e := NewEncoder(w, m.Refs)
	for _, c := range m.Chunks {
		if err := e.Chunk(c); err != nil {
			return err
		}
	}
	if m.Size != e.check.off {
		return damaged("chunks of %d bytes for a NAR of %d", e.check.off, m.Size)
	}
	return e.Close()
}

// ByteReader is what a Decoder reads from; bufio.Reader and bytes.Reader are.
type ByteReader interface {
	io.Reader
	io.ByteReader
}

// Decoder reads a manifest chunk by chunk, so that a reader can act on the
// first before the last is known. It holds no more than the references and one
// chunk, and checks all that the format promises; only whether the IDs are
// those of the chunks is for the reader to see.
type Decoder struct {
	r     ByteReader
	size  int64
	refs  []Ref
	check checker
	err   error
}

// NewDecoder reads the manifest of a NAR of the given size as far as its
// references. It reads nothing beyond the manifest when r is a ByteReader.
func NewDecoder(r io.Reader, size int64) (*Decoder, error) {
	d := &Decoder{size: size}
	var ok bool
	if d.r, ok = r.(ByteReader); !ok {
		d.r = bufio.NewReader(r)
	}
	var head [len(magic)]byte
	if err := d.full(head[:]); err != nil {
		return nil, err
	}
	if string(head[:]) != magic {
		return nil, damaged("it begins with %q", head)
	}
	n, err := d.number(MaxRefs, "references")
	if err != nil {
		return nil, err
	}
	for i := range n {
		var raw [rawRef]byte
		if err := d.full(raw[:]); err != nil {
			return nil, err
		}
		var ref Ref
		refEncoding.Encode(ref[:], raw[:])
		if i > 0 && compareRefs(d.refs[i-1], ref) >= 0 {
			return nil, damaged("references are not sorted at %q", ref[:])
		}
		d.refs = append(d.refs, ref)
	}
	d.check.refs = len(d.refs)
	return d, nil
}

// Refs are the references that the substitutions count.
func (d *Decoder) Refs() []Ref { return d.refs }

// Next is the next chunk. It returns io.EOF after the last, when the manifest
// is complete and agrees with the size of the NAR.
func (d *Decoder) Next() (Chunk, error) {
	if d.err != nil {
		return Chunk{}, d.err
	}
	c, err := d.next()
	if err != nil {
		d.err = err
		return Chunk{}, err
	}
	return c, nil
}

func (d *Decoder) next() (Chunk, error) {
	size, err := d.number(MaxSize, "bytes in a chunk")
	if err != nil {
		return Chunk{}, err
	}
	if size == 0 {
		total, err := d.number(math.MaxInt64, "bytes")
		if err != nil {
			return Chunk{}, err
		}
		if err := d.check.finish(total); err != nil {
			return Chunk{}, err
		}
		if d.check.off != d.size {
			return Chunk{}, damaged("it is of a NAR of %d bytes instead of %d", d.check.off, d.size)
		}
		return Chunk{}, io.EOF
	}
	if err := d.check.size(size); err != nil {
		return Chunk{}, err
	}
	c := Chunk{Size: uint32(size), Offset: d.check.off}
	if int64(size) > d.size-c.Offset {
		return Chunk{}, damaged("it is of more than the NAR's %d bytes", d.size)
	}
	if err := d.full(c.ID[:]); err != nil {
		return Chunk{}, err
	}
	n, err := d.number((size+RefLen-1)/RefLen, "substitutions in a chunk")
	if err != nil {
		return Chunk{}, err
	}
	for range n {
		gap, err := d.number(size, "bytes before a reference")
		if err != nil {
			return Chunk{}, err
		}
		ref, err := d.number(MaxRefs, "references")
		if err != nil {
			return Chunk{}, err
		}
		s := Subst{Offset: max(c.Offset, d.check.end) + int64(gap), Ref: uint32(ref)}
		if err := d.check.subst(s); err != nil {
			return Chunk{}, err
		}
		c.Substs = append(c.Substs, s)
	}
	if d.check.end > d.size {
		return Chunk{}, damaged("a reference that ends at %d in a NAR of %d bytes", d.check.end, d.size)
	}
	d.check.off += int64(size)
	return c, nil
}

func (d *Decoder) full(p []byte) error {
	_, err := io.ReadFull(d.r, p)
	return noEOF(err)
}

// number reads a varint in its shortest form.
func (d *Decoder) number(most uint64, of string) (uint64, error) {
	var x uint64
	for shift := uint(0); ; shift += 7 {
		b, err := d.r.ReadByte()
		if err != nil {
			return 0, noEOF(err)
		}
		if shift == 63 && b > 1 || b == 0 && shift > 0 {
			return 0, damaged("a number that is too long")
		}
		x |= uint64(b&0x7f) << shift
		if b < 0x80 {
			break
		}
	}
	if x > most {
		return 0, damaged("%d %s are more than %d", x, of, most)
	}
	return x, nil
}

func noEOF(err error) error {
	if err == nil {
		return nil
	}
	if errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return fmt.Errorf("read manifest: %w", err)
}

// ReadManifest reads the whole manifest of a NAR of the given size. Its memory
// grows with what has been read, to at most a few bytes in a thousand of the
// NAR and 16 MiB of substitutions.
func ReadManifest(r io.Reader, size int64) (*Manifest, error) {
	d, err := NewDecoder(r, size)
	if err != nil {
		return nil, err
	}
	m := &Manifest{Refs: d.Refs(), Size: size}
	for {
		c, err := d.Next()
		if err == io.EOF {
			return m, nil
		}
		if err != nil {
			return nil, err
		}
		m.Chunks = append(m.Chunks, c)
	}
}
