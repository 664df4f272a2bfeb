package builder

import (
	"bytes"
	"errors"
	"io"
	"slices"
	"sort"

	"github.com/drv-thru/drv-thru/core/chunk"
	"github.com/drv-thru/drv-thru/core/nix"
	"github.com/drv-thru/drv-thru/core/wire"
)

// chunkList is a manifest in memory: 44 bytes a chunk.
type chunkList struct {
	refs   []chunk.Ref
	ids    []chunk.ID
	ends   []int64 // where each chunk ends in the NAR
	substs []chunk.Subst
	// order are the ordinals sorted by ID, equal ones rising.
	order []uint32
}

// substsPerUnit is how many substitutions take the memory of a chunk.
const substsPerUnit = 3

// readChunks reads a manifest that must be that of info, and calls grow for
// every piece of memory that it takes, in chunks.
func readChunks(r io.Reader, info *nix.PathInfo, grow func(int64) error) (*chunkList, error) {
	refs, size := chunk.RefsOf(info.Path, info.References), int64(info.NarSize)
	dec, err := chunk.NewDecoder(r, size)
	if err != nil {
		return nil, manifestError(info.Path, err)
	}
	if !slices.Equal(dec.Refs(), refs) {
		return nil, wire.Errorf(wire.CodeInputManifest, "%s: its references are masked that it has not, or not all that it has", info.Path)
	}
	if err := grow(int64(len(refs))); err != nil {
		return nil, err
	}
	l := &chunkList{refs: refs}
	paid := 0
	for {
		c, err := dec.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, manifestError(info.Path, err)
		}
		l.ids, l.ends, l.substs = append(l.ids, c.ID), append(l.ends, c.Offset+int64(c.Size)), append(l.substs, c.Substs...)
		if len(l.ids) > wire.MaxInputChunks {
			return nil, wire.Errorf(wire.CodeTooLarge, "%s has more than %d chunks", info.Path, wire.MaxInputChunks)
		}
		for units := len(l.ids) + len(l.substs)/substsPerUnit; paid < units; paid += unitStep {
			if err := grow(unitStep); err != nil {
				return nil, err
			}
		}
	}
	if !l.sort() {
		return nil, wire.Errorf(wire.CodeInputManifest, "%s: chunks of one ID have different sizes", info.Path)
	}
	return l, nil
}

// unitStep is how many chunks are paid for at a time.
const unitStep = 256

func manifestError(path nix.Path, err error) error {
	if !errors.Is(err, chunk.ErrManifest) {
		return readFailed(err)
	}
	return wire.Errorf(wire.CodeInputManifest, "%s: %s", path, clipText(err.Error()))
}

// sort makes the order. It fails when equal chunks are not of equal size.
func (l *chunkList) sort() bool {
	l.order = make([]uint32, len(l.ids))
	for i := range l.order {
		l.order[i] = uint32(i)
	}
	slices.SortFunc(l.order, func(a, b uint32) int {
		if c := bytes.Compare(l.ids[a][:], l.ids[b][:]); c != 0 {
			return c
		}
		return int(a) - int(b)
	})
	for k := 1; k < len(l.order); k++ {
		a, b := int(l.order[k-1]), int(l.order[k])
		if l.ids[a] == l.ids[b] {
			_, n := l.span(a)
			if _, m := l.span(b); n != m {
				return false
			}
		}
	}
	return true
}

// span returns where chunk i lies.
func (l *chunkList) span(i int) (off int64, size int) {
	if i > 0 {
		off = l.ends[i-1]
	}
	return off, int(l.ends[i] - off)
}

// find returns the ordinals of the chunks of this ID, rising.
func (l *chunkList) find(id chunk.ID) []uint32 {
	from, ok := sort.Find(len(l.order), func(i int) int { return bytes.Compare(id[:], l.ids[l.order[i]][:]) })
	if !ok {
		return nil
	}
	to := from + 1
	for to < len(l.order) && l.ids[l.order[to]] == id {
		to++
	}
	return l.order[from:to]
}
