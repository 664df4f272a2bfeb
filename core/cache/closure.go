package cache

import (
	"errors"
	"fmt"
	"math"
	"runtime"
	"slices"
	"strings"

	"golang.org/x/sync/errgroup"

	"github.com/drv-thru/drv-thru/core/nix"
	"github.com/drv-thru/drv-thru/core/wire"
)

// What is wrong with a list of narinfos.
var (
	// ErrNarInfo: not a list of narinfos as the protocol wants them.
	ErrNarInfo = errors.New("the builder's list of paths is malformed")
	// ErrSignature: a path lacks a valid signature of the builder's key.
	ErrSignature = errors.New("wrong signature")
)

// parseNarInfos reads narinfo texts of a builder. With keys, each must have a
// valid signature of one of them.
func parseNarInfos(texts []string, keys []nix.PublicKey) ([]nix.PathInfo, error) {
	if len(texts) > wire.MaxClosurePaths {
		return nil, fmt.Errorf("%w: more than %d paths", ErrNarInfo, wire.MaxClosurePaths)
	}
	infos := make([]nix.PathInfo, len(texts))
	for i, text := range texts {
		var err error
		if infos[i], err = nix.ParseNarInfo([]byte(text)); err != nil {
			return nil, fmt.Errorf("%w: %w", ErrNarInfo, err)
		}
	}
	return infos, verifyInfos(infos, keys)
}

// VerifySigned makes sure that each has a valid signature of the key, "name:base64".
func VerifySigned(infos []nix.PathInfo, signingKey string) error {
	key, err := nix.ParsePublicKey(signingKey)
	if err != nil {
		return err
	}
	return verifyInfos(infos, []nix.PublicKey{key})
}

// verifyInfos makes sure that each has a valid signature of one of the keys, if
// there are any.
func verifyInfos(infos []nix.PathInfo, keys []nix.PublicKey) error {
	if len(keys) == 0 {
		return nil
	}
	var g errgroup.Group
	workers := min(runtime.GOMAXPROCS(0), 1+len(infos)/narInfosEach)
	for w := range workers {
		g.Go(func() (err error) {
			for i := w; i < len(infos) && err == nil; i += workers {
				err = checkSigned(infos[i], keys)
			}
			return err
		})
	}
	return g.Wait()
}

// narInfosEach is how many narinfos are worth a goroutine: verifying one takes
// 50 to 90 µs.
const narInfosEach = 16

func checkSigned(info nix.PathInfo, keys []nix.PublicKey) error {
	if _, ok := info.VerifySig(keys); ok {
		return nil
	}
	name := keys[0].Name
	for _, sig := range info.Sigs {
		if strings.HasPrefix(sig, name+":") {
			return fmt.Errorf("%w: that of %s by %s does not fit what the builder says of it", ErrSignature, info.Path, name)
		}
	}
	return fmt.Errorf("%w: %s is not signed by %s", ErrSignature, info.Path, name)
}

// importOrder returns paths in the order in which `nix copy` sends them to a
// store: references before referrers, otherwise by name (libutil/topo-sort.hh:
// depth first, in the order of a sorted set). The members of a reference cycle,
// which only a broken builder can make, come in some order.
func importOrder(paths []nix.Path, references func(nix.Path) []nix.Path) []nix.Path {
	const (
		wanted = 1 + iota
		seen
	)
	state := make(map[nix.Path]uint8, len(paths))
	for _, p := range paths {
		state[p] = wanted
	}
	type frame struct {
		path nix.Path
		refs []nix.Path
	}
	var stack []frame
	order := make([]nix.Path, 0, len(paths))
	for _, root := range nix.SortedPaths(paths) {
		if state[root] != wanted {
			continue
		}
		state[root] = seen
		stack = append(stack, frame{root, references(root)})
		for len(stack) > 0 {
			top := &stack[len(stack)-1]
			if len(top.refs) == 0 {
				order = append(order, top.path)
				stack = stack[:len(stack)-1]
				continue
			}
			next := top.refs[0]
			top.refs = top.refs[1:]
			if state[next] == wanted {
				state[next] = seen
				stack = append(stack, frame{next, references(next)})
			}
		}
	}
	return order
}

// add takes verified infos into the View; v.mu is held.
func (v *View) add(infos []nix.PathInfo) error {
	sum := v.total()
	for _, info := range infos {
		if old, ok := v.infos[info.Path.Hash()]; ok {
			if old.Path != info.Path || old.NarHash != info.NarHash {
				return fmt.Errorf("%w: %s stands twice with other contents", ErrNarInfo, info.Path)
			}
			continue
		}
		hash := info.NarHash.Nix32()
		if n, ok := v.nars[hash]; ok {
			if n.size != int64(info.NarSize) {
				return fmt.Errorf("%w: two sizes for one NAR hash", ErrNarInfo)
			}
		} else {
			if info.NarSize > uint64(math.MaxInt64-sum) {
				return fmt.Errorf("%w: the sizes add up to an absurd number", ErrNarInfo)
			}
			n := &narState{
				hash: hash, name: nix.NarURL(info.NarHash), path: info.Path,
				size: int64(info.NarSize), start: sum, index: len(v.order),
			}
			sum += n.size
			v.nars[hash] = n
			v.order = append(v.order, n)
		}
		v.infos[info.Path.Hash()] = info
		v.paths = append(v.paths, info.Path)
	}
	return nil
}

// total is the sum of the sizes of all NARs.
func (v *View) total() int64 {
	if len(v.order) == 0 {
		return 0
	}
	last := v.order[len(v.order)-1]
	return last.start + last.size
}

// reorder puts the NARs of paths first, in import order; v.mu is held.
func (v *View) reorder(paths []nix.Path) {
	known := make([]nix.Path, 0, len(paths))
	for _, p := range paths {
		if info, ok := v.infos[p.Hash()]; ok && info.Path == p {
			known = append(known, p)
		}
	}
	sorted := importOrder(known, func(p nix.Path) []nix.Path { return v.infos[p.Hash()].References })

	order := make([]*narState, 0, len(v.order))
	first := make(map[*narState]bool, len(sorted))
	for _, p := range sorted {
		n := v.nars[v.infos[p.Hash()].NarHash.Nix32()]
		if !first[n] {
			first[n] = true
			order = append(order, n)
		}
	}
	v.expected = len(order)
	for _, n := range order {
		n.done = n.done || v.filed(n) // is not fetched ahead
	}
	for _, n := range v.order {
		if !first[n] {
			order = append(order, n)
		}
	}
	var start int64
	for i, n := range order {
		n.index, n.start = i, start
		start += n.size
	}
	v.order = slices.Clip(order)
}
