package cache

import (
	"net/http"
	"testing"

	"github.com/drv-thru/drv-thru/core/nix"
	"github.com/drv-thru/drv-thru/core/wire"
)

// nowhere takes an answer.
type nowhere struct{ head http.Header }

func (n nowhere) Header() http.Header         { return n.head }
func (n nowhere) WriteHeader(int)             {}
func (n nowhere) Write(p []byte) (int, error) { return len(p), nil }

// BenchmarkServe is what the builder's side of an import costs, without the
// connection: chunks of an incompressible NAR in requests of 4 MiB, and the
// index that they need.
func BenchmarkServe(b *testing.B) {
	const size = 64 << 20
	e := newChunkEnv(b)
	info := e.store.add(b, 1, map[string]string{"noise": noise(1, size)})
	m := e.manifests(false, info)[0]
	e.settle()
	var requests [][]ChunkItem
	var bytesAsked int64
	first := 0
	for i, c := range m.Chunks {
		if bytesAsked += int64(c.Size); bytesAsked >= 4<<20 || i == len(m.Chunks)-1 {
			requests = append(requests, []ChunkItem{{Info: &info, Ranges: []wire.ChunkRange{{uint32(first), uint32(i + 1 - first)}}}})
			first, bytesAsked = i+1, 0
		}
	}
	b.Run("chunks", func(b *testing.B) {
		b.SetBytes(size)
		b.ReportAllocs()
		for b.Loop() {
			for _, r := range requests {
				if err := e.s.ServeChunks(b.Context(), nowhere{make(http.Header)}, ChunkAnswer{Items: r, Goodput: 1 << 40}); err != nil {
					b.Fatal(err)
				}
			}
		}
	})
	b.Run("cut", func(b *testing.B) {
		b.SetBytes(size)
		for b.Loop() {
			e.s.entries.mu.Lock()
			e.s.entries.forget(e.s.entries.byPath[info.Path])
			e.s.entries.mu.Unlock()
			e.index.drop(info.Path)
			if err := e.s.ServeManifests(b.Context(), nowhere{make(http.Header)}, []*nix.PathInfo{&info}, false); err != nil {
				b.Fatal(err)
			}
			e.settle()
		}
	})
	b.Run("index", func(b *testing.B) {
		b.SetBytes(size)
		for b.Loop() {
			e.s.entries.mu.Lock()
			e.s.entries.forget(e.s.entries.byPath[info.Path])
			e.s.entries.mu.Unlock()
			if err := e.s.ServeManifests(b.Context(), nowhere{make(http.Header)}, []*nix.PathInfo{&info}, false); err != nil {
				b.Fatal(err)
			}
			e.settle()
		}
	})
}
