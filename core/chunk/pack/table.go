package pack

import (
	"encoding/binary"

	"github.com/drv-thru/drv-thru/core/chunk"
)

// place says where a chunk is.
type place struct {
	pack      uint32 // slot, below maxSlots
	off, size uint32 // of its bytes
}

// slotBits hold a pack's slot in a table; the bits above hold a chunk's size.
const (
	slotBits = 12
	maxSlots = 1 << slotBits
)

// table finds places by ID. It is a map that knows that IDs are random bits, and
// so takes a third of a map's time to fill, which is what opening a large store
// consists of, and 16 bytes for each chunk. Of an ID it keeps the first eight bytes: that two
// chunks share them would cost a transfer, because Get compares all.
type table struct {
	cells []cell // a power of two, or none
	used  int    // with those deleted
	n     int
}

// cell is empty when meta is 0, and deleted when its size is.
type cell struct {
	key  uint64
	off  uint32
	meta uint32 // size, then slot
}

const deleted = 1

func (c cell) place() place {
	return place{pack: c.meta % maxSlots, off: c.off, size: c.meta >> slotBits}
}

func (c cell) live() bool { return c.meta>>slotBits > 0 }

func key(id *chunk.ID) uint64 { return binary.BigEndian.Uint64(id[:]) }

// find is the cell of a key, or the empty one that ends the search.
func (t *table) find(k uint64) *cell {
	mask := uint64(len(t.cells) - 1)
	for i := k & mask; ; i = (i + 1) & mask {
		if c := &t.cells[i]; c.meta == 0 || c.key == k && c.live() {
			return c
		}
	}
}

func (t *table) get(id chunk.ID) (place, bool) {
	if t.n == 0 {
		return place{}, false
	}
	c := t.find(key(&id))
	return c.place(), c.live()
}

// set adds a chunk, or moves it.
func (t *table) set(id chunk.ID, at place) {
	t.reserve(1)
	c := t.find(key(&id))
	if !c.live() {
		t.used++
		t.n++
	}
	*c = cell{key(&id), at.off, at.size<<slotBits | at.pack}
}

// reserve makes room for n more. At most three quarters are in use, so that a
// search ends soon.
func (t *table) reserve(n int) {
	if (t.used+n)*4 <= len(t.cells)*3 {
		return
	}
	size := max(64, len(t.cells))
	for (t.n+n)*4 > size*3 || t.n*4 > size*2 {
		size *= 2
	}
	old := t.cells
	t.cells, t.used, t.n = make([]cell, size), 0, 0
	for _, c := range old {
		if c.live() {
			*t.find(c.key) = c
			t.used++
			t.n++
		}
	}
}

// remove deletes those for which gone says so.
func (t *table) remove(gone func(place) bool) {
	for i := range t.cells {
		if c := &t.cells[i]; c.live() && gone(c.place()) {
			c.meta = deleted
			t.n--
		}
	}
}

// forget deletes a chunk if it is where it is said to be.
func (t *table) forget(id chunk.ID, at place) {
	if t.n == 0 {
		return
	}
	if c := t.find(key(&id)); c.live() && c.place() == at {
		c.meta = deleted
		t.n--
	}
}
