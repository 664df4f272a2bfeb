package cache

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/drv-thru/drv-thru/core/chunk"
	"github.com/drv-thru/drv-thru/core/nix"
	"github.com/drv-thru/drv-thru/core/wire"
)

// testNar is a NAR of random bytes in which references stand.
type testNar struct {
	info nix.PathInfo
	data []byte
	refs []chunk.Ref
	man  []chunk.Chunk
	// masked are the chunks' bytes.
	masked [][]byte
}

// newNar makes the k-th NAR of a test. What seed and size are the same for is
// the same but for references.
func newNar(k int, seed uint64, size int) *testNar {
	p := newPath(k, int64(size))
	n := &testNar{info: p.info, data: make([]byte, size)}
	rng := rand.New(rand.NewPCG(seed, 7))
	for i := 0; i < size; i += 8 {
		var word [8]byte
		binary.LittleEndian.PutUint64(word[:], rng.Uint64())
		copy(n.data[i:], word[:])
	}
	n.info.NarHash = nix.SumHash(fmt.Appendf(nil, "%d %d %d", k, seed, size))
	for i := range 3 {
		n.refs = append(n.refs, chunk.Ref([]byte(nix.SumHash(fmt.Appendf(nil, "%d %d", k, i)).Nix32()[:chunk.RefLen])))
	}
	n.refs = chunk.SortRefs(n.refs)
	for i := range size / 5000 {
		copy(n.data[rng.IntN(size):], n.refs[i%3][:])
	}
	n.cut()
	return n
}

func (n *testNar) cut() {
	n.man, n.masked = nil, nil
	_, err := chunk.Cut(context.Background(), bytes.NewReader(n.data), n.refs, func(c chunk.Chunk, masked []byte) error {
		c.Substs = slices.Clone(c.Substs)
		n.man = append(n.man, c)
		n.masked = append(n.masked, bytes.Clone(masked))
		return nil
	})
	if err != nil {
		panic(err)
	}
}

func (n *testNar) hash() string { return n.info.NarHash.Nix32() }

func (n *testNar) whole() NarRange {
	return NarRange{NarHash: n.hash(), Size: uint64(len(n.data)), Path: n.info.Path}
}

// chunkServer is a builder in memory. Its hooks may be nil.
type chunkServer struct {
	nars map[string]*testNar
	// onManifest may change a manifest's answer, or end it by an error.
	onManifest func(hash string, answer []byte) ([]byte, error)
	// onRequest may fail a request for chunks, or wait.
	onRequest func(ctx context.Context, req *wire.ChunksRequest) error
	// onChunk may change a chunk, say that it is gone (nil), or end the answer.
	onChunk func(ctx context.Context, n *testNar, ordinal int, data []byte) ([]byte, error)
	// end, when it is closed, ends answers whose chunks have all been written.
	end  chan struct{}
	zstd bool

	mu        sync.Mutex
	manifests int // requests
	chunks    []*wire.ChunksRequest
	sent      int // chunks
	open      atomic.Int32
}

func newChunkServer(nars ...*testNar) *chunkServer {
	s := &chunkServer{nars: make(map[string]*testNar)}
	for _, n := range nars {
		s.nars[n.hash()] = n
	}
	return s
}

// chunksGiven is the key of a counter, *int, that onChunk has for each request.
type chunksGiven struct{}

// RoundTrip implements [http.RoundTripper].
func (s *chunkServer) RoundTrip(r *http.Request) (*http.Response, error) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return nil, err
	}
	if err := r.Context().Err(); err != nil {
		return nil, err
	}
	var answer func(w io.Writer) error
	switch r.URL.Path {
	case wire.RouteManifests:
		var req wire.ManifestsRequest
		if err := json.Unmarshal(body, &req); err != nil {
			return nil, err
		}
		s.mu.Lock()
		s.manifests++
		s.mu.Unlock()
		answer = func(w io.Writer) error { return s.writeManifests(w, req.Nars) }
	case wire.RouteChunks:
		var req wire.ChunksRequest
		if err := json.Unmarshal(body, &req); err != nil {
			return nil, err
		}
		s.mu.Lock()
		s.chunks = append(s.chunks, &req)
		s.mu.Unlock()
		if s.onRequest != nil {
			if err := s.onRequest(r.Context(), &req); err != nil {
				return nil, err
			}
		}
		ctx := context.WithValue(r.Context(), chunksGiven{}, new(int))
		answer = func(w io.Writer) error {
			err := s.writeChunks(ctx, w, &req)
			if s.end != nil {
				<-s.end
			}
			return err
		}
	default:
		return nil, fmt.Errorf("no route %s", r.URL.Path)
	}
	pr, pw := io.Pipe()
	s.open.Add(1)
	stop := context.AfterFunc(r.Context(), func() { pw.CloseWithError(r.Context().Err()) })
	go func() {
		defer s.open.Add(-1)
		defer stop()
		pw.CloseWithError(answer(pw))
	}()
	return &http.Response{StatusCode: http.StatusOK, Header: http.Header{}, Body: pr, Request: r}, nil
}

