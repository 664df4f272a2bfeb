package cache

import (
	"io"
	"testing"
)

const benchSize = 1 << 30

// BenchmarkRead reads a NAR of 1 GiB through a View, from memory, 64 KiB at a
// time as Nix does. BenchmarkCopy is what the same copies cost without a View.
func BenchmarkRead(b *testing.B) {
	p := newPath(0, benchSize)
	m := newFetcher([]fakePath{p})
	b.SetBytes(benchSize)
	b.ReportAllocs()
	buf := make([]byte, 64<<10)
	for b.Loop() {
		v := newView(b, []fakePath{p}, m, ViewConfig{})
		v.RunAhead(nil)
		f := mustOpen(b, v, p)
		for off := int64(0); off < benchSize; off += int64(len(buf)) {
			if _, err := f.ReadAt(buf, off); err != nil {
				b.Fatal(err)
			}
		}
		f.Close()
		v.Close()
	}
}

// BenchmarkBorrow is BenchmarkRead without the copy to the reader: what serving
// a mount costs.
func BenchmarkBorrow(b *testing.B) {
	p := newPath(0, benchSize)
	m := newFetcher([]fakePath{p})
	b.SetBytes(benchSize)
	b.ReportAllocs()
	for b.Loop() {
		v := newView(b, []fakePath{p}, m, ViewConfig{})
		v.RunAhead(nil)
		f := mustOpen(b, v, p)
		for off := int64(0); off < benchSize; {
			s, err := f.Borrow(b.Context(), off, 64<<10)
			if err != nil {
				b.Fatal(err)
			}
			off += int64(s.Len())
			s.Release()
		}
		f.Close()
		v.Close()
	}
}

func BenchmarkCopy(b *testing.B) {
	p := newPath(0, benchSize)
	b.SetBytes(benchSize)
	slab, buf := make([]byte, slabSize), make([]byte, 64<<10)
	for b.Loop() {
		for off := int64(0); off < benchSize; off += slabSize {
			p.fill(slab, off)
			for k := 0; k < slabSize; k += len(buf) {
				copy(buf, slab[k:])
			}
		}
	}
}

// BenchmarkSmall reads 10,000 NARs of 1 KiB one after another.
func BenchmarkSmall(b *testing.B) {
	var paths []fakePath
	for k := range 10_000 {
		paths = append(paths, newPath(k, 1<<10))
	}
	m := newFetcher(paths)
	buf := make([]byte, 64<<10)
	for b.Loop() {
		v := newView(b, paths, m, ViewConfig{})
		v.RunAhead(nil)
		for _, p := range paths {
			f := mustOpen(b, v, p)
			if _, err := f.ReadAt(buf, 0); err != io.EOF {
				b.Fatal(err)
			}
			f.Close()
		}
		v.Close()
	}
}
