package cache

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/drv-thru/drv-thru/core/chunk"
	"github.com/drv-thru/drv-thru/core/nix"
)

func flip(t *testing.T, name string, at int64) {
	t.Helper()
	f, err := os.OpenFile(name, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var b [1]byte
	if _, err := f.ReadAt(b[:], at); err != nil {
		t.Fatal(err)
	}
	b[0] ^= 1
	if _, err := f.WriteAt(b[:], at); err != nil {
		t.Fatal(err)
	}
}

// Wherever a byte of an index file is flipped, the file is found to be damaged,
// and the NAR is cut anew.
func TestIndexFlippedByte(t *testing.T) {
	e := newChunkEnv(t)
	info := e.store.add(t, 1, map[string]string{"noise": noise(1, 200<<10), "link to": string(storePath(2))}, 2)
	want := e.store.nar(t, info.Path)
	e.whole(info, want)
	e.settle()
	file := e.index.file(info.Path)
	st, err := os.Stat(file)
	if err != nil {
		t.Fatal(err)
	}
	for i, at := range []int64{0, 9, 100, st.Size() / 2, st.Size() - 33, st.Size() - 1} {
		flip(t, file, at)
		e.restart()
		e.whole(info, want)
		e.settle()
		if scans := e.store.scans(info.Path); scans != i+2 {
			t.Errorf("byte %d flipped: walked %d times, want %d", at, scans, i+2)
		}
	}
	if err := os.Truncate(file, 10); err != nil {
		t.Fatal(err)
	}
	e.restart()
	e.whole(info, want)
	if e.restart(); e.index.has(info.Path) == false {
		t.Error("it was not written again")
	}
}

// A byte of a store file is flipped: its chunk is not sent, the others are, and
// the next one to ask learns that the path cannot be had. Once it is whole
// again it can.
func TestStoreFlippedByte(t *testing.T) {
	e := newChunkEnv(t)
	now := time.Now()
	e.s.cfg.Now = func() time.Time { return now }
	info := e.store.add(t, 1, map[string]string{"noise": noise(1, 1<<20)})
	want := e.store.nar(t, info.Path)
	m := e.manifests(false, info)[0]
	e.settle()
	file := filepath.Join(e.store.file(info.Path), "noise")
	flip(t, file, 500<<10)
	data, unavailable := e.chunks(info, m, 1<<40)
	if unavailable == 0 || len(data) < 500<<10-chunk.MaxSize || !bytes.Equal(data, want[:len(data)]) {
		t.Errorf("%d chunks unavailable, %d bytes", unavailable, len(data))
	}
	if e.index.has(info.Path) {
		t.Error("its index is still there")
	}
	if m := e.manifests(false, info)[0]; m != nil {
		t.Error("a manifest of what is not the path")
	}
	scans := e.store.scans(info.Path)
	if m := e.manifests(false, info)[0]; m != nil || e.store.scans(info.Path) != scans {
		t.Error("it was cut again and again")
	}
	if !strings.Contains(e.logs.String(), "verify-path") {
		t.Errorf("the log does not say what to do:\n%s", e.logs.String())
	}
	flip(t, file, 500<<10) // repaired
	now = now.Add(damagedFor)
	e.whole(info, want)
	e.settle()
	if !e.index.has(info.Path) {
		t.Error("it is not in the index again")
	}
}

// A path is collected while it is read.
func TestStoreCollected(t *testing.T) {
	e := newChunkEnv(t)
	files := map[string]string{"a": noise(1, 500<<10), "b": noise(2, 500<<10)}
	info := e.store.add(t, 1, files)
	m := e.manifests(false, info)[0]
	e.settle()
	if err := os.RemoveAll(e.store.file(info.Path)); err != nil {
		t.Fatal(err)
	}
	// What is open can still be read.
	if _, unavailable := e.chunks(info, m, 1<<40); unavailable == 0 {
		t.Error("nothing is unavailable")
	}
	if e.index.has(info.Path) {
		t.Error("its index is still there")
	}
	if m := e.manifests(false, info)[0]; m != nil {
		t.Error("a manifest of what is not there")
	}
	// Built again.
	e.store.add(t, 1, files)
	e.whole(info, e.store.nar(t, info.Path))
}

// The same path with other contents: the index of the old ones is not used.
func TestStoreBuiltAgainOtherwise(t *testing.T) {
	e := newChunkEnv(t)
	old := e.store.add(t, 1, map[string]string{"a": noise(1, 500<<10)})
	e.whole(old, e.store.nar(t, old.Path))
	e.settle()
	fresh := e.store.add(t, 1, map[string]string{"a": noise(2, 500<<10)})
	e.whole(fresh, e.store.nar(t, fresh.Path))
	e.restart()
	e.whole(fresh, e.store.nar(t, fresh.Path))
}

func TestIndexQuota(t *testing.T) {
	e := newChunkEnv(t)
	now := time.Unix(1_000_000, 0)
	var infos []nix.PathInfo
	for i := range 20 {
		infos = append(infos, e.store.add(t, i, map[string]string{"a": noise(byte(i), 70<<10)}))
	}
	e.s.Close()
	var err error
	dir := t.TempDir()
	open := func(quota int64) {
		t.Helper()
		if e.index, err = OpenIndex(IndexConfig{Dir: dir, MaxBytes: quota, Now: func() time.Time { return now }}); err != nil {
			t.Fatal(err)
		}
		e.s = NewServer(ServerConfig{Infos: e.store, Nars: e.store, Key: e.s.cfg.Key, Index: e.index, Now: time.Now})
	}
	open(10 * diskBlock)
	for _, info := range infos {
		now = now.Add(time.Minute)
		e.manifests(false, info)
		e.settle()
		// Files written within a tick of the kernel's clock would have one time.
		if err := os.Chtimes(e.index.file(info.Path), now, now); err != nil {
			t.Fatal(err)
		}
		if e.index.has(infos[0].Path) {
			e.index.load(infos[0]) // used all the time
		}
	}
	files, bytes := e.index.Usage()
	entries, err := os.ReadDir(filepath.Join(dir, indexVersion))
	if err != nil || bytes > 10*diskBlock || files < 5 || len(entries) != files {
		t.Errorf("%d files of %d bytes, %d on disk, %v", files, bytes, len(entries), err)
	}
	if !e.index.has(infos[0].Path) || !e.index.has(infos[19].Path) || e.index.has(infos[1].Path) {
		t.Error("it is not what was used longest ago that goes")
	}
	// A smaller quota, and the order of use, survive a restart.
	e.s.Close()
	open(3 * diskBlock)
	if files, bytes := e.index.Usage(); files == 0 || bytes > 3*diskBlock || !e.index.has(infos[19].Path) {
		t.Errorf("%d files of %d bytes", files, bytes)
	}
}

// What is written again counts once: else the index would be emptied more and more.
func TestIndexCountsOnce(t *testing.T) {
	x, err := OpenIndex(IndexConfig{Dir: t.TempDir(), Now: time.Now})
	if err != nil {
		t.Fatal(err)
	}
	k := sampleKnown(t)
	for range 2 {
		if err := x.store(k); err != nil {
			t.Fatal(err)
		}
	}
	st, err := os.Stat(x.file(k.info.Path))
	if err != nil {
		t.Fatal(err)
	}
	if files, bytes := x.Usage(); files != 1 || bytes != onDisk(st.Size()) {
		t.Errorf("%d files of %d bytes, not one of %d", files, bytes, st.Size())
	}
}

func TestIndexOtherVersions(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"v0/old", indexVersion + "/.new-1", indexVersion + "/no path", "stray"} {
		if err := os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), []byte("x"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	x, err := OpenIndex(IndexConfig{Dir: dir, Now: time.Now})
	if err != nil {
		t.Fatal(err)
	}
	left, err := filepath.Glob(filepath.Join(dir, "*", "*"))
	if err != nil || len(left) != 0 {
		t.Errorf("left: %q, %v", left, err)
	}
	if files, bytes := x.Usage(); files != 0 || bytes != 0 {
		t.Errorf("%d files, %d bytes", files, bytes)
	}
}

func TestIndexSweep(t *testing.T) {
	e := newChunkEnv(t)
	var infos []nix.PathInfo
	for i := range 5 {
		infos = append(infos, e.store.add(t, i, map[string]string{"a": noise(byte(i), 70<<10)}))
	}
	e.manifests(false, infos...)
	e.settle()
	valid := func(_ context.Context, paths []nix.Path) ([]nix.Path, error) {
		return slices.DeleteFunc(slices.Clone(paths), func(p nix.Path) bool { return p == storePath(1) || p == storePath(3) }), nil
	}
	for dryRun, left := range map[bool]int{true: 5, false: 3} {
		gone, err := e.index.Sweep(t.Context(), valid, dryRun)
		if err != nil || !dryRun && len(gone) != 2 {
			t.Fatalf("%v, %v", gone, err)
		}
		if files, _ := e.index.Usage(); files != left && !(dryRun && files == 3) {
			t.Errorf("%d files, want %d", files, left)
		}
	}
	gone, err := e.index.Sweep(t.Context(), valid, true)
	if files, _ := e.index.Usage(); files != 3 || len(gone) != 0 || err != nil {
		t.Errorf("%d files, %v, %v", files, gone, err)
	}
	broken := errors.New("no daemon")
	if _, err := e.index.Sweep(t.Context(), func(context.Context, []nix.Path) ([]nix.Path, error) { return nil, broken }, false); !errors.Is(err, broken) {
		t.Errorf("got %v", err)
	}
	if files, _ := e.index.Usage(); files != 3 {
		t.Errorf("%d files after an error", files)
	}
}

// Without a disk to write to, all works but for the memory of it.
func TestIndexDiskFull(t *testing.T) {
	e := newChunkEnv(t)
	info := e.store.add(t, 1, map[string]string{"a": noise(1, 1<<20)})
	if err := os.RemoveAll(e.index.dir); err != nil {
		t.Fatal(err)
	}
	e.whole(info, e.store.nar(t, info.Path))
	e.settle()
	if e.index.has(info.Path) {
		t.Error("it has what it could not write")
	}
}

func TestPrepare(t *testing.T) {
	e := newChunkEnv(t)
	var infos []nix.PathInfo
	for i := range 5 {
		infos = append(infos, e.store.add(t, i, map[string]string{"a": noise(byte(i), 30<<10*i)}))
	}
	gone := nix.PathInfo{Path: storePath(99), NarHash: infos[0].NarHash, NarSize: 1 << 20}
	e.s.Prepare(append([]nix.PathInfo{gone}, infos...))
	e.settle()
	for i, info := range infos {
		if e.index.has(info.Path) != (info.NarSize > smallNar) {
			t.Errorf("%d: in the index: %v", i, e.index.has(info.Path))
		}
	}
	e.s.Prepare(infos)
	e.settle()
	e.manifests(true, infos...)
	for i, info := range infos {
		if n := e.store.scans(info.Path); n != 1 {
			t.Errorf("%d was walked %d times", i, n)
		}
	}
}

// A NAR that is cut in the background is not waited for by requests for others,
// and a request for it does not wait for the background's patience.
func TestPrepareYields(t *testing.T) {
	e := newChunkEnv(t)
	info := e.store.add(t, 1, map[string]string{"a": noise(1, 8<<20)})
	e.s.busy.Add(1) // somebody else's request, for as long as the test
	defer e.s.busy.Add(-1)
	e.s.Prepare([]nix.PathInfo{info})
	e.whole(info, e.store.nar(t, info.Path))
	if n := e.store.scans(info.Path); n != 1 {
		t.Errorf("walked %d times", n)
	}
}

// countedNar counts itself while it is open.
type countedNar struct {
	Nar
	open *atomic.Int32
}

func (n countedNar) Skeleton() []byte { return nil }
func (n countedNar) Close() error     { n.open.Add(-1); return nil }

// A tree that was served does not stay open, and with it on the disk what garbage
// collection has removed of it.
func TestIdleTreesAreClosed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var all entries
		var open atomic.Int32
		serve := func(i int) {
			e, _ := all.get(nix.PathInfo{Path: storePath(i), NarSize: smallNar + 1}, true)
			if e.nar == nil {
				e.nar = countedNar{open: &open}
				open.Add(1)
			}
			all.put(e)
		}
		serve(1)
		serve(2)
		time.Sleep(keepOpen / 2)
		serve(1) // in use again
		for _, want := range []int32{2, 1, 0} {
			synctest.Wait()
			if n := open.Load(); n != want {
				t.Errorf("%d trees are open, want %d", n, want)
			}
			time.Sleep(keepOpen / 2)
		}
	})
}