func (s *chunkServer) writeManifests(w io.Writer, hashes []string) error {
	for _, hash := range hashes {
		var b bytes.Buffer
		if n := s.nars[hash]; n == nil {
			b.WriteByte(wire.ManifestUnavailable)
		} else {
			b.WriteByte(wire.ManifestFollows)
			m := chunk.Manifest{Refs: n.refs, Chunks: n.man, Size: int64(len(n.data))}
			if err := m.Write(&b); err != nil {
				return err
			}
		}
		answer, end := b.Bytes(), error(nil)
		if s.onManifest != nil {
			answer, end = s.onManifest(hash, answer)
		}
		for len(answer) > 0 { // in pieces
			k := min(len(answer), 3000)
			if _, err := w.Write(answer[:k]); err != nil {
				return err
			}
			answer = answer[k:]
		}
		if end != nil {
			return end
		}
	}
	return nil
}

func (s *chunkServer) writeChunks(ctx context.Context, w io.Writer, req *wire.ChunksRequest) error {
	var frames []byte
	defer func() { _, _ = w.Write(frames) }()
	for _, asked := range req.Nars {
		n := s.nars[asked.NarHash]
		for _, r := range asked.Chunks {
			for i := int(r[0]); i < int(r[0]+r[1]); i++ {
				var data []byte
				if n != nil && i < len(n.masked) {
					data = n.masked[i]
				}
				if s.onChunk != nil && data != nil {
					var err error
					if data, err = s.onChunk(ctx, n, i, data); err != nil {
						return err
					}
				}
				s.mu.Lock()
				s.sent++
				s.mu.Unlock()
				frames = chunk.AppendFrame(frames, data, s.zstd)
				if i%3 == 0 {
					if _, err := w.Write(frames); err != nil {
						return err
					}
					frames = frames[:0]
				}
			}
		}
	}
	return nil
}

func (s *chunkServer) counts() (manifests, requests, sent int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.manifests, len(s.chunks), s.sent
}

// memChunks is a ChunkStore in memory.
type memChunks struct {
	mu     sync.Mutex
	chunks map[chunk.ID][]byte
	full   error
	gets   int
	// slow, if set, is waited for before anything is put.
	slow chan struct{}
	// file, if set, has those of at, too.
	file *os.File
	at   map[chunk.ID]int64
}

func newMemChunks() *memChunks { return &memChunks{chunks: make(map[chunk.ID][]byte)} }

func (m *memChunks) Locate(id chunk.ID, _ int) (*os.File, int64) {
	if off, ok := m.at[id]; ok {
		return m.file, off
	}
	return nil, 0
}

func (m *memChunks) Has(id chunk.ID) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	_, ok := m.chunks[id]
	return ok
}

func (m *memChunks) Get(id chunk.ID, dst []byte) ([]byte, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.gets++
	data, ok := m.chunks[id]
	if !ok || chunk.Sum(data) != id {
		delete(m.chunks, id)
		return nil, false
	}
	return append(dst, data...), true
}

