package chunk

import (
	"bytes"
	"context"
	"errors"
	"io"
	"strings"
	"testing"
	"testing/iotest"
)

// plant copies refs into nar at the given offsets, in turn.
func plant(nar []byte, refs []Ref, offsets ...int) []byte {
	for i, off := range offsets {
		copy(nar[off:], refs[i%len(refs)][:])
	}
	return nar
}

func TestCut(t *testing.T) {
	refs := randomRefs(1, 5)
	big := randomBytes(2, 400_000)
	huge := randomBytes(2, 2*window+100)
	for name, nar := range map[string][]byte{
		"empty":            {},
		"one byte":         {1},
		"only a reference": refs[0][:],
		"31 bytes":         refs[0][:31],
		"smallest":         randomBytes(3, MinSize),
		"normal":           randomBytes(3, NormalSize),
		"normal and one":   randomBytes(3, NormalSize+1),
		"zeros":            make([]byte, 2*MaxSize+5),
		"filler":           bytes.Repeat([]byte(filler), 10_000),
		"alphabet":         bytes.Repeat([]byte(alphabet), 10_000),
		"references only":  bytes.Repeat(refs[2][:], 10_000),
		"at both ends":     plant(bytes.Clone(big), refs, 0, len(big)-RefLen),
		"side by side":     plant(bytes.Clone(big), refs, 5000, 5032, 5064, 5097),
		"around a window":  plant(huge, refs, window-40, window-5, 2*window-1, 2*window+31),
		"cut short":        append(bytes.Clone(big), refs[1][:31]...),
	} {
		t.Run(name, func(t *testing.T) {
			m := check(t, nar, refs)
			if !equal(m, cutSlowly(t, nar, refs)) {
				t.Fatal("small reads cut elsewhere")
			}
			check(t, nar, nil)
		})
	}
}

// Overlapping references: the left one counts.
func TestCutOverlap(t *testing.T) {
	a := Ref([]byte(strings.Repeat("0123456789abcdfg", 2)))
	b := Ref([]byte("8" + "9abcdfg0123456789abcdfg01234567"))
	c := Ref([]byte(strings.Repeat("0", RefLen)))
	refs := SortRefs([]Ref{a, b, c})
	for pad := range 40 {
		nar := append(make([]byte, pad), bytes.Repeat([]byte("0123456789abcdfg"), 9)...)
		nar = append(append(nar, bytes.Repeat([]byte("0"), 100)...), a[:]...)
		check(t, nar, refs)
	}
}

// A reference that a border cuts into two is put back from either side. The
// borders are where the largest size strikes, because others move with it.
func TestStraddle(t *testing.T) {
	refs := randomRefs(4, 3)
	for _, before := range []int{0, 1, 16, 31, 32} {
		nar := plant(make([]byte, 3*MaxSize), refs, MaxSize-before, 2*MaxSize-before)
		m := check(t, nar, refs)
		if len(m.Chunks) < 3 || m.Chunks[1].Offset != MaxSize || m.Chunks[2].Offset != 2*MaxSize {
			t.Fatalf("%d bytes before: the borders moved", before)
		}
		if n := len(m.Chunks[0].Substs); n != min(before, 1) {
			t.Fatalf("%d bytes before: %d substitutions in the first chunk", before, n)
		}
	}
}

// What masking is for: other references, same chunks.
func TestCutSameChunks(t *testing.T) {
	nar := randomBytes(6, 2<<20)
	var at []int
	for off := 1000; off < len(nar)-RefLen; off += 9973 {
		at = append(at, off)
	}
	one, two := randomRefs(7, 4), randomRefs(8, 4)
	a := check(t, plant(bytes.Clone(nar), one, at...), one)
	b := check(t, plant(bytes.Clone(nar), two, at...), two)
	if len(a.Chunks) != len(b.Chunks) || len(a.Chunks) < 20 {
		t.Fatalf("%d and %d chunks", len(a.Chunks), len(b.Chunks))
	}
	for i := range a.Chunks {
		if a.Chunks[i].ID != b.Chunks[i].ID {
			t.Errorf("chunk %d differs", i)
		}
	}
}

func TestCutManyRefs(t *testing.T) {
	refs := randomRefs(9, 20_000)
	nar := randomBytes(10, 400_000)
	for i := range 3000 {
		copy(nar[i*130:], refs[i*6][:])
	}
	check(t, nar, refs)
}

