package cache

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"encoding/base64"
	"fmt"
	"io"
	"math/rand/v2"
	"sync"
	"testing"

	"github.com/drv-thru/drv-thru/core/nix"
)

// fakePath is a NAR's worth of reproducible bytes with a narinfo. What is in
// it is nobody's matter here, so neither is its true hash.
type fakePath struct {
	info nix.PathInfo
	seed uint64
}

// newPath makes the k-th path of a test; its name begins with the hash part
// that sorts k-th.
func newPath(k int, size int64, refs ...fakePath) fakePath {
	const digits = "0123456789abcdfghijklmnpqrsvwxyz"
	hash := []byte("00000000000000000000000000000000")
	for i, n := 0, k; i < 6; i++ {
		hash[5-i] = digits[n%32]
		n /= 32
	}
	p, err := nix.ParsePath(fmt.Sprintf("%s/%s-p%d", nix.StoreDir, hash, k))
	if err != nil {
		panic(err)
	}
	info := nix.PathInfo{Path: p, NarHash: nix.SumHash([]byte(p)), NarSize: uint64(size)}
	for _, r := range refs {
		info.References = append(info.References, r.info.Path)
	}
	info.References = nix.SortedPaths(info.References)
	return fakePath{info, uint64(k)}
}

func (p fakePath) narName() string { return nix.NarURL(p.info.NarHash) }

// pattern is what all NARs are made of; its length is a prime, so that no
// offset that code might get wrong by comes out right.
var pattern = func() []byte {
	b := make([]byte, 65521)
	rng := rand.New(rand.NewPCG(1, 2))
	for i := range b {
		b[i] = byte(rng.Uint32())
	}
	return b
}()

// at returns bytes of the NAR from off, as many as are at hand.
func (p fakePath) at(off int64) []byte {
	return pattern[(uint64(off)+p.seed*7919)%uint64(len(pattern)):]
}

// fill writes the NAR's bytes from off into b.
func (p fakePath) fill(b []byte, off int64) {
	for len(b) > 0 {
		n := copy(b, p.at(off))
		b = b[n:]
		off += int64(n)
	}
}

func (p fakePath) check(t testing.TB, b []byte, off int64) {
	t.Helper()
	for len(b) > 0 {
		want := p.at(off)
		n := min(len(b), len(want))
		if !bytes.Equal(b[:n], want[:n]) {
			t.Fatalf("%s: wrong bytes at %d", p.info.Path.Name(), off)
		}
		b = b[n:]
		off += int64(n)
	}
}

func narInfos(paths []fakePath) []string {
	var texts []string
	for _, p := range paths {
		texts = append(texts, string(p.info.MarshalNarInfo()))
	}
	return texts
}

// memFetcher serves fakePaths from nowhere. Its hooks may be nil.
type memFetcher struct {
	paths map[string]fakePath
	// onFetch may fail a request, or wait.
	onFetch func(ctx context.Context, ranges []NarRange) error
	// onFrame may change a frame, or fail.
	onFrame func(f *Frame, r NarRange) error
	// onRead sees each read before it happens; it may fail, wait, or say
	// how many bytes the read is to give (0: as many as fit).
	onRead func(ctx context.Context, hash string, off int64) (int, error)

	mu       sync.Mutex
	requests [][]NarRange
}

func newFetcher(paths []fakePath) *memFetcher {
	m := &memFetcher{paths: make(map[string]fakePath)}
	for _, p := range paths {
		m.paths[p.info.NarHash.Nix32()] = p
	}
	return m
}

func (m *memFetcher) log() [][]NarRange {
	m.mu.Lock()
	defer m.mu.Unlock()
	return append([][]NarRange(nil), m.requests...)
}

func (m *memFetcher) Fetch(ctx context.Context, ranges []NarRange) (Stream, error) {
	m.mu.Lock()
	m.requests = append(m.requests, ranges)
	m.mu.Unlock()
	if m.onFetch != nil {
		if err := m.onFetch(ctx, ranges); err != nil {
			return nil, err
		}
	}
	return &memStream{m: m, ctx: ctx, ranges: ranges, index: -1}, nil
}

type memStream struct {
	m         *memFetcher
	ctx       context.Context
	ranges    []NarRange
	index     int
	path      fakePath
	off, left int64
}