func (m *memChunks) Put(id chunk.ID, masked []byte) error {
	if m.slow != nil {
		<-m.slow
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.full != nil {
		return m.full
	}
	m.chunks[id] = bytes.Clone(masked)
	return nil
}

func newChunkFetcher(t testing.TB, s *chunkServer, cfg ChunkConfig) *ChunkFetcher {
	t.Helper()
	cfg.Transport, cfg.Now = s, time.Now
	f := NewChunkFetcher(cfg)
	t.Cleanup(func() {
		f.Close()
		f.checkIdle(t)
	})
	return f
}

// checkIdle checks the accounts of a fetcher that nobody uses any more.
func (f *ChunkFetcher) checkIdle(t testing.TB) {
	t.Helper()
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.inflight != 0 || len(f.puts) != 0 || f.putting {
		t.Errorf("%d bytes in flight, %d puts", f.inflight, len(f.puts))
	}
	if len(f.free) != f.blocks || f.blocks > maxBlocks {
		t.Errorf("%d blocks, %d of them free", f.blocks, len(f.free))
	}
	for _, b := range f.free {
		if b.holds != 0 || b.open {
			t.Errorf("a free block is held %d times", b.holds)
		}
	}
	for id, p := range f.index {
		if part := p.block.parts[p.part]; part.id != id || part.state != partHere {
			t.Errorf("the index has a chunk in state %d", part.state)
		}
	}
	entries := 0
	for _, m := range f.manifests {
		entries += len(m.chunks)
		if m.users != 0 {
			t.Errorf("a manifest has %d users", m.users)
		}
	}
	if entries != f.entries {
		t.Errorf("%d entries counted, there are %d", f.entries, entries)
	}
}

// fetchAll reads ranges to their ends.
func fetchAll(t testing.TB, f Fetcher, nars []*testNar, ranges []NarRange) error {
	t.Helper()
	s, err := f.Fetch(t.Context(), ranges)
	if err != nil {
		return err
	}
	defer s.Close()
	for i := 0; ; i++ {
		frame, err := s.Next()
		if err == io.EOF && i == len(ranges) {
			return nil
		}
		if err != nil {
			return err
		}
		want := nars[i].data[ranges[i].Offset:]
		if frame.Index != i || frame.Size != uint64(len(want)) {
			t.Fatalf("frame %+v", frame)
		}
		got := make([]byte, len(want))
		if _, err := io.ReadFull(readerOf(s), got); err != nil {
			return err
		}
		if !bytes.Equal(got, want) {
			t.Fatalf("NAR %d has wrong bytes", i)
		}
	}
}

func readerOf(s Stream) io.Reader { return readFunc(s.Read) }

type readFunc func([]byte) (int, error)

func (f readFunc) Read(p []byte) (int, error) { return f(p) }

func wholes(nars []*testNar) []NarRange {
	var out []NarRange
	for _, n := range nars {
		out = append(out, n.whole())
	}
	return out
}

// viewOf makes a View of NARs over a fetcher.
func viewOf(t testing.TB, f Fetcher, nars []*testNar) *View {
	t.Helper()
	var texts []string
	for _, n := range nars {
		texts = append(texts, string(n.info.MarshalNarInfo()))
	}
	v, err := NewView(texts, ViewConfig{Fetcher: f})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		v.Close()
		v.checkIdle(t)
	})
	return v
}

// readNar reads a NAR of a View to its end.
func readNar(t testing.TB, v *View, n *testNar) error {
	t.Helper()
	file, err := v.OpenFile(t.Context(), nix.NarURL(n.info.NarHash))
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	got := make([]byte, len(n.data))
	k, err := io.ReadFull(file, got)
	if !bytes.Equal(got[:k], n.data[:k]) {
		t.Fatal("wrong bytes")
	}
	return err
}

func TestChunkFetch(t *testing.T) {
	nars := []*testNar{newNar(0, 1, 3<<20), newNar(1, 2, 200), newNar(2, 3, 70_000), newNar(3, 4, 9<<20), newNar(4, 5, 1000)}
	for _, zstd := range []bool{false, true} {
		srv := newChunkServer(nars...)
		srv.zstd = zstd
		f := newChunkFetcher(t, srv, ChunkConfig{})
		ranges := wholes(nars)
		ranges[0].Offset = 1_234_567
		if err := fetchAll(t, f, nars, ranges); err != nil {
			t.Fatal(err)
		}
		if m, _, _ := srv.counts(); m != 1 {
			t.Errorf("%d requests for manifests", m)
		}
		if n := f.Received(); n < 10<<20 || n > 12<<20 { // they do not shrink
			t.Errorf("received %d", n)
		}
	}
}

// Many small NARs come with few requests. A reader that overtakes the manifests asks for
// each by itself, as it may on a busy machine, but not always.
func TestChunkFetchSmall(t *testing.T) {
	var nars []*testNar
	for k := range 1000 {
		nars = append(nars, newNar(k, uint64(k), 300+k))
	}
	least := len(nars)
	for range 10 {
		srv := newChunkServer(nars...)
		f := newChunkFetcher(t, srv, ChunkConfig{})
		if err := fetchAll(t, f, nars, wholes(nars)); err != nil {
			t.Fatal(err)
		}
		m, r, _ := srv.counts()
		if m != 1 {
			t.Errorf("%d requests for manifests", m)
		}
		if least = min(least, r); least <= 40 {
			return
		}
	}
	t.Errorf("at least %d requests", least)
}

