package nar

import (
	"runtime"
	"slices"
	"testing"
)

// A tree of many files takes little more while it is scanned than its layout does then.
func TestScannerCopiesLittle(t *testing.T) {
	s := scanner{l: &Layout{}}
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	for range 100_000 {
		s.room()
		if err := s.node(stat{name: "empty"}, "", 0, 0, 1); err != nil {
			t.Fatal(err)
		}
	}
	runtime.ReadMemStats(&after)
	if took, size := after.TotalAlloc-before.TotalAlloc, uint64(s.literal()); took > 2*size {
		t.Errorf("%d bytes were allocated for %d", took, size)
	}
	if n := len(slices.Concat(append(s.blocks, s.block)...)); n != s.literal() {
		t.Errorf("%d bytes are said to be %d", n, s.literal())
	}
}
