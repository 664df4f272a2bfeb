package chunk

import "sort"

// Mask puts the filler wherever substs say that a reference stands in p, bytes
// of a NAR that begin at off. Substs may lie outside of p or only partly in it.
func Mask(p []byte, off int64, substs []Subst) {
	for _, s := range Within(substs, off, len(p)) {
		place(p, s.Offset-off, filler)
	}
}

// Unmask is the inverse of Mask: it puts the references back.
func Unmask(p []byte, off int64, refs []Ref, substs []Subst) {
	for _, s := range Within(substs, off, len(p)) {
		r := &refs[s.Ref]
		place(p, s.Offset-off, string(r[:]))
	}
}

// Within narrows ascending substs to those that touch [off, off+n).
func Within(substs []Subst, off int64, n int) []Subst {
	first := sort.Search(len(substs), func(i int) bool { return substs[i].Offset+RefLen > off })
	substs = substs[first:]
	return substs[:sort.Search(len(substs), func(i int) bool { return substs[i].Offset >= off+int64(n) })]
}

// place writes what of s lies inside of p when s begins at p[at]; at may be
// negative.
func place(p []byte, at int64, s string) {
	if at < 0 {
		s, at = s[-at:], 0
	}
	copy(p[at:], s)
}
