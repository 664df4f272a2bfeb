package cache

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"
	"github.com/nix-community/go-nix/pkg/narinfo/signature"

	"github.com/drv-thru/drv-thru/core/chunk"
	"github.com/drv-thru/drv-thru/core/nix"
	"github.com/drv-thru/drv-thru/core/nix/nar"
	"github.com/drv-thru/drv-thru/core/wire"
)

// diskStore is a store of trees on disk.
type diskStore struct {
	root  string
	infos map[nix.Path]nix.PathInfo

	mu       sync.Mutex
	opened   map[nix.Path]int
	restored int
	held     int // NARs that are open
	// gate, if set, is what reading a NAR waits for after its first megabytes.
	gate chan struct{}
}

func (s *diskStore) PathInfos(_ context.Context, paths []nix.Path) (map[nix.Path]nix.PathInfo, error) {
	got := make(map[nix.Path]nix.PathInfo)
	for _, p := range paths {
		if info, ok := s.infos[p]; ok {
			got[p] = info
		}
	}
	return got, nil
}

func (s *diskStore) file(p nix.Path) string { return filepath.Join(s.root, p.Base()) }

func (s *diskStore) OpenNar(ctx context.Context, p nix.Path) (Nar, error) {
	s.mu.Lock()
	s.opened[p]++
	gate := s.gate
	s.mu.Unlock()
	l, err := nar.Scan(ctx, s.file(p))
	if err != nil {
		return nil, err
	}
	if gate != nil {
		return s.hold(&gatedNar{l, gate}), nil
	}
	return s.hold(l), nil
}

func (s *diskStore) RestoreNar(_ context.Context, p nix.Path, skeleton []byte) (Nar, error) {
	s.mu.Lock()
	s.restored++
	s.mu.Unlock()
	l, err := nar.Restore(s.file(p), skeleton)
	if err != nil {
		return nil, err
	}
	return s.hold(l), nil
}

// heldNar is counted while it is open.
type heldNar struct {
	Nar
	s *diskStore
}

func (s *diskStore) hold(n Nar) Nar {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.held++
	return &heldNar{n, s}
}

func (h *heldNar) Close() error {
	h.s.mu.Lock()
	defer h.s.mu.Unlock()
	h.s.held--
	return h.Nar.Close()
}

// scans returns how often a path was walked.
func (s *diskStore) scans(p nix.Path) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.opened[p]
}

type gatedNar struct {
	*nar.Layout
	gate chan struct{}
}

func (g *gatedNar) ReadAt(p []byte, off int64) (int, error) {
	if off >= 3*noticeEvery {
		<-g.gate
	}
	return g.Layout.ReadAt(p, off)
}

