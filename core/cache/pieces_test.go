package cache

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/drv-thru/drv-thru/core/chunk"
	"github.com/drv-thru/drv-thru/core/nix"
)

// inFile puts all chunks into a file, too.
func (m *memChunks) inFile(t *testing.T) {
	t.Helper()
	f, err := os.Create(filepath.Join(t.TempDir(), "chunks"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	m.file, m.at = f, make(map[chunk.ID]int64)
	var off int64
	for id, data := range m.chunks {
		if _, err := f.WriteAt(data, off); err != nil {
			t.Fatal(err)
		}
		m.at[id] = off
		off += int64(len(data))
	}
}

// filedView shows NARs that a chunk store has whole, the first of which has references in
// its first half alone.
func filedView(t *testing.T) (v *View, store *memChunks, nars []*testNar) {
	t.Helper()
	nars = []*testNar{newNar(0, 1, 2<<20), newNar(1, 2, 300_000), newNar(2, 3, 10_000)}
	big := nars[0]
	copy(big.data[1<<20:], newNar(9, 9, 1<<20).data)
	big.cut()
	infos := infosOf(nars)
	store = newMemChunks()
	first := newChunkFetcher(t, newChunkServer(nars...), ChunkConfig{Store: store})
	if err := fetchAll(t, first, nars, wholes(nars)); err != nil {
		t.Fatal(err)
	}
	first.Flush(t.Context())
	manifests, err := first.AppendManifests(nil, infos)
	if err != nil {
		t.Fatal(err)
	}
	store.inFile(t)
	store.gets = 0
	f := NewChunkFetcher(ChunkConfig{Store: store})
	t.Cleanup(func() { f.Close() })
	if _, err := f.TakeManifests(manifests, infos); err != nil {
		t.Fatal(err)
	}
	var seen uint64
	v, err = NewView(nil, ViewConfig{Fetcher: f, Filed: 300_000, Progress: func(p Progress) {
		if p.Path == big.info.Path && p.Fetched > seen {
			seen = p.Fetched
		}
	}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		v.Close()
		if seen > 0 && seen != uint64(len(big.data)) {
			t.Errorf("at the end, %d of %d bytes were told of", seen, len(big.data))
		}
	})
	if err := v.AddInfos(infos)(); err != nil {
		t.Fatal(err)
	}
	return v, store, nars
}

// gather reads a NAR from files where they have it, and else by Load.
func gather(t *testing.T, v *View, name string) (nar []byte, filed, loaded int) {
	t.Helper()
	pieces, err := v.Pieces(t.Context(), name)
	if err != nil || pieces == nil {
		t.Fatalf("pieces of %s: %v", name, err)
	}
	for p := range pieces {
		b := make([]byte, p.Size)
		if p.File != nil {
			filed++
			if _, err := p.File.ReadAt(b, p.Offset); err != nil {
				t.Fatal(err)
			}
		} else {
			loaded++
			if b, err = p.Load(); err != nil || int64(len(b)) != p.Size {
				t.Fatalf("%d bytes of %d, %v", len(b), p.Size, err)
			}
		}
		nar = append(nar, b...)
	}
	return nar, filed, loaded
}

func TestPieces(t *testing.T) {
	v, store, nars := filedView(t)
	big := nars[0]
	name := nix.NarURL(big.info.NarHash)
	nar, filed, loaded := gather(t, v, name)
	if !bytes.Equal(nar, big.data) {
		t.Error("the NAR is another")
	}
	if filed == 0 || loaded == 0 || store.gets != loaded {
		t.Errorf("%d pieces are in a file and %d are not; %d chunks were read", filed, loaded, store.gets)
	}
	if got := v.Stats().Read; got != uint64(len(big.data)) {
		t.Errorf("%d bytes were read", got)
	}

	// What cannot be taken from the file can be loaded, unless it is damaged.
	pieces, err := v.Pieces(t.Context(), name)
	if err != nil {
		t.Fatal(err)
	}
	var off int64
	for p := range pieces {
		if b, err := p.Load(); err != nil || !bytes.Equal(b, big.data[off:off+p.Size]) {
			t.Errorf("loaded at %d: %v", off, err)
		}
		if off += p.Size; off < int64(len(big.data)) {
			continue
		}
		store.chunks[big.man[len(big.man)-1].ID][7] ^= 1
		if _, err := p.Load(); !errors.Is(err, errNotFiled) {
			t.Errorf("a damaged chunk: %v", err)
		}
	}
	v.Fail(name, errNotFiled)
	select {
	case <-v.Failed():
	default:
		t.Error("the View has not failed")
	}
	if err := v.Err(); !errors.Is(err, errNotFiled) {
		t.Errorf("the View's error is %v", err)
	}
}

// What is too small is read from the View, as is everything where nothing is filed.
func TestNoPieces(t *testing.T) {
	v, _, nars := filedView(t)
	for name, v := range map[string]*View{
		"a small NAR":           v,
		"a View without Filed":  newTestView(t, nars, ViewConfig{Fetcher: v.cfg.Fetcher}),
		"a Fetcher without any": newTestView(t, nars, ViewConfig{Fetcher: struct{ Fetcher }{v.cfg.Fetcher}, Filed: 1}),
	} {
		if pieces, err := v.Pieces(t.Context(), nix.NarURL(nars[2].info.NarHash)); pieces != nil || err != nil {
			t.Errorf("%s has pieces, or %v", name, err)
		}
	}
	if _, err := v.Pieces(t.Context(), "nar/none"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("of no NAR: %v", err)
	}
}

func newTestView(t *testing.T, nars []*testNar, cfg ViewConfig) *View {
	t.Helper()
	v, err := NewView(nil, cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { v.Close() })
	if err := v.AddInfos(infosOf(nars))(); err != nil {
		t.Fatal(err)
	}
	return v
}

// What is filed is not fetched ahead, but can be read as a file all the same.
func TestFiledIsNotFetchedAhead(t *testing.T) {
	v, _, nars := filedView(t)
	v.RunAhead(nil)
	small := len(nars[2].data)
	for end := time.Now().Add(10 * time.Second); v.Stats().Fetched < uint64(small) && time.Now().Before(end); {
		time.Sleep(time.Millisecond)
	}
	if got := v.Stats().Fetched; got != uint64(small) {
		t.Errorf("%d bytes were fetched ahead, want %d", got, small)
	}
	for _, n := range nars {
		f, err := v.OpenFile(t.Context(), nix.NarURL(n.info.NarHash))
		if err != nil {
			t.Fatal(err)
		}
		b := make([]byte, len(n.data))
		if _, err := f.ReadAt(b, 0); err != nil || !bytes.Equal(b, n.data) {
			t.Errorf("NAR of %d bytes: %v", len(n.data), err)
		}
		f.Close()
	}
}
