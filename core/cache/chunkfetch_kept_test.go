package cache

import (
	"errors"
	"io"
	"slices"
	"testing"

	"github.com/drv-thru/drv-thru/core/nix"
)

func infosOf(nars []*testNar) []nix.PathInfo {
	infos := make([]nix.PathInfo, len(nars))
	for i, n := range nars {
		infos[i] = n.info
	}
	return infos
}

// With the manifests of an earlier session and its chunk store, nobody is asked.
func TestKept(t *testing.T) {
	nars := []*testNar{newNar(0, 1, 3<<20), newNar(1, 2, 100_000), newNar(2, 3, 700), newNar(3, 4, 1<<20)}
	infos := infosOf(append(nars, nars[1]))
	got := nars[:3] // of the last, the first session has no manifest
	store := newMemChunks()
	first := newChunkFetcher(t, newChunkServer(nars...), ChunkConfig{Store: store})
	if first.Kept(infosOf(got)) {
		t.Error("all is kept before anything has come")
	}
	if err := fetchAll(t, first, got, wholes(got)); err != nil {
		t.Fatal(err)
	}
	first.Flush(t.Context())
	if !first.Kept(infosOf(got)) || first.Kept(infos) {
		t.Error("what is kept is not what has come")
	}
	kept, err := first.AppendManifests([]byte("head"), infos)
	if err != nil || string(kept[:4]) != "head" {
		t.Fatalf("%v, begins with %q", err, kept[:4])
	}
	kept = kept[4:]

	take := func(kept []byte) (*ChunkFetcher, []nix.PathInfo, error) {
		f := NewChunkFetcher(ChunkConfig{Store: store})
		t.Cleanup(func() { f.Close() })
		have, err := f.TakeManifests(kept, infos)
		return f, have, err
	}
	f, have, err := take(kept)
	if want := append(infosOf(got), infos[4]); err != nil || !slices.EqualFunc(have, want, samePath) {
		t.Fatalf("%v: of %d paths there are manifests", err, len(have))
	}
	if err := fetchAll(t, f, got, wholes(got)); err != nil {
		t.Error(err)
	}
	if f.Received() != 0 {
		t.Errorf("%d bytes were received", f.Received())
	}
	f.checkIdle(t)
	if again, err := f.AppendManifests(nil, infos); err != nil || string(again) != string(kept) {
		t.Errorf("%v, or written again they differ", err)
	}
	if err := fetchAll(t, f, nars[3:], wholes(nars[3:])); !errors.Is(err, errNobody) || !isPermanent(err) {
		t.Errorf("of what is not here: %v", err)
	}
	for i := range kept {
		if _, _, err := take(kept[:i]); err == nil {
			t.Fatalf("the first %d of %d bytes were taken for all", i, len(kept))
		}
	}

	lost := nars[0].man[2].ID
	delete(store.chunks, lost)
	f, have, err = take(kept)
	if err != nil || f.Kept(have) || !f.Kept(have[1:]) {
		t.Errorf("%v, or a chunk is not missed", err)
	}
	if err := fetchAll(t, f, got, wholes(got)); !errors.Is(err, errNobody) || !isPermanent(err) {
		t.Errorf("without a chunk: %v", err)
	}
	if _, err := f.Log(t.Context(), "x.drv"); !errors.Is(err, errNobody) || errors.Is(err, io.EOF) {
		t.Errorf("a log: %v", err)
	}
}

func samePath(a, b nix.PathInfo) bool { return a.Path == b.Path }
