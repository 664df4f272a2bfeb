package chunk

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"

	chunkers "github.com/PlakarKorp/go-cdc-chunkers"
	_ "github.com/PlakarKorp/go-cdc-chunkers/chunkers/jc" // registers the algorithm
)

// algorithm is part of the formats: other names of the library, "jc" and
// "jc-v1.1.0" among them, cut elsewhere.
const algorithm = "jc-v1.0.0"

// window is how much of a NAR is in memory while it is cut. It is read in
// pieces of nearly this size, and it fits a core's own cache.
const window = 1 << 20

var windows = sync.Pool{New: func() any { return new([window]byte) }}

// Cut reads a NAR to its end, masks it, cuts it, and calls emit for each chunk
// in order, with its masked bytes, which emit must not keep. It returns the
// NAR's size. Refs are the NAR's references and its own hash part, as SortRefs
// leaves them; r may return an error that says more than Cut could, which
// errors.Is finds.
func Cut(ctx context.Context, r io.Reader, refs []Ref, emit func(c Chunk, masked []byte) error) (size int64, err error) {
	if err := checkRefs(refs); err != nil {
		return 0, fmt.Errorf("cut: %w", err)
	}
	masked := &masker{ctx: ctx, r: r}
	if len(refs) > 0 {
		masked.matcher = newMatcher(refs)
	}
	buf := windows.Get().(*[window]byte)
	defer windows.Put(buf)
	sizes := &chunkers.ChunkerOpts{MinSize: MinSize, NormalSize: NormalSize, MaxSize: MaxSize}
	chunker, err := chunkers.NewChunkerBuffer(algorithm, masked, sizes, buf[:])
	if err != nil {
		return 0, fmt.Errorf("cut: %w", err)
	}
	for {
		// The last chunk may come together with io.EOF.
		p, err := chunker.Next()
		if err != nil && !errors.Is(err, io.EOF) {
			return size, fmt.Errorf("cut after %d bytes: %w", size, err)
		}
		if len(p) > 0 {
			c := Chunk{ID: Sum(p), Size: uint32(len(p)), Offset: size}
			size += int64(len(p))
			c.Substs = masked.until(size)
			if err := emit(c, p); err != nil {
				return size, err
			}
		}
		if err != nil {
			return size, nil
		}
	}
}

// minRead is the least space into which masker reads at once. It has to be more
// than the bytes it may hold back.
const minRead = 4 << 10

// masker is the masked form of a NAR. It masks the bytes where its reader wants
// them, and keeps back those that may be the beginning of a reference.
type masker struct {
	ctx     context.Context
	r       io.Reader
	matcher *matcher // nil: nothing more to mask
	off     int64    // of held in the NAR
	held    [RefLen - 1]byte
	nheld   int
	err     error // of r, once held is all that is left

	small [minRead]byte // for readers that want less than minRead
	ready []byte        // of small

	substs []Subst // not yet taken
	count  int
}

func (m *masker) Read(p []byte) (int, error) {
	if len(m.ready) == 0 && len(p) >= minRead {
		return m.fill(p)
	}
	if len(m.ready) == 0 {
		n, err := m.fill(m.small[:])
		if n == 0 {
			return 0, err
		}
		m.ready = m.small[:n]
	}
	n := copy(p, m.ready)
	m.ready = m.ready[n:]
	return n, nil
}

// fill reads at least one byte or returns an error; len(p) is at least minRead.
func (m *masker) fill(p []byte) (int, error) {
	n := copy(p, m.held[:m.nheld])
	for tries := 0; n < RefLen && m.err == nil; tries++ {
		if err := m.ctx.Err(); err != nil {
			return 0, context.Cause(m.ctx)
		}
		var k int
		k, m.err = m.r.Read(p[n:])
		n += k
		if k == 0 && m.err == nil && tries > 100 {
			m.err = io.ErrNoProgress
		}
	}
	m.nheld = 0
	if n == 0 {
		return 0, m.err
	}
	done := n
	if m.matcher != nil {
		done = m.matcher.mask(p[:n], m.found)
	}
	switch {
	case m.count == MaxSubsts:
		m.matcher = nil
		done = n
	case m.err != nil:
		done = n
	default:
		done = max(done, n-len(m.held))
		m.nheld = copy(m.held[:], p[done:n])
	}
	m.off += int64(done)
	return done, nil
}

func (m *masker) found(at int, ref uint32) bool {
	if m.count == MaxSubsts {
		return false
	}
	m.count++
	m.substs = append(m.substs, Subst{Offset: m.off + int64(at), Ref: ref})
	return true
}

// until takes the substitutions before the given offset. The caller may keep
// them.
func (m *masker) until(off int64) []Subst {
	n := 0
	for n < len(m.substs) && m.substs[n].Offset < off {
		n++
	}
	if n == 0 {
		return nil
	}
	taken := m.substs[:n:n]
	m.substs = m.substs[n:]
	return taken
}
