package chunk

import (
	"bytes"
	"context"
	"encoding/binary"
	"math/rand/v2"
	"testing"
	"testing/iotest"
)

// randomBytes are the same for the same seed everywhere.
func randomBytes(seed uint64, n int) []byte {
	var key [32]byte
	binary.LittleEndian.PutUint64(key[:], seed)
	p := make([]byte, n)
	rand.NewChaCha8(key).Read(p)
	return p
}

func randomRefs(seed uint64, n int) []Ref {
	raw := randomBytes(seed, n*RefLen)
	refs := make([]Ref, n)
	for i := range refs {
		for j := range refs[i] {
			refs[i][j] = alphabet[raw[i*RefLen+j]%32]
		}
	}
	return SortRefs(refs)
}

// collect cuts nar and checks what Cut promises of each chunk.
func collect(t testing.TB, nar []byte, refs []Ref) (*Manifest, []byte) {
	t.Helper()
	m := &Manifest{Refs: refs}
	var masked []byte
	size, err := Cut(context.Background(), bytes.NewReader(nar), refs, func(c Chunk, p []byte) error {
		if c.Offset != int64(len(masked)) || int(c.Size) != len(p) || c.ID != Sum(p) {
			t.Fatalf("chunk %d is %v with %d bytes at %d", len(m.Chunks), c, len(p), len(masked))
		}
		m.Chunks = append(m.Chunks, c)
		masked = append(masked, p...)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	m.Size = size
	if size != int64(len(nar)) || len(masked) != len(nar) {
		t.Fatalf("cut %d of %d bytes and say %d", len(masked), len(nar), size)
	}
	for i, c := range m.Chunks {
		if c.Size > MaxSize || c.Size < MinSize && i < len(m.Chunks)-1 {
			t.Fatalf("chunk %d of %d has %d bytes", i, len(m.Chunks), c.Size)
		}
	}
	return m, masked
}

// naive is the definition of masking.
func naive(nar []byte, refs []Ref) (masked []byte, substs []Subst) {
	masked = bytes.Clone(nar)
	index := map[Ref]uint32{}
	var first [256]bool
	for i, r := range refs {
		index[r], first[r[0]] = uint32(i), true
	}
	for i := 0; i+RefLen <= len(nar); {
		if !first[nar[i]] {
			i++
			continue
		}
		ref, ok := index[Ref(nar[i:])]
		if !ok || len(substs) == MaxSubsts {
			i++
			continue
		}
		substs = append(substs, Subst{int64(i), ref})
		copy(masked[i:], filler)
		i += RefLen
	}
	return masked, substs
}

func (m *Manifest) substs() (all []Subst) {
	for _, c := range m.Chunks {
		all = append(all, c.Substs...)
	}
	return all
}

// check cuts nar and compares all with the definition, with one byte at a time
// too, and there and back through every chunk and the manifest's encoding.
func check(t testing.TB, nar []byte, refs []Ref) *Manifest {
	t.Helper()
	m, masked := collect(t, nar, refs)
	wantMasked, wantSubsts := naive(nar, refs)
	if !bytes.Equal(masked, wantMasked) {
		t.Fatal("masked bytes differ from the definition")
	}
	got := m.substs()
	if len(got) != len(wantSubsts) {
		t.Fatalf("%d substitutions instead of %d", len(got), len(wantSubsts))
	}
	for i := range got {
		if got[i] != wantSubsts[i] {
			t.Fatalf("substitution %d is %v instead of %v", i, got[i], wantSubsts[i])
		}
	}
	for i, c := range m.Chunks {
		p := bytes.Clone(masked[c.Offset:][:c.Size])
		m.Unmask(i, p)
		if !bytes.Equal(p, nar[c.Offset:][:c.Size]) {
			t.Fatalf("chunk %d unmasked differs", i)
		}
		m.Mask(i, p)
		if Sum(p) != c.ID {
			t.Fatalf("chunk %d masked again differs", i)
		}
	}
	var buf bytes.Buffer
	if err := m.Write(&buf); err != nil {
		t.Fatal(err)
	}
	again, err := ReadManifest(&buf, m.Size)
	if err != nil {
		t.Fatal(err)
	}
	if !equal(m, again) {
		t.Fatal("manifest read again differs")
	}
	return m
}

func equal(a, b *Manifest) bool {
	var x, y bytes.Buffer
	return a.Write(&x) == nil && b.Write(&y) == nil && bytes.Equal(x.Bytes(), y.Bytes())
}

// cutSlowly cuts with a reader that returns little at once.
func cutSlowly(t testing.TB, nar []byte, refs []Ref) *Manifest {
	t.Helper()
	m := &Manifest{Refs: refs}
	var err error
	m.Size, err = Cut(context.Background(), iotest.DataErrReader(iotest.HalfReader(bytes.NewReader(nar))), refs, func(c Chunk, _ []byte) error {
		m.Chunks = append(m.Chunks, c)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return m
}
