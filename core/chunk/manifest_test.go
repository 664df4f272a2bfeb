package chunk

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"testing"
	"testing/iotest"
)

func sample(t testing.TB) (*Manifest, []byte) {
	refs := randomRefs(20, 4)
	nar := plant(make([]byte, 2*MaxSize+100), refs, 0, 40, MaxSize-5, MaxSize+27, 2*MaxSize+100-RefLen)
	m := check(t, nar, refs)
	var buf bytes.Buffer
	if err := m.Write(&buf); err != nil {
		t.Fatal(err)
	}
	return m, buf.Bytes()
}

func TestManifestStream(t *testing.T) {
	m, encoded := sample(t)
	// One byte at a time, and nothing beyond the end is read.
	r := bufio.NewReader(iotest.OneByteReader(bytes.NewReader(append(bytes.Clone(encoded), "next"...))))
	got, err := ReadManifest(r, m.Size)
	if err != nil {
		t.Fatal(err)
	}
	if !equal(got, m) {
		t.Fatal("read something else")
	}
	if rest, _ := io.ReadAll(r); string(rest) != "next" {
		t.Fatalf("the rest is %q", rest)
	}
	for n := range encoded {
		if _, err := ReadManifest(bytes.NewReader(encoded[:n]), m.Size); !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Fatalf("cut short at %d of %d: %v", n, len(encoded), err)
		}
	}
	for _, size := range []int64{0, 1, m.Size - 1, m.Size + 1, 1 << 40} {
		if _, err := ReadManifest(bytes.NewReader(encoded), size); !errors.Is(err, ErrManifest) {
			t.Errorf("size %d: %v", size, err)
		}
	}
	d, err := NewDecoder(bytes.NewReader(encoded), m.Size)
	if err != nil {
		t.Fatal(err)
	}
	d.check.substs = MaxSubsts - 1
	if _, err := d.Next(); !errors.Is(err, ErrManifest) {
		t.Fatalf("more than MaxSubsts: %v", err)
	}
	if d, err = NewDecoder(bytes.NewReader(encoded), m.Size); err != nil {
		t.Fatal(err)
	}
	for range m.Chunks {
		if _, err := d.Next(); err != nil {
			t.Fatal(err)
		}
	}
	for range 2 {
		if _, err := d.Next(); err != io.EOF {
			t.Fatal(err)
		}
	}
}

// Chunks can be read before the manifest is complete.
func TestManifestEarly(t *testing.T) {
	m, _ := sample(t)
	r, w := io.Pipe()
	done := make(chan error, 1)
	go func() {
		e := NewEncoder(w, m.Refs)
		for _, c := range m.Chunks {
			if err := errors.Join(e.Chunk(c), e.Flush()); err != nil {
				done <- err
				return
			}
		}
		done <- e.Close()
	}()
	d, err := NewDecoder(bufio.NewReader(r), m.Size)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range m.Chunks[:2] {
		c, err := d.Next()
		if err != nil || c.ID != want.ID {
			t.Fatal(c, err)
		}
	}
	select {
	case err := <-done:
		t.Fatalf("the encoder has ended already: %v", err)
	default:
	}
	for err == nil {
		_, err = d.Next()
	}
	if err != io.EOF || <-done != nil {
		t.Fatal(err)
	}
}

// raw builds manifests that an Encoder would not write.
type raw []byte

func (r raw) n(numbers ...uint64) raw {
	for _, n := range numbers {
		r = binary.AppendUvarint(r, n)
	}
	return r
}
func (r raw) ref(b byte) raw { return append(r, bytes.Repeat([]byte{b}, rawRef)...) }
func (r raw) id() raw        { return append(r, make([]byte, 32)...) }

// chunk is a chunk without substitutions.
func (r raw) chunk(size uint64) raw { return r.n(size).id().n(0) }