// add makes path i: a directory of files with these contents.
func (s *diskStore) add(t testing.TB, i int, files map[string]string, refs ...int) nix.PathInfo {
	t.Helper()
	info := nix.PathInfo{Path: storePath(i)}
	for _, r := range refs {
		info.References = append(info.References, storePath(r))
	}
	info.References = nix.SortedPaths(info.References)
	if err := os.MkdirAll(s.file(info.Path), 0o755); err != nil {
		t.Fatal(err)
	}
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(s.file(info.Path), name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	data := s.nar(t, info.Path)
	info.NarHash, info.NarSize = nix.SumHash(data), uint64(len(data))
	s.infos[info.Path] = info
	return info
}

func (s *diskStore) nar(t testing.TB, p nix.Path) []byte {
	t.Helper()
	l, err := nar.Scan(t.Context(), s.file(p))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	var b bytes.Buffer
	if _, err := io.Copy(&b, io.NewSectionReader(l, 0, l.Size())); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// noise returns incompressible text of n bytes.
func noise(seed byte, n int) string {
	b := make([]byte, n)
	_, _ = rand.NewChaCha8([32]byte{seed}).Read(b) // never fails
	return string(b)
}

// chunkEnv is a server over a store on disk, with an index.
type chunkEnv struct {
	t     testing.TB
	store *diskStore
	index *Index
	dir   string
	logs  bytes.Buffer
	s     *Server
}

func newChunkEnv(t testing.TB) *chunkEnv {
	t.Helper()
	e := &chunkEnv{t: t, dir: t.TempDir(), store: &diskStore{
		root: t.TempDir(), infos: make(map[nix.Path]nix.PathInfo), opened: make(map[nix.Path]int),
	}}
	e.restart()
	t.Cleanup(e.close)
	return e
}

// close closes the server, which must leave nothing open.
func (e *chunkEnv) close() {
	e.t.Helper()
	e.s.Close()
	e.store.mu.Lock()
	defer e.store.mu.Unlock()
	if t := &e.s.entries; e.store.held != 0 || t.weight != 0 || t.small.Len()+t.open.Len() != 0 {
		e.t.Errorf("a closed server holds %d NARs open, and entries of %d bytes", e.store.held, t.weight)
	}
}

// restart makes a new server over the same store and index.
func (e *chunkEnv) restart() {
	e.t.Helper()
	if e.s != nil {
		e.close()
	}
	secret, _, err := signature.GenerateKeypair("test-1", strings.NewReader(strings.Repeat("k", 64)))
	if err != nil {
		e.t.Fatal(err)
	}
	log := slog.New(slog.NewTextHandler(&lockedWriter{w: &e.logs}, nil))
	if e.index, err = OpenIndex(IndexConfig{Dir: e.dir, Now: time.Now, Log: log}); err != nil {
		e.t.Fatal(err)
	}
	e.s = NewServer(ServerConfig{Infos: e.store, Nars: e.store, Key: secret, Index: e.index, Now: time.Now, Log: log})
}

type lockedWriter struct {
	mu sync.Mutex
	w  io.Writer
}

func (l *lockedWriter) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.w.Write(p)
}

// settle waits for all cuts under way, and for their index.
func (e *chunkEnv) settle() { e.s.wg.Wait() }

// manifests asks for manifests; nil for those that are unavailable.
func (e *chunkEnv) manifests(compress bool, infos ...nix.PathInfo) []*chunk.Manifest {
	e.t.Helper()
	list := make([]*nix.PathInfo, len(infos))
	for i := range infos {
		list[i] = &infos[i]
	}
	rec := httptest.NewRecorder()
	if err := e.s.ServeManifests(e.t.Context(), rec, list, compress); err != nil {
		e.t.Fatal(err)
	}
	var r io.Reader = rec.Body
	if (rec.Header().Get("Content-Encoding") == "zstd") != compress {
		e.t.Errorf("encoding %q", rec.Header().Get("Content-Encoding"))
	}
	if compress {
		z, err := zstd.NewReader(r)
		if err != nil {
			e.t.Fatal(err)
		}
		defer z.Close()
		r = z
	}
	br := bufio.NewReader(r)
	got := make([]*chunk.Manifest, len(infos))
	for i, info := range infos {
		status, err := br.ReadByte()
		if err != nil {
			e.t.Fatal(err)
		}
		if status == wire.ManifestUnavailable {
			continue
		}
		if got[i], err = chunk.ReadManifest(br, int64(info.NarSize)); err != nil {
			e.t.Fatal(err)
		}
	}
	if _, err := br.ReadByte(); err != io.EOF {
		e.t.Errorf("more than what was asked for: %v", err)
	}
	return got
}

// chunks asks for all chunks of a NAR and puts it together; nil where a chunk
// was unavailable or wrong. It fails the test when a chunk has another ID.
func (e *chunkEnv) chunks(info nix.PathInfo, m *chunk.Manifest, goodput uint64) (data []byte, unavailable int) {
	e.t.Helper()
	rec := httptest.NewRecorder()
	items := []ChunkItem{{Info: &info, Ranges: []wire.ChunkRange{{0, uint32(len(m.Chunks))}}}}
	if err := e.s.ServeChunks(e.t.Context(), rec, ChunkAnswer{Items: items, Client: "client", Goodput: goodput, Check: true}); err != nil {
		e.t.Fatal(err)
	}
	r := chunk.NewFrameReader(rec.Body)
	for i, c := range m.Chunks {
		p, err := r.Next(nil, c.Size)
		if errors.Is(err, chunk.ErrUnavailable) {
			unavailable++
			continue
		}
		if err != nil {
			e.t.Fatal(err)
		}
		if chunk.Sum(p) != c.ID {
			e.t.Fatalf("chunk %d is not what its manifest says", i)
		}
		m.Unmask(i, p)
		data = append(data, p...)
	}
	if _, err := r.Next(nil, 1); err != io.EOF {
		e.t.Errorf("more frames than asked for: %v", err)
	}
	return data, unavailable
}

func (e *chunkEnv) whole(info nix.PathInfo, want []byte) {
	e.t.Helper()
	m := e.manifests(false, info)[0]
	if m == nil {
		e.t.Fatalf("%s is unavailable", info.Path)
	}
	data, unavailable := e.chunks(info, m, 1<<40)
	if unavailable > 0 || !bytes.Equal(data, want) {
		e.t.Errorf("%s: %d bytes of %d, %d chunks unavailable", info.Path, len(data), len(want), unavailable)
	}
}

func TestServeChunks(t *testing.T) {
	e := newChunkEnv(t)
	text := strings.Repeat("some text that refers to "+string(storePath(2))+" and to "+string(storePath(1))+"\n", 5000)
	large := e.store.add(t, 1, map[string]string{"noise": noise(1, 3<<20), "text": text, "zero": strings.Repeat("\x00", 1<<20)}, 1, 2)
	tiny := e.store.add(t, 2, map[string]string{"a": "tiny"})
	for _, info := range []nix.PathInfo{large, tiny} {
		want := e.store.nar(t, info.Path)
		for _, goodput := range []uint64{0, 1 << 20, 1 << 40} {
			m := e.manifests(goodput == 0, info)[0]
			if data, unavailable := e.chunks(info, m, goodput); unavailable > 0 || !bytes.Equal(data, want) {
				t.Errorf("%s at %d bytes/s: %d bytes, %d chunks unavailable", info.Path, goodput, len(data), unavailable)
			}
		}
		if n := e.store.scans(info.Path); n != 1 {
			t.Errorf("%s was walked %d times", info.Path, n)
		}
	}
	e.settle()
	if files, bytes := e.index.Usage(); files != 1 || bytes <= 0 {
		t.Errorf("%d index files of %d bytes", files, bytes)
	}
	// Another process finds it in the index and walks nothing.
	e.restart()
	e.whole(large, e.store.nar(t, large.Path))
	if n := e.store.scans(large.Path); n != 1 || e.store.restored != 1 {
		t.Errorf("after a restart: walked %d times, restored %d times", n, e.store.restored)
	}
}

func TestServeChunksGathers(t *testing.T) {
	e := newChunkEnv(t)
	info := e.store.add(t, 1, map[string]string{"noise": noise(1, 8<<20)})
	m := e.manifests(false, info)[0]
	w := &counting{ResponseWriter: httptest.NewRecorder()}
	items := []ChunkItem{{Info: &info, Ranges: []wire.ChunkRange{{0, uint32(len(m.Chunks))}}}}
	if err := e.s.ServeChunks(t.Context(), w, ChunkAnswer{Items: items, Goodput: 1 << 40}); err != nil {
		t.Fatal(err)
	}
	if w.writes > 8<<20/writeFrom+1 {
		t.Errorf("%d writes", w.writes)
	}
	w.fail = true
	if err := e.s.ServeChunks(t.Context(), w, ChunkAnswer{Items: items, Goodput: 1 << 40}); !errors.Is(err, ErrAborted) {
		t.Errorf("got %v", err)
	}
}

func TestServeChunksHostile(t *testing.T) {
	e := newChunkEnv(t)
	info := e.store.add(t, 1, map[string]string{"noise": noise(1, 1<<20)})
	gone := nix.PathInfo{Path: storePath(77), NarSize: 100 << 10, NarHash: info.NarHash}
	m := e.manifests(false, info)[0]
	n := uint32(len(m.Chunks))
	for name, tt := range map[string]struct {
		item ChunkItem
		want []bool // per frame: available
	}{
		"not there":        {ChunkItem{Info: nil, Ranges: []wire.ChunkRange{{0, 2}, {9, 1}}}, []bool{false, false, false}},
		"gone":             {ChunkItem{Info: &gone, Ranges: []wire.ChunkRange{{0, 2}}}, []bool{false, false}},
		"beyond":           {ChunkItem{Info: &info, Ranges: []wire.ChunkRange{{n, 1}, {0, 1}}}, []bool{false, true}},
		"over the end":     {ChunkItem{Info: &info, Ranges: []wire.ChunkRange{{n - 1, 2}}}, []bool{true, false}},
		"far beyond":       {ChunkItem{Info: &info, Ranges: []wire.ChunkRange{{1<<32 - 1, 3}}}, []bool{false, false, false}},
		"twice, backwards": {ChunkItem{Info: &info, Ranges: []wire.ChunkRange{{1, 1}, {0, 1}, {1, 1}}}, []bool{true, true, true}},
	} {
		rec := httptest.NewRecorder()
		if err := e.s.ServeChunks(t.Context(), rec, ChunkAnswer{Items: []ChunkItem{tt.item}, Goodput: 1 << 40}); err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		r := chunk.NewFrameReader(rec.Body)
		k := 0
		for _, rg := range tt.item.Ranges {
			for i := range rg[1] {
				size := uint32(chunk.MaxSize)
				if ord := uint64(rg[0]) + uint64(i); ord < uint64(n) {
					size = m.Chunks[ord].Size
				}
				_, err := r.Next(nil, size)
				if tt.want[k] != (err == nil) || !tt.want[k] && !errors.Is(err, chunk.ErrUnavailable) {
					t.Errorf("%s: frame %d: %v", name, k, err)
				}
				k++
			}
		}
		if _, err := r.Next(nil, 1); err != io.EOF {
			t.Errorf("%s: more frames than asked for: %v", name, err)
		}
	}
	// More bytes than a request may ask for: cut off.
	ranges := make([]wire.ChunkRange, 0, 20)
	for range 20 {
		ranges = append(ranges, wire.ChunkRange{0, n})
	}
	rec := httptest.NewRecorder()
	err := e.s.ServeChunks(t.Context(), rec, ChunkAnswer{Items: []ChunkItem{{Info: &info, Ranges: ranges}}, Goodput: 1 << 40})
	if !errors.Is(err, ErrAborted) || wire.CodeOf(err) != wire.CodeTooLarge || rec.Body.Len() > wire.MaxChunkBytesRequest+1<<20 {
		t.Errorf("%d bytes, %v", rec.Body.Len(), err)
	}
}

// A client reads the beginning of a manifest, and the chunks that it tells,
// while the rest is still being cut. Who comes second joins, and when all leave
// the work goes on.
func TestManifestWhileCutting(t *testing.T) {
	e := newChunkEnv(t)
	info := e.store.add(t, 1, map[string]string{"noise": noise(1, 6<<20)})
	gate := make(chan struct{})
	e.store.gate = gate
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if err := e.s.ServeManifests(r.Context(), w, []*nix.PathInfo{&info}, false); err != nil {
			panic(http.ErrAbortHandler)
		}
	}))
	defer server.Close()
	ask := func() (io.Closer, *chunk.Decoder) {
		resp, err := http.Get(server.URL)
		if err != nil {
			t.Fatal(err)
		}
		br := bufio.NewReader(resp.Body)
		if status, err := br.ReadByte(); err != nil || status != wire.ManifestFollows {
			t.Fatalf("status %d, %v", status, err)
		}
		d, err := chunk.NewDecoder(br, int64(info.NarSize))
		if err != nil {
			t.Fatal(err)
		}
		return resp.Body, d
	}
	leaver, early := ask()
	if c, err := early.Next(); err != nil || c.Size == 0 {
		t.Fatalf("%+v, %v", c, err)
	}
	rec := httptest.NewRecorder()
	if err := e.s.ServeChunks(t.Context(), rec, ChunkAnswer{Items: []ChunkItem{{Info: &info, Ranges: []wire.ChunkRange{{0, 1}}}}, Goodput: 1 << 40}); err != nil {
		t.Fatal(err)
	}
	if _, err := chunk.NewFrameReader(rec.Body).Next(nil, chunk.MaxSize); errors.Is(err, chunk.ErrUnavailable) {
		t.Error(err)
	}
	leaver.Close()
	second, late := ask()
	defer second.Close()
	close(gate)
	n := 0
	for ; ; n++ {
		if _, err := late.Next(); err == io.EOF {
			break
		} else if err != nil {
			t.Fatal(err)
		}
	}
	e.settle()
	if scans := e.store.scans(info.Path); n < 20 || scans != 1 {
		t.Errorf("%d chunks, walked %d times", n, scans)
	}
}
