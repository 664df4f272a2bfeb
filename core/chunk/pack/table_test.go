package pack

import (
	"maps"
	mathrand "math/rand/v2"
	"testing"

	"github.com/drv-thru/drv-thru/core/chunk"
)

// A table does what a map does.
func TestTable(t *testing.T) {
	r := mathrand.New(mathrand.NewPCG(1, 2))
	var got table
	want := map[chunk.ID]place{}
	some := func() (id chunk.ID) {
		id[0], id[7] = byte(r.IntN(3)), byte(r.IntN(256)) // many begin alike
		return id
	}
	for range 100_000 {
		id := some()
		at := place{uint32(r.IntN(maxSlots)), r.Uint32(), 1 + uint32(r.IntN(chunk.MaxSize))}
		switch n := r.IntN(1000); {
		case n == 0:
			gone := func(p place) bool { return p.pack%3 == 0 }
			got.remove(gone)
			maps.DeleteFunc(want, func(_ chunk.ID, p place) bool { return gone(p) })
		case n < 300:
			got.forget(id, want[id])
			delete(want, id)
		case n < 350:
			got.forget(id, at)
		case n < 360:
			got.reserve(r.IntN(500))
		case n < 700:
			got.set(id, at)
			want[id] = at
		default:
			at, ok := got.get(id)
			wanted, has := want[id]
			if ok != has || ok && at != wanted {
				t.Fatalf("%v: %v, %v instead of %v, %v", id, at, ok, wanted, has)
			}
		}
		if got.n != len(want) || len(got.cells) > 1<<14 {
			t.Fatalf("%d instead of %d in %d", got.n, len(want), len(got.cells))
		}
	}
}