// A chunk that occurs several times goes over the wire once, across NARs and
// whatever refers to what.
func TestChunkFetchDuplicates(t *testing.T) {
	for _, store := range []ChunkStore{nil, newMemChunks()} {
		nars := []*testNar{newNar(0, 1, 2<<20), newNar(1, 1, 2<<20), newNar(2, 1, 2<<20)}
		nars[1].data = append(slices.Clone(nars[0].data), nars[0].data...)
		nars[1].info.NarSize *= 2
		nars[1].refs = nars[0].refs
		nars[1].cut()
		ids := make(map[chunk.ID]bool)
		for _, n := range nars {
			for _, c := range n.man {
				ids[c.ID] = true
			}
		}
		srv := newChunkServer(nars...)
		f := newChunkFetcher(t, srv, ChunkConfig{Store: store})
		if err := fetchAll(t, f, nars, wholes(nars)); err != nil {
			t.Fatal(err)
		}
		if _, _, sent := srv.counts(); sent != len(ids) {
			t.Errorf("%d chunks were sent, there are %d", sent, len(ids))
		}
	}
}

// What is in the chunk store is not asked for, whatever the references.
func TestChunkFetchWarm(t *testing.T) {
	store := newMemChunks()
	first := []*testNar{newNar(0, 1, 5<<20), newNar(1, 2, 100_000)}
	f := newChunkFetcher(t, newChunkServer(first...), ChunkConfig{Store: store})
	if err := fetchAll(t, f, first, wholes(first)); err != nil {
		t.Fatal(err)
	}
	f.Flush(t.Context())

	t.Run("same", func(t *testing.T) {
		srv := newChunkServer(first...)
		f := newChunkFetcher(t, srv, ChunkConfig{Store: store})
		if err := fetchAll(t, f, first, wholes(first)); err != nil {
			t.Fatal(err)
		}
		if _, _, sent := srv.counts(); sent != 0 {
			t.Errorf("%d chunks were sent", sent)
		}
	})
	t.Run("references", func(t *testing.T) {
		other := []*testNar{newNar(7, 1, 5<<20)}
		rng := first[0].data
		other[0].data = bytes.Clone(rng)
		for i, r := range first[0].refs {
			other[0].data = bytes.ReplaceAll(other[0].data, r[:], other[0].refs[i][:])
		}
		other[0].cut()
		srv := newChunkServer(other...)
		f := newChunkFetcher(t, srv, ChunkConfig{Store: store})
		if err := fetchAll(t, f, other, wholes(other)); err != nil {
			t.Fatal(err)
		}
		if _, _, sent := srv.counts(); sent != 0 {
			t.Errorf("%d chunks were sent", sent)
		}
	})
	t.Run("damaged", func(t *testing.T) {
		for _, c := range first[0].man[:5] {
			store.chunks[c.ID][0] ^= 1
		}
		srv := newChunkServer(first...)
		f := newChunkFetcher(t, srv, ChunkConfig{Store: store})
		if err := fetchAll(t, f, first, wholes(first)); err != nil {
			t.Fatal(err)
		}
		if _, _, sent := srv.counts(); sent != 5 {
			t.Errorf("%d chunks were sent", sent)
		}
	})
}

// A chunk store that is full or slow keeps nobody waiting.
func TestChunkStoreFails(t *testing.T) {
	nars := []*testNar{newNar(0, 1, (maxBlocks+maxBehind)*blockSize+8<<20)}
	t.Run("full", func(t *testing.T) {
		store := newMemChunks()
		store.full = errors.New("no space left on device")
		later := []*testNar{newNar(1, 1, 1<<20)}
		var warnings atomic.Int32
		f := newChunkFetcher(t, newChunkServer(slices.Concat(nars, later)...), ChunkConfig{Store: store, Warn: func(string) { warnings.Add(1) }})
		if err := fetchAll(t, f, nars, wholes(nars)); err != nil {
			t.Fatal(err)
		}
		f.Flush(t.Context())
		if n := warnings.Load(); n != 1 {
			t.Errorf("%d warnings", n)
		}
		// A mount lives for months, and the disk is not full for ever.
		store.mu.Lock()
		store.full = nil
		store.mu.Unlock()
		if err := fetchAll(t, f, later, wholes(later)); err != nil {
			t.Fatal(err)
		}
		f.Flush(t.Context())
		for _, c := range later[0].man {
			if !store.Has(c.ID) {
				t.Fatal("nothing is kept any more")
			}
		}
	})
	t.Run("slow", func(t *testing.T) {
		store := newMemChunks()
		store.slow = make(chan struct{})
		f := newChunkFetcher(t, newChunkServer(nars...), ChunkConfig{Store: store})
		if err := fetchAll(t, f, nars, wholes(nars)); err != nil {
			t.Fatal(err)
		}
		close(store.slow)
		f.Flush(t.Context())
	})
}