func TestEntriesAreBounded(t *testing.T) {
	e := newChunkEnv(t)
	for i := range 2 * keepEntries {
		e.manifests(false, e.store.add(t, i, map[string]string{"a": noise(byte(i), 70<<10)}))
	}
	e.settle()
	e.s.entries.mu.Lock()
	defer e.s.entries.mu.Unlock()
	if n := len(e.s.entries.byPath); n != keepEntries || e.s.entries.weight <= 0 {
		t.Errorf("%d entries of %d bytes", n, e.s.entries.weight)
	}
}

// A tree of very many files weighs more than all that is kept in memory: it stays all the
// same for the requests that follow, which would each have to walk it again, and small
// NARs stay beside it.
func TestLargeLayoutStays(t *testing.T) {
	e := newChunkEnv(t)
	small := e.store.add(t, 1, map[string]string{"a": "small"})
	dir := e.store.file(storePath(2))
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	for i := range keepBytes / 4000 * 2 / 3 { // a link's target is in the layout
		if err := os.Symlink(strings.Repeat("x", 4000), filepath.Join(dir, fmt.Sprint(i))); err != nil {
			t.Fatal(err)
		}
	}
	large := e.store.add(t, 2, map[string]string{"a": "large"})
	e.manifests(false, small)
	m := e.manifests(false, large)[0]
	e.settle()
	for range 3 {
		e.chunks(large, &chunk.Manifest{Chunks: m.Chunks[:1]}, 1<<40)
		e.manifests(false, small)
	}
	e.store.mu.Lock()
	defer e.store.mu.Unlock()
	if e.store.opened[large.Path] != 1 || e.store.restored != 0 || e.store.opened[small.Path] != 1 {
		t.Errorf("the large one was walked %d times and restored %d times, the small one walked %d times",
			e.store.opened[large.Path], e.store.restored, e.store.opened[small.Path])
	}
}

