package chunk

import (
	"encoding/binary"
	"math/bits"
	"slices"
)

// gram is the number of characters by which the matcher decides how far to
// jump.
const gram = 4

// farthest is how far the window moves when its end is in no reference.
const farthest = RefLen - gram + 1

// hashing is Knuth's multiplier.
const hashing = 0x9e3779b1

// matcher finds references the way Wu and Manber's search for many patterns
// does: it looks at the last four bytes of a 32-byte window. A table tells how
// far these are at least from the end of a reference that contains them; when
// none does, the window moves by 29 bytes. All data therefore passes at about
// the same speed, also long runs of characters that references consist of.
type matcher struct {
	refs  []Ref
	heads []uint64 // first eight characters of each, big-endian, so ascending
	jump  []uint8  // by hash of the gram
	shift uint
}

// newMatcher prepares the search for refs, which are as SortRefs leaves them.
func newMatcher(refs []Ref) *matcher {
	// Sixteen slots for each gram keep false matches of the table rare; a
	// table beyond 1 MiB would no longer fit the caches.
	size := min(20, max(12, bits.Len(uint(len(refs)*RefLen*16-1))))
	m := &matcher{refs: refs, heads: make([]uint64, len(refs)), jump: make([]uint8, 1<<size), shift: uint(32 - size)}
	for i := range m.jump {
		m.jump[i] = farthest
	}
	for i := range refs {
		r := refs[i][:]
		m.heads[i] = binary.BigEndian.Uint64(r)
		for end := gram; end <= RefLen; end++ {
			j := &m.jump[m.slot(binary.LittleEndian.Uint32(r[end-gram:]))]
			*j = min(*j, uint8(RefLen-end))
		}
	}
	return m
}

func (m *matcher) slot(v uint32) uint32 { return v * hashing >> m.shift }

// mask replaces the references in p by the filler, from left to right, and
// calls found for each until it returns false. It returns where it stopped
// looking: no reference begins in p before, except those that were found.
func (m *matcher) mask(p []byte, found func(at int, ref uint32) bool) int {
	i := 0
	jump, shift := m.jump, m.shift
	for i+RefLen <= len(p) {
		v := binary.LittleEndian.Uint32(p[i+RefLen-gram:])
		if j := int(jump[v*hashing>>shift]); j == farthest {
			// Adding what the table says would make each step wait for the
			// one before.
			i += farthest
			continue
		} else if j > 0 {
			i += j
			continue
		}
		window := (*Ref)(p[i:])
		ref, ok := m.find(window)
		if !ok {
			i++
			continue
		}
		if !found(i, uint32(ref)) {
			return i
		}
		copy(window[:], filler)
		i += RefLen
	}
	return i
}

// find looks a window up among the references. A binary search, because its
// worst case is known: what references a NAR has, and what it contains, may be
// chosen by someone hostile.
func (m *matcher) find(window *Ref) (int, bool) {
	i, ok := slices.BinarySearch(m.heads, binary.BigEndian.Uint64(window[:]))
	if !ok {
		return 0, false
	}
	if m.refs[i] == *window {
		return i, true
	}
	return slices.BinarySearchFunc(m.refs, *window, compareRefs)
}
