package chunk

import (
	"encoding/hex"
	"fmt"
	"slices"

	"github.com/zeebo/blake3"
)

const (
	// MinSize and MaxSize bound a chunk; only a NAR's last chunk may be
	// smaller than MinSize. Chunks average about 50 KiB.
	MinSize = 16 << 10
	MaxSize = 256 << 10
	// NormalSize is the parameter of the cutting algorithm between them.
	NormalSize = 32 << 10

	// RefLen is the number of characters of a store path's hash part.
	RefLen = 32
	// MaxRefs bounds the references of one NAR.
	MaxRefs = 50_001
	// MaxSubsts bounds the substitutions of one NAR: 16 MiB in memory.
	MaxSubsts = 1 << 20
)

// ID names a chunk: the BLAKE3-256 of its masked bytes.
type ID [32]byte

// String is the ID in hexadecimal.
func (id ID) String() string { return hex.EncodeToString(id[:]) }

// Sum is the ID of a chunk with these masked bytes.
func Sum(masked []byte) ID { return blake3.Sum256(masked) }

// Ref is the hash part of a store path: RefLen characters of Nix's base32.
type Ref [RefLen]byte

// alphabet is Nix's base32 (nix/src/libutil/hash.cc); it lacks e, o, t and u.
const alphabet = "0123456789abcdfghijklmnpqrsvwxyz"

// filler stands where a reference stood. No reference contains its character.
const filler = "tttttttttttttttttttttttttttttttt"

var inAlphabet = func() (in [256]bool) {
	for _, c := range []byte(alphabet) {
		in[c] = true
	}
	return in
}()

// RefsOf returns what is masked in the NAR of a store path: its hash part and those
// of its references.
func RefsOf[P interface{ Hash() string }](path P, references []P) []Ref {
	refs := []Ref{Ref([]byte(path.Hash()))}
	for _, p := range references {
		refs = append(refs, Ref([]byte(p.Hash())))
	}
	return SortRefs(refs)
}

func (r Ref) String() string { return string(r[:]) }

func (r Ref) valid() bool {
	for _, c := range r {
		if !inAlphabet[c] {
			return false
		}
	}
	return true
}

func compareRefs(a, b Ref) int { return slices.Compare(a[:], b[:]) }

// SortRefs sorts refs in place and drops doubles, as Cut and the manifest want
// them.
func SortRefs(refs []Ref) []Ref {
	slices.SortFunc(refs, compareRefs)
	return slices.Compact(refs)
}

// checkRefs tells whether refs are as SortRefs leaves them.
func checkRefs(refs []Ref) error {
	if len(refs) > MaxRefs {
		return fmt.Errorf("%d references are more than %d", len(refs), MaxRefs)
	}
	for i, r := range refs {
		if !r.valid() {
			return fmt.Errorf("hash part %q is not Nix base32", r[:])
		}
		if i > 0 && compareRefs(refs[i-1], r) >= 0 {
			return fmt.Errorf("references are not sorted at %q", r[:])
		}
	}
	return nil
}

// Subst is a place where a reference stands in a NAR.
type Subst struct {
	Offset int64  // of the first character, in the NAR
	Ref    uint32 // index into the manifest's Refs
}

// Chunk is one piece of a NAR.
type Chunk struct {
	ID     ID
	Size   uint32
	Offset int64 // in the NAR
	// Substs are those that begin in this chunk, ascending. The last may end
	// in the next chunk.
	Substs []Subst
}

// Manifest tells what a NAR consists of.
type Manifest struct {
	Refs   []Ref // sorted, each once
	Chunks []Chunk
	Size   int64 // of the NAR
}

// Mask puts the filler into p, the bytes of chunk i as they are in the NAR.
func (m *Manifest) Mask(i int, p []byte) {
	if i > 0 {
		Mask(p, m.Chunks[i].Offset, lastOf(m.Chunks[i-1].Substs))
	}
	Mask(p, m.Chunks[i].Offset, m.Chunks[i].Substs)
}

// Unmask puts the references into p, the masked bytes of chunk i.
func (m *Manifest) Unmask(i int, p []byte) {
	if i > 0 {
		Unmask(p, m.Chunks[i].Offset, m.Refs, lastOf(m.Chunks[i-1].Substs))
	}
	Unmask(p, m.Chunks[i].Offset, m.Refs, m.Chunks[i].Substs)
}

// lastOf is the only substitution that can reach into the next chunk.
func lastOf(substs []Subst) []Subst { return substs[max(0, len(substs)-1):] }