func (s *memStream) Next() (Frame, error) {
	if err := s.ctx.Err(); err != nil {
		return Frame{}, err
	}
	if s.index++; s.index == len(s.ranges) {
		return Frame{}, io.EOF
	}
	r := s.ranges[s.index]
	p, ok := s.m.paths[r.NarHash]
	f := Frame{Index: s.index, Size: p.info.NarSize - r.Offset, Unavailable: !ok}
	if s.m.onFrame != nil {
		if err := s.m.onFrame(&f, r); err != nil {
			return Frame{}, err
		}
	}
	s.path, s.off, s.left = p, int64(r.Offset), int64(f.Size)
	return f, nil
}

func (s *memStream) Read(b []byte) (int, error) {
	if err := s.ctx.Err(); err != nil {
		return 0, err
	}
	if s.left == 0 {
		return 0, io.EOF
	}
	n := len(b)
	if s.m.onRead != nil {
		k, err := s.m.onRead(s.ctx, s.path.info.NarHash.Nix32(), s.off)
		if err != nil {
			return 0, err
		}
		if k > 0 {
			n = min(n, k)
		}
	}
	n = int(min(int64(n), s.left))
	s.path.fill(b[:n], s.off)
	s.off += int64(n)
	s.left -= int64(n)
	return n, nil
}

func (s *memStream) Close() error { return nil }

func newView(t testing.TB, paths []fakePath, f Fetcher, cfg ViewConfig) *View {
	t.Helper()
	cfg.Fetcher = f
	v, err := NewView(narInfos(paths), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		v.Close()
		v.checkIdle(t)
	})
	return v
}

// checkIdle checks the accounts of a View that nobody uses any more.
func (v *View) checkIdle(t testing.TB) {
	t.Helper()
	v.mu.Lock()
	defer v.mu.Unlock()
	if len(v.runs) > 0 || len(v.waiters) > 0 || v.main != nil {
		t.Errorf("closed view has %d runs, %d waiters", len(v.runs), len(v.waiters))
	}
	if len(v.pool.all) > v.pool.max {
		t.Errorf("%d slabs, the budget is %d", len(v.pool.all), v.pool.max)
	}
	used := 0
	for _, s := range v.pool.all {
		if s.pins != 0 {
			t.Errorf("slab pinned %d times", s.pins)
		}
		if s.run != nil {
			used++
		}
		live := 0
		for _, g := range s.segs {
			if g.nar.has(g) {
				live++
			}
		}
		if live != s.live {
			t.Errorf("slab counts %d live segments, has %d", s.live, live)
		}
	}
	if used+len(v.pool.free) != len(v.pool.all) {
		t.Errorf("%d slabs in use, %d free, of %d", used, len(v.pool.free), len(v.pool.all))
	}
	for _, n := range v.nars {
		end := int64(-1)
		for _, g := range n.segs {
			if g.off < end || g.n == 0 {
				t.Errorf("segments overlap")
			}
			end = g.end()
		}
	}
}

func mustOpen(t testing.TB, v *View, p fakePath) *File {
	t.Helper()
	f, err := v.OpenFile(context.Background(), p.narName())
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// readAll reads the NAR to its end in pieces, checks it, and closes it.
func readAll(t testing.TB, v *View, p fakePath, piece int) {
	t.Helper()
	f := mustOpen(t, v, p)
	defer f.Close()
	buf := make([]byte, piece)
	var off int64
	for {
		n, err := f.ReadAt(buf, off)
		p.check(t, buf[:n], off)
		off += int64(n)
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Errorf("read %s at %d: %v", p.info.Path.Name(), off, err)
			return
		}
	}
	if off != int64(p.info.NarSize) {
		t.Errorf("read %d bytes of %d", off, p.info.NarSize)
	}
}

func shuffled[T any](list []T, seed uint64) []T {
	list = append([]T(nil), list...)
	rand.New(rand.NewPCG(seed, 1)).Shuffle(len(list), func(i, k int) { list[i], list[k] = list[k], list[i] })
	return list
}

// secretKey makes a Nix signing key from a fixed seed.
func secretKey(name string, seed byte) string {
	key := ed25519.NewKeyFromSeed(bytes.Repeat([]byte{seed}, ed25519.SeedSize))
	return name + ":" + base64.StdEncoding.EncodeToString(key)
}
