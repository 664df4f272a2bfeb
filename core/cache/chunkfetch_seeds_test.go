package cache

import (
	"bytes"
	"context"
	"runtime"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/drv-thru/drv-thru/core/nix"
)

// oneSeed finds the same seed for everything.
type oneSeed struct {
	nar    *testNar
	asked  atomic.Int32
	closed atomic.Int32
}

func (s *oneSeed) Seeds(context.Context, nix.Path) ([]Seed, error) {
	s.asked.Add(1)
	return []Seed{{
		NAR: bytes.NewReader(s.nar.data), Size: int64(len(s.nar.data)), Refs: s.nar.refs,
		Close: func() error { s.closed.Add(1); return nil },
	}}, nil
}

// An earlier build of the same path, with other references and a change, spares
// a slow link most of the bytes; a fast link does without.
func TestSeeds(t *testing.T) {
	old := newNar(0, 1, 6<<20)
	now := newNar(5, 1, 6<<20)
	now.data = bytes.Clone(old.data)
	for i, r := range old.refs {
		now.data = bytes.ReplaceAll(now.data, r[:], now.refs[i][:])
	}
	copy(now.data[5<<20:], "a change")
	now.cut()
	for name, c := range map[string]struct {
		rate int // bytes per second and answer
		few  bool
	}{"slow": {1 << 20, true}, "fast": {1 << 30, false}} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				finder := &oneSeed{nar: old}
				srv := newChunkServer(now)
				f := newChunkFetcher(t, srv, ChunkConfig{Seeds: finder})
				f.http.transport = slowLink{srv, c.rate}
				if err := fetchAll(t, f, []*testNar{now}, []NarRange{now.whole()}); err != nil {
					t.Fatal(err)
				}
				_, _, sent := srv.counts()
				if c.few != (sent < len(now.man)*9/10) {
					t.Errorf("%d of %d chunks were sent", sent, len(now.man))
				}
				f.Close()
				if finder.asked.Load() != finder.closed.Load() || c.few != (finder.asked.Load() == 1) {
					t.Errorf("%d seeds, %d closed", finder.asked.Load(), finder.closed.Load())
				}
			})
		})
	}
}

// A seed that is changed after it was looked through is noticed.
func TestSeedsChange(t *testing.T) {
	n := newNar(0, 1, 2<<20)
	seed := *n
	seed.data = bytes.Clone(n.data)
	f := newChunkFetcher(t, newChunkServer(n), ChunkConfig{Seeds: &oneSeed{nar: &seed}})
	r := n.whole()
	if !f.seeds.want(&r, 1) {
		t.Fatal("not wanted")
	}
	for done := false; !done; { // the last chunk is known
		runtime.Gosched()
		done = f.seeds.has(n.man[len(n.man)-1].ID)
	}
	for i := 100_000; i < len(seed.data); i += 100_000 {
		seed.data[i] ^= 1
	}
	if err := fetchAll(t, f, []*testNar{n}, []NarRange{r}); err != nil {
		t.Fatal(err)
	}
}

// Who mounts a cache for months has the trees of seeds open only while they are of use,
// and later builds of the same thing have seeds of their own.
func TestSeedsRest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNar(0, 1, 2<<20)
		finder := &oneSeed{nar: n}
		f := newChunkFetcher(t, newChunkServer(n), ChunkConfig{Seeds: finder})
		r := n.whole()
		dst := make([]byte, n.man[0].Size)
		for i := range int32(2) {
			f.seeds.want(&r, 1)
			for range 3 { // in use all the time
				synctest.Wait()
				if !f.seeds.read(n.man[0].ID, dst) {
					t.Fatal("the seed is not known")
				}
				time.Sleep(seedsRest * 2 / 3)
			}
			time.Sleep(seedsRest)
			synctest.Wait()
			if asked, closed := finder.asked.Load(), finder.closed.Load(); asked != i+1 || closed != asked || f.seeds.has(n.man[0].ID) {
				t.Errorf("%d seeds, %d closed", asked, closed)
			}
		}
	})
}
