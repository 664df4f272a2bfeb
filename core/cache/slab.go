package cache

import (
	"math"
	"slices"
	"sort"

	"github.com/drv-thru/drv-thru/core/nix"
)

// slabSize is the unit of buffer memory. It is also the most that one read from
// a Stream takes.
const slabSize = 256 << 10

// A slab holds bytes in the order in which one run received them: pieces of one
// large NAR, or many small NARs one after another.
type slab struct {
	buf  []byte
	fill int
	segs []*segment
	live int // segments that are not dropped
	pins int // spans that point into buf
	run  *run
	// sealed: its run writes no more into it.
	sealed bool
}

// A segment is a contiguous piece of a NAR in a slab.
type segment struct {
	slab *slab
	nar  *narState
	off  int64 // in the NAR
	pos  int   // in the slab
	n    int
}

func (s *segment) end() int64 { return s.off + int64(s.n) }

func (s *segment) bytes(from, to int64) []byte {
	return s.slab.buf[s.pos+int(from-s.off) : s.pos+int(to-s.off)]
}

// pool is the buffer memory of a View. Guarded by View.mu.
type pool struct {
	max  int
	all  []*slab
	free []*slab
}

// get returns an empty slab, or nil when the budget is used up. The slab that
// was used last comes first: it is the likeliest to be in the CPU's cache.
func (p *pool) get() *slab {
	if k := len(p.free); k > 0 {
		s := p.free[k-1]
		p.free = p.free[:k-1]
		return s
	}
	if len(p.all) == p.max {
		return nil
	}
	s := &slab{buf: make([]byte, slabSize)}
	p.all = append(p.all, s)
	return s
}

// release frees the slab if nothing needs it any more.
func (v *View) release(s *slab) {
	if s.live > 0 || s.pins > 0 || !s.sealed || s.run == nil {
		return
	}
	r := s.run
	s.run, s.fill, s.sealed = nil, 0, false
	clear(s.segs)
	s.segs = s.segs[:0]
	v.pool.free = append(v.pool.free, s)
	r.slabs--
	for o := range v.runs {
		if o.blocked && (o.waiting > 0 || o.slabs <= o.window-o.window/8) {
			wakeUp(o.wake)
		}
	}
}

// seal ends a run's writing into a slab.
func (v *View) seal(s *slab) {
	s.sealed = true
	v.release(s)
}

// drop forgets a segment's bytes. The segment must have been taken out of its
// NAR's list.
func (v *View) drop(s *segment) {
	if r := s.slab.run; r != nil && r.seg == s {
		r.seg = nil
	}
	s.slab.live--
	v.release(s.slab)
}

// evict drops the data in the slab that is needed last, so that another can
// use it, and reports whether it found one. Data that a reader waits for is
// never taken. pastOnly takes only what every open reader has passed.
func (v *View) evict(pastOnly bool) bool {
	fronts := v.fronts()
	var victim *slab
	best := int64(-1)
	for _, s := range v.pool.all {
		if s.run == nil || !s.sealed || s.pins > 0 || s.live == 0 {
			continue
		}
		if d := s.distance(fronts); d > best {
			victim, best = s, d
		}
	}
	if victim == nil || pastOnly && best != math.MaxInt64 {
		return false
	}
	// The last drop frees the slab and clears its list.
	v.stats.Evicted += uint64(victim.fill)
	for _, g := range slices.Clone(victim.segs) {
		if g.nar.remove(g) {
			v.drop(g)
		}
	}
	return true
}

// fronts returns where the readers are, in bytes of the import order, rising.
func (v *View) fronts() []int64 {
	fronts := make([]int64, 0, len(v.files)+1)
	for f := range v.files {
		fronts = append(fronts, f.nar.start+f.pos)
	}
	if len(fronts) == 0 {
		fronts = append(fronts, v.front)
	}
	slices.Sort(fronts)
	return fronts
}

// distance is how many bytes of the import order lie between the nearest
// reader and the slab's data: MaxInt64 when every reader is past it, -1 when
// somebody waits for it.
func (s *slab) distance(fronts []int64) int64 {
	least := int64(math.MaxInt64)
	for _, g := range s.segs {
		if !g.nar.has(g) {
			continue
		}
		for _, w := range g.nar.waiters {
			if g.off < w.end && g.end() > w.off && (w.run != nil || g.nar.covered(w.off) >= w.end) {
				return -1
			}
		}
		end := g.nar.start + g.end()
		if k, _ := slices.BinarySearch(fronts, end); k > 0 {
			least = min(least, max(0, g.nar.start+g.off-fronts[k-1]))
		}
	}
	return least
}

// narState is what a View knows and holds of one NAR. Guarded by View.mu, but
// for the fields set when it is made.
type narState struct {
	hash string // Nix's base32
	size int64
	name string   // "nar/<hash>.nar"
	path nix.Path // the first that has it

	// start is the sum of the sizes before it in the import order.
	start int64
	index int

	segs    []*segment // by offset, without overlaps
	files   []*File    // open
	waiters []*waiter
	// done: somebody has read it to its end.
	done bool
	// err is why it cannot be had.
	err error
	// fetched counts the bytes that arrived.
	fetched uint64
}

// seek returns the place of the first segment that ends after off.
func (n *narState) seek(off int64) int {
	return sort.Search(len(n.segs), func(i int) bool { return n.segs[i].end() > off })
}

// covered returns how far the NAR's bytes are there from off without a gap.
func (n *narState) covered(off int64) int64 {
	for i := n.seek(off); i < len(n.segs) && n.segs[i].off <= off; i++ {
		off = n.segs[i].end()
	}
	return off
}

// insert adds a segment in its place.
func (n *narState) insert(s *segment) {
	k := len(n.segs)
	for k > 0 && n.segs[k-1].off > s.off {
		k--
	}
	n.segs = slices.Insert(n.segs, k, s)
}

// has reports whether the segment is still in the list.
func (n *narState) has(s *segment) bool {
	i := n.seek(s.off)
	return i < len(n.segs) && n.segs[i] == s
}

// remove takes a segment out of the list; false when it is not in it.
func (n *narState) remove(s *segment) bool {
	i := slices.Index(n.segs, s)
	if i >= 0 {
		n.segs = slices.Delete(n.segs, i, i+1)
	}
	return i >= 0
}

// low is the lowest offset that an open reader may still want.
func (n *narState) low() int64 {
	low := n.size
	for _, f := range n.files {
		low = min(low, f.pos)
	}
	for _, w := range n.waiters {
		low = min(low, w.off)
	}
	return low
}

// trim drops what all open readers of the NAR have passed.
func (v *View) trim(n *narState) {
	if len(n.files) == 0 && !n.done {
		return
	}
	low := n.low()
	k := 0
	for k < len(n.segs) && n.segs[k].end() <= low {
		k++
	}
	if k == 0 {
		return
	}
	passed := append(v.scratch[:0], n.segs[:k]...)
	v.scratch = passed
	n.segs = slices.Delete(n.segs, 0, k)
	for _, s := range passed {
		v.drop(s)
	}
	clear(passed)
}
