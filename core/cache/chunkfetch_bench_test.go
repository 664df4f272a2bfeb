package cache

import (
	"testing"

	"github.com/drv-thru/drv-thru/core/nix"
)

// BenchmarkChunkFetch reads a NAR of 256 MiB through a View, from a builder and
// from a chunk store in memory.
func BenchmarkChunkFetch(b *testing.B) {
	n := newNar(0, 1, 256<<20)
	store := newMemChunks()
	for i, c := range n.man {
		store.chunks[c.ID] = n.masked[i]
	}
	for name, cfg := range map[string]ChunkConfig{"wire": {}, "store": {Store: store}} {
		b.Run(name, func(b *testing.B) {
			b.SetBytes(int64(len(n.data)))
			b.ReportAllocs()
			for b.Loop() {
				f := newChunkFetcher(b, newChunkServer(n), cfg)
				v := viewOf(b, f, []*testNar{n})
				v.RunAhead(nil)
				file, err := v.OpenFile(b.Context(), nix.NarURL(n.info.NarHash))
				if err != nil {
					b.Fatal(err)
				}
				for off := int64(0); off < file.Size(); {
					s, err := file.Borrow(b.Context(), off, 128<<10)
					if err != nil {
						b.Fatal(err)
					}
					off += int64(s.Len())
					s.Release()
				}
				file.Close()
				v.Close()
				f.Close()
			}
		})
	}
}