func sampleKnown(t testing.TB) *known {
	t.Helper()
	text := strings.Repeat("refers to "+string(storePath(2))+"\n", 3000) + noise(1, 100<<10)
	info := nix.PathInfo{Path: storePath(1), NarHash: nix.SumHash([]byte(text)), NarSize: uint64(len(text)), References: []nix.Path{storePath(2)}}
	refs := chunk.RefsOf(info.Path, info.References)
	m := &chunk.Manifest{Refs: refs, Size: int64(len(text))}
	if _, err := chunk.Cut(t.Context(), strings.NewReader(text), refs, func(c chunk.Chunk, _ []byte) error {
		m.Chunks = append(m.Chunks, c)
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	return &known{info: info, narinfo: info.MarshalNarInfo(), skeleton: []byte(strings.Repeat("skeleton", 100)), manifest: m}
}

func TestIndexFile(t *testing.T) {
	k := sampleKnown(t)
	var b bytes.Buffer
	n, err := encodeKnown(&b, k)
	if err != nil || n != int64(b.Len()) {
		t.Fatalf("%d of %d bytes, %v", n, b.Len(), err)
	}
	got, err := decodeKnown(bytes.NewReader(b.Bytes()), n)
	if err != nil || !got.of(k.info) || !bytes.Equal(got.skeleton, k.skeleton) || fmt.Sprint(got.manifest) != fmt.Sprint(k.manifest) {
		t.Fatalf("got %+v, %v", got, err)
	}
	for i := 0; i < b.Len(); i += 1 + 40*min(1, i/100) { // all of the first, some of the others
		b.Bytes()[i] ^= 0x40
		if _, err := decodeKnown(bytes.NewReader(b.Bytes()), n); err == nil {
			t.Errorf("byte %d may be anything", i)
		}
		b.Bytes()[i] ^= 0x40
	}
	for i := range int64(50) {
		if _, err := decodeKnown(bytes.NewReader(b.Bytes()), n-i-1); err == nil {
			t.Errorf("the last %d bytes may be missing", i+1)
		}
	}
}

// FuzzIndexFile: no bytes make the decoder panic, or make it take what it would
// not write again.
func FuzzIndexFile(f *testing.F) {
	var b bytes.Buffer
	if _, err := encodeKnown(&b, sampleKnown(f)); err != nil {
		f.Fatal(err)
	}
	f.Add(b.Bytes())
	f.Add([]byte(indexMagic))
	f.Fuzz(func(t *testing.T, data []byte) {
		// The checksum would keep the fuzzer out.
		if k, err := decodeBody(bufio.NewReader(bytes.NewReader(data)), int64(len(data))); err == nil {
			var b bytes.Buffer
			if _, err := encodeKnown(&b, k); err != nil {
				t.Fatal(err)
			}
			if _, err := decodeKnown(&b, int64(b.Len())); err != nil {
				t.Fatal(err)
			}
		}
		_, _ = decodeKnown(bytes.NewReader(data), int64(len(data)))
	})
}
