//go:build unix

package pack

import (
	mathrand "math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"syscall"
	"testing"
	"time"

	"github.com/drv-thru/drv-thru/core/chunk"
)

// spent is the time of a core that the process has used.
func spent() time.Duration {
	var r syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &r)
	return time.Duration(r.Utime.Nano() + r.Stime.Nano())
}

// rate reports the bytes for each second of a core.
func rate(b *testing.B, n int) {
	before := spent()
	b.Cleanup(func() {
		b.ReportMetric(float64(n)*float64(b.N)/1e6/(spent()-before).Seconds(), "MB/core-s")
	})
	b.SetBytes(int64(n))
	b.ReportAllocs()
}

func benchChunks(n int) (chunks [][]byte, ids []chunk.ID) {
	var seed [32]byte
	r := mathrand.NewChaCha8(seed)
	for range n {
		p := make([]byte, 64<<10)
		r.Read(p)
		chunks, ids = append(chunks, p), append(ids, chunk.Sum(p))
	}
	return chunks, ids
}

// BenchmarkGet reads and verifies chunks of 64 KiB, one after another, beside
// the verification alone.
func BenchmarkGet(b *testing.B) {
	chunks, ids := benchChunks(1000)
	cfg := config(newClock())
	cfg.MaxBytes = 10 << 30
	s := open(b, b.TempDir(), cfg)
	for i := range ids {
		if err := s.Put(ids[i], chunks[i]); err != nil {
			b.Fatal(err)
		}
	}
	if err := s.flush(); err != nil {
		b.Fatal(err)
	}
	b.Run("get", func(b *testing.B) {
		rate(b, len(ids)*64<<10)
		var p []byte
		for b.Loop() {
			for _, id := range ids {
				var ok bool
				if p, ok = s.Get(id, p[:0]); !ok {
					b.Fatal("a chunk is missing")
				}
			}
		}
	})
	b.Run("read", func(b *testing.B) {
		rate(b, len(ids)*64<<10)
		p := make([]byte, 64<<10)
		for b.Loop() {
			for i := range ids {
				if _, err := s.packs[0].file.ReadAt(p, int64(i)*(64<<10+entrySize)+entrySize); err != nil {
					b.Fatal(err)
				}
			}
		}
	})
	b.Run("blake3", func(b *testing.B) {
		rate(b, len(ids)*64<<10)
		for b.Loop() {
			for _, p := range chunks {
				chunk.Sum(p)
			}
		}
	})
}

func BenchmarkPut(b *testing.B) {
	chunks, ids := benchChunks(1000)
	cfg := config(newClock())
	cfg.MaxBytes = 10 << 30
	rate(b, len(ids)*64<<10)
	for b.Loop() {
		s := open(b, b.TempDir(), cfg)
		for i := range ids {
			if err := s.Put(ids[i], chunks[i]); err != nil {
				b.Fatal(err)
			}
		}
		s.Close()
	}
}

// BenchmarkOpen opens a store of 10 GiB and asks for one chunk.
func BenchmarkOpen(b *testing.B) {
	dir := b.TempDir()
	n := 0
	random := mathrand.NewChaCha8([32]byte{})
	for p := range packShare {
		var index []byte
		end := int64(0)
		for end < 10<<30/packShare {
			var e entry
			random.Read(e.id[:])
			n++
			e.off, e.size = uint32(end), 49<<10
			index = e.append(index)
			end = e.end()
		}
		path := filepath.Join(dir, string(rune('a'+p)))
		if err := os.WriteFile(path+indexSuffix, index, 0o600); err != nil {
			b.Fatal(err)
		}
		if err := os.WriteFile(path+packSuffix, nil, 0o600); err != nil {
			b.Fatal(err)
		}
		if err := os.Truncate(path+packSuffix, end); err != nil {
			b.Fatal(err)
		}
	}
	cfg := config(newClock())
	cfg.MaxBytes = 11 << 30
	b.Run("first-use", func(b *testing.B) {
		before := spent()
		for b.Loop() {
			s := open(b, dir, cfg)
			if s.Has(chunk.ID{}) {
				b.Fatal("it has what it cannot have")
			}
			s.Close()
		}
		b.ReportMetric((spent()-before).Seconds()*1000/float64(b.N), "core-ms")
	})
	b.Run("memory", func(b *testing.B) {
		var before, after runtime.MemStats
		for b.Loop() {
			runtime.GC()
			runtime.ReadMemStats(&before)
			s := open(b, dir, cfg)
			s.Has(chunk.ID{})
			runtime.GC()
			runtime.ReadMemStats(&after)
			if s.index.n != n {
				b.Fatal(s.index.n, n)
			}
			s.Close()
		}
		b.ReportMetric(float64(after.HeapAlloc-before.HeapAlloc)/(1<<20), "MiB")
		b.ReportMetric(float64(n), "chunks")
	})
}
