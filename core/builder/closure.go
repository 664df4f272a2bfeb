package builder

import (
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"math"

	"github.com/drv-thru/drv-thru/core/nix"
	"github.com/drv-thru/drv-thru/core/nix/daemon"
	"github.com/drv-thru/drv-thru/core/wire"
)

const (
	// maxAllReferences bounds the references of a whole closure document: far
	// above any real one, and what keeps MaxClosurePaths × MaxReferences out of
	// memory.
	maxAllReferences = 8 << 20
	// maxOutputs bounds the outputs asked of one root.
	maxOutputs = 1024
	// maxRootBytes bounds what all roots, with their labels, take in memory and in
	// the records, where they stay for as long as the build does: 2 KiB for each of
	// MaxRoots.
	maxRootBytes = wire.MaxRoots * 2 << 10
	// stringBytes is what a string takes besides its bytes.
	stringBytes = 16
	// maxInputSigs bounds the signatures of one input.
	maxInputSigs = 64
)

// closure is a checked closure document. Its indexes are the document's.
type closure struct {
	infos []nix.PathInfo
	ca    []bool // content-addressed, and the address makes the path
	index map[nix.Path]int
	roots []daemon.DerivedPath
}

func badRequest(format string, args ...any) *wire.Error {
	return wire.Errorf(wire.CodeBadRequest, format, args...)
}

// newClosure checks everything about a closure that can be known without the
// store and without its contents, but for how much of anything there is:
// decodeBuildRequest has seen to that.
func newClosure(roots []wire.Root, inputs []wire.Input) (*closure, error) {
	if len(roots) == 0 {
		return nil, badRequest("no roots")
	}
	c := &closure{
		infos: make([]nix.PathInfo, 0, len(inputs)),
		ca:    make([]bool, 0, len(inputs)),
		index: make(map[nix.Path]int, len(inputs)),
	}
	for i := range inputs {
		if err := c.add(&inputs[i]); err != nil {
			return nil, err
		}
	}
	for _, r := range roots {
		if err := c.addRoot(r); err != nil {
			return nil, err
		}
	}
	return c, nil
}

func (c *closure) add(in *wire.Input) error {
	i := len(c.infos)
	path, err := nix.ParsePath(in.Path)
	if err != nil {
		return badRequest("closure entry %d: %s", i, err)
	}
	if _, twice := c.index[path]; twice {
		return badRequest("%s is in the closure twice", path)
	}
	hash, err := parseNarHash(in.NarHash)
	if err != nil {
		return badRequest("%s: %s", path, err)
	}
	if in.NarSize == 0 || in.NarSize > math.MaxInt64 {
		return badRequest("%s: impossible NAR size %d", path, in.NarSize)
	}
	info := nix.PathInfo{Path: path, NarHash: hash, NarSize: in.NarSize, Sigs: in.Sigs, CA: in.CA}
	if info.References, err = c.references(path, i, in.References); err != nil {
		return err
	}
	isCA := in.CA != ""
	if isCA {
		ca, err := info.CheckCA()
		switch {
		case errors.Is(err, nix.ErrContentAddress):
			return wire.Errorf(wire.CodeInputAddress, "%s", err)
		case err != nil:
			return wire.Errorf(wire.CodeInputAddress, "%s: %s", path, err)
		case path.IsDrv() && ca.Method != nix.CAText:
			return wire.Errorf(wire.CodeInputDerivation, "%s is addressed as %s, derivations are text:", path, ca.Method)
		}
		// Nobody looks at signatures of content-addressed paths, so none that a
		// stranger wrote come into the store.
		info.Sigs = nil
	}
	c.index[path] = i
	c.infos = append(c.infos, info)
	c.ca = append(c.ca, isCA)
	return nil
}

func (c *closure) references(path nix.Path, self int, indexes []int) ([]nix.Path, error) {
	if len(indexes) == 0 {
		return nil, nil
	}
	refs := make([]nix.Path, 0, len(indexes))
	for _, k := range indexes {
		switch {
		case k == self:
			refs = append(refs, path)
		case k < 0 || k > self:
			return nil, wire.Errorf(wire.CodeInputReferences, "%s (entry %d) refers to entry %d: references come first", path, self, k)
		default:
			refs = append(refs, c.infos[k].Path)
		}
	}
	sorted := nix.SortedPaths(refs)
	if len(sorted) != len(refs) {
		return nil, badRequest("%s names a reference twice", path)
	}
	return sorted, nil
}

func (c *closure) addRoot(r wire.Root) error {
	drv, err := nix.ParsePath(r.Drv)
	if err != nil || !drv.IsDrv() {
		return badRequest("root %.120q is not the store path of a derivation", r.Drv)
	}
	if _, ok := c.index[drv]; !ok {
		return wire.Errorf(wire.CodeInputReferences, "root %s is not in the closure", drv)
	}
	switch {
	case len(r.Label) > wire.MaxLabel:
		return wire.Errorf(wire.CodeTooLarge, "label of %s has %d bytes; at most %d", drv, len(r.Label), wire.MaxLabel)
	case len(r.Outputs) == 0:
		return badRequest("%s: no outputs asked for", drv)
	}
	seen := make(map[string]bool, len(r.Outputs))
	for _, o := range r.Outputs {
		if err := nix.CheckName(o); err != nil || seen[o] {
			return badRequest("%s: bad output name %.60q", drv, o)
		}
		seen[o] = true
	}
	c.roots = append(c.roots, daemon.DerivedPath{Path: drv, Outputs: r.Outputs})
	return nil
}

func (c *closure) paths() []nix.Path {
	return nix.PathsOf(c.infos)
}

func (c *closure) rootDrvs() []nix.Path {
	drvs := make([]nix.Path, len(c.roots))
	for i, r := range c.roots {
		drvs[i] = r.Path
	}
	return drvs
}

const narHashLen = 52

func parseNarHash(s string) (nix.Hash, error) {
	if len(s) != narHashLen {
		return nix.Hash{}, fmt.Errorf("%w: want %d characters of base32", nix.ErrBadHash, narHashLen)
	}
	return nix.ParseHash("sha256:" + s)
}

// contentOf identifies what a request asks for, so that its repetition can be
// told from another request with the same ID.
func contentOf(req *wire.BuildRequest) ([32]byte, error) {
	h := sha256.New()
	if err := json.NewEncoder(h).Encode(req); err != nil {
		return [32]byte{}, err
	}
	return [32]byte(h.Sum(nil)), nil
}