func TestManifestDamaged(t *testing.T) {
	begin := raw(magic)
	one := begin.n(1).ref(7)
	for name, c := range map[string]struct {
		in   raw
		size int64
	}{
		"magic":                       {raw("DTM\x02").n(0, 0, 0), 0},
		"references":                  {begin.n(MaxRefs + 1), 100},
		"references unsorted":         {begin.n(2).ref(2).ref(1), 100},
		"reference twice":             {begin.n(2).ref(2).ref(2), 100},
		"chunk too large":             {begin.n(0).chunk(MaxSize + 1), 1 << 30},
		"small chunk inside":          {begin.n(0).chunk(MinSize-1).chunk(MinSize).n(0, 2*MinSize-1), 2*MinSize - 1},
		"more than the NAR":           {begin.n(0).chunk(MinSize).chunk(MinSize), 2*MinSize - 1},
		"less than the NAR":           {begin.n(0).chunk(MinSize).n(0, MinSize), 2 * MinSize},
		"other total":                 {begin.n(0).chunk(MinSize).n(0, MinSize+1), MinSize},
		"total beyond 63 bits":        {begin.n(0).chunk(MinSize).n(0, 1<<63), MinSize},
		"long number":                 {append(begin, 0x80, 0), 0},
		"number beyond 64 bits":       {append(begin, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2), 0},
		"number with bits lost":       {append(begin, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 2).n(0, 0), 0},
		"substitutions":               {one.n(MinSize).id().n(MinSize/RefLen+1, 0, 0), MinSize},
		"reference out of range":      {one.n(MinSize).id().n(1, 0, 1), MinSize},
		"substitution at the border":  {one.n(MinSize).id().n(1, MinSize, 0), 2 * MinSize},
		"substitution behind another": {one.n(MinSize).id().n(2, 0, 0, MinSize-RefLen, 0), 2 * MinSize},
		"substitution past the end":   {one.n(MinSize).id().n(1, MinSize-RefLen+1, 0).n(0, MinSize), MinSize},
		"substitution without a ref":  {begin.n(0).n(MinSize).id().n(1, 0, 0), MinSize},
	} {
		if m, err := ReadManifest(bytes.NewReader(c.in), c.size); !errors.Is(err, ErrManifest) {
			t.Errorf("%s: %v, %v", name, m, err)
		}
	}
}

// An encoder refuses what a decoder would.
func TestEncoderRefuses(t *testing.T) {
	refs := randomRefs(21, 2)
	for name, chunks := range map[string][]Chunk{
		"large":     {{Size: MaxSize + 1}},
		"empty":     {{Size: 0}},
		"small":     {{Size: 1}, {Size: MinSize}},
		"overlap":   {{Size: MinSize, Substs: []Subst{{0, 0}, {31, 0}}}},
		"ref":       {{Size: MinSize, Substs: []Subst{{0, 2}}}},
		"before":    {{Size: MinSize}, {Size: MinSize, Substs: []Subst{{5, 0}}}},
		"after":     {{Size: MinSize, Substs: []Subst{{MinSize, 0}}}},
		"past end":  {{Size: MinSize, Substs: []Subst{{MinSize - 1, 0}}}},
		"over last": {{Size: MinSize, Substs: []Subst{{MinSize - 1, 0}}}, {Size: 30}},
	} {
		m := &Manifest{Refs: refs, Chunks: chunks}
		for _, c := range chunks {
			m.Size += int64(c.Size)
		}
		if err := m.Write(io.Discard); !errors.Is(err, ErrManifest) {
			t.Errorf("%s: %v", name, err)
		}
	}
	m := &Manifest{Chunks: []Chunk{{Size: MinSize}}, Size: MinSize + 1}
	if err := m.Write(io.Discard); !errors.Is(err, ErrManifest) {
		t.Errorf("another size than that of its chunks: %v", err)
	}
	if err := NewEncoder(io.Discard, []Ref{refs[1], refs[0]}).Close(); err == nil {
		t.Error("unsorted references are written")
	}
	full := errors.New("full")
	e := NewEncoder(writerFunc(func([]byte) (int, error) { return 0, full }), refs)
	if err := e.Close(); !errors.Is(err, full) {
		t.Error(err)
	}
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }

// What is decoded is encoded to the same bytes, and nothing else is taken.
func FuzzManifest(f *testing.F) {
	m, encoded := sample(f)
	f.Add(encoded, m.Size)
	f.Add([]byte(raw(magic).n(0).chunk(MinSize).n(0, MinSize)), int64(MinSize))
	f.Add([]byte(raw(magic).n(1).ref(3).n(100).id().n(2, 3, 0, 0, 0).n(0, 100)), int64(100))
	f.Fuzz(func(t *testing.T, in []byte, size int64) {
		r := bytes.NewReader(in)
		m, err := ReadManifest(r, size)
		if err != nil {
			return
		}
		var buf bytes.Buffer
		if err := m.Write(&buf); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(buf.Bytes(), in[:len(in)-r.Len()]) {
			t.Fatalf("%x becomes %x", in, buf.Bytes())
		}
		for i, c := range m.Chunks {
			if c.Size <= 1<<20 {
				m.Unmask(i, make([]byte, c.Size))
			}
		}
	})
}