// Beyond MaxSubsts nothing is masked.
func TestMaxSubsts(t *testing.T) {
	refs := randomRefs(11, 2)
	nar := bytes.Repeat(refs[1][:], 1000)
	m := &masker{ctx: t.Context(), r: bytes.NewReader(nar), matcher: newMatcher(refs), count: MaxSubsts - 3}
	masked, err := io.ReadAll(m)
	if err != nil {
		t.Fatal(err)
	}
	want := append(bytes.Repeat([]byte(filler), 3), nar[3*RefLen:]...)
	if !bytes.Equal(masked, want) || len(m.until(int64(len(nar)))) != 3 {
		t.Fatal("masked beyond the limit")
	}
}

func TestCutErrors(t *testing.T) {
	refs := randomRefs(12, 3)
	nar := randomBytes(13, 1<<20)
	none := func(Chunk, []byte) error { return nil }
	broken := errors.New("broken disk")
	if _, err := Cut(t.Context(), iotest.ErrReader(broken), refs, none); !errors.Is(err, broken) {
		t.Errorf("error of the reader: %v", err)
	}
	if _, err := Cut(t.Context(), io.MultiReader(bytes.NewReader(nar), iotest.ErrReader(broken)), refs, none); !errors.Is(err, broken) {
		t.Errorf("error of the reader after data: %v", err)
	}
	full := errors.New("disk full")
	if _, err := Cut(t.Context(), bytes.NewReader(nar), refs, func(Chunk, []byte) error { return full }); !errors.Is(err, full) {
		t.Errorf("error of emit: %v", err)
	}
	if _, err := Cut(t.Context(), bytes.NewReader(nar), []Ref{refs[1], refs[0]}, none); err == nil {
		t.Error("unsorted references are taken")
	}
	if _, err := Cut(t.Context(), bytes.NewReader(nar), []Ref{Ref([]byte(filler))}, none); err == nil {
		t.Error("a reference of other characters is taken")
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Cut(ctx, bytes.NewReader(nar), refs, none); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
}

// Shifted data has the same chunks again after the place of the shift.
func TestCutShift(t *testing.T) {
	nar := randomBytes(14, 4<<20)
	a, _ := collect(t, nar, nil)
	have := map[ID]bool{}
	for _, c := range a.Chunks {
		have[c.ID] = true
	}
	edited := append(append(bytes.Clone(nar[:2<<20]), "an odd insertion"...), nar[2<<20:]...)
	b, _ := collect(t, edited, nil)
	fresh := 0
	for _, c := range b.Chunks {
		if !have[c.ID] {
			fresh += int(c.Size)
		}
	}
	if fresh > 1<<20 {
		t.Fatalf("%d new bytes after one insertion", fresh)
	}
}

func FuzzCut(f *testing.F) {
	f.Add([]byte("0123456789abcdfghijklmnpqrsvwxyz0123456789abcdfghijklmnpqrsvwxyz"), uint8(1), uint16(100), uint32(5))
	f.Add([]byte(alphabet+alphabet[3:]), uint8(3), uint16(3000), uint32(70))
	f.Fuzz(func(t *testing.T, data []byte, nrefs uint8, repeat uint16, seed uint32) {
		if len(data) > 2000 {
			return
		}
		refs := randomRefs(uint64(seed), int(nrefs))
		for i := 0; i+RefLen <= len(data) && i < 64; i += 7 {
			if r := Ref(data[i:]); r.valid() {
				refs = append(refs, r)
			}
		}
		refs = SortRefs(refs)
		nar := bytes.Repeat(data, int(repeat)%200)
		for i := range refs {
			nar = append(nar, refs[i][:]...)
			nar = append(nar, data[:min(len(data), i%40)]...)
		}
		nar = append(nar, randomBytes(uint64(seed), int(seed%200_000))...)
		check(t, nar, refs)
	})
}

func FuzzUnmask(f *testing.F) {
	f.Add([]byte("hello"), int64(0), int64(-5), int64(40))
	f.Fuzz(func(t *testing.T, p []byte, off, first, gap int64) {
		const far = 1 << 40
		if off < 0 || off > far || first < -100 || first > far || gap < RefLen || gap > far {
			return
		}
		refs := randomRefs(1, 2)
		substs := []Subst{{off + first, 0}, {off + first + gap, 1}}
		Unmask(p, off, refs, substs)
		want := bytes.Clone(p)
		Mask(p, off, substs)
		for i := range p {
			in := false
			for _, s := range substs {
				in = in || off+int64(i) >= s.Offset && off+int64(i) < s.Offset+RefLen
			}
			if in != (p[i] == 't' && want[i] != 't') {
				t.Fatalf("byte %d: %q from %q", i, p[i], want[i])
			}
		}
		Unmask(p, off, refs, substs)
		if !bytes.Equal(p, want) {
			t.Fatal("unmasking is not the inverse of masking")
		}
	})
}