// Two fetchers that share a store, and several streams of one, get what they
// want.
func TestChunkFetchConcurrent(t *testing.T) {
	nars := []*testNar{newNar(0, 1, 3<<20), newNar(1, 2, 4<<20), newNar(2, 1, 3<<20)}
	store := newMemChunks()
	srv := newChunkServer(nars...)
	var wg sync.WaitGroup
	for range 2 {
		f := newChunkFetcher(t, srv, ChunkConfig{Store: store})
		for range 3 {
			wg.Go(func() {
				if err := fetchAll(t, f, nars, wholes(nars)); err != nil {
					t.Error(err)
				}
			})
		}
	}
	wg.Wait()
}

// A chunk may be read before the answer that it came in has ended, and is kept after
// that: Flush waits for both.
func TestChunkFetchFlush(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		nars := []*testNar{newNar(0, 1, 1<<20)}
		srv := newChunkServer(nars...)
		srv.end = make(chan struct{})
		store := newMemChunks()
		f := newChunkFetcher(t, srv, ChunkConfig{Store: store})
		s, err := f.Fetch(t.Context(), wholes(nars))
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		if _, err := s.Next(); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(readerOf(s), make([]byte, len(nars[0].data))); err != nil {
			t.Fatal(err)
		}
		flushed := make(chan struct{})
		go func() {
			defer close(flushed)
			f.Flush(t.Context())
			for _, c := range nars[0].man {
				if !store.Has(c.ID) {
					t.Errorf("chunk %s is not kept", c.ID)
				}
			}
		}()
		synctest.Wait()
		close(srv.end)
		<-flushed
	})
}

// What a stream was to bring, another that shares it gets even when the first
// ends.
func TestChunkFetchOtherEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		nars := []*testNar{newNar(0, 1, 1<<20)}
		srv := newChunkServer(nars...)
		hold := make(chan struct{})
		var once sync.Once
		srv.onRequest = func(ctx context.Context, _ *wire.ChunksRequest) error {
			first := false
			once.Do(func() { first = true })
			if first {
				select {
				case <-hold:
				case <-ctx.Done():
					return ctx.Err()
				}
			}
			return nil
		}
		f := newChunkFetcher(t, srv, ChunkConfig{})
		a, err := f.Fetch(t.Context(), wholes(nars))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := a.Next(); err != nil {
			t.Fatal(err)
		}
		go a.Read(make([]byte, 10))
		synctest.Wait()
		done := make(chan error, 1)
		go func() { done <- fetchAll(t, f, nars, wholes(nars)) }()
		synctest.Wait()
		a.(*chunkStream).cancel()
		synctest.Wait()
		if err := <-done; err != nil {
			t.Error(err)
		}
		a.Close()
		f.Close()
	})
}

// A View that is mounted for weeks reads ever more NARs: the manifests of those that
// were used longest ago go, those in use stay.
func TestManifestsAreForgotten(t *testing.T) {
	f := NewChunkFetcher(ChunkConfig{})
	defer f.Close()
	const each = keepManifests / 4
	add := func(hash string, users int, used uint64) {
		m := &gotManifest{hash: hash, chunks: make([]chunkEntry, each), done: true, users: users, used: used}
		f.manifests[hash], f.entries = m, f.entries+each
	}
	add("in use", 1, 1)
	for i := range uint64(10) {
		add(fmt.Sprint(i), 0, 2+i)
		f.mu.Lock()
		f.tidy()
		f.mu.Unlock()
	}
	if f.entries > keepManifests || len(f.manifests) != 4 {
		t.Errorf("%d manifests of %d chunks", len(f.manifests), f.entries)
	}
	for _, hash := range []string{"in use", "7", "8", "9"} {
		if f.manifests[hash] == nil {
			t.Errorf("%q was forgotten", hash)
		}
	}
}
