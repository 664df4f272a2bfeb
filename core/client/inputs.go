package client

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"

	"golang.org/x/sync/errgroup"

	"github.com/drv-thru/drv-thru/core/nix"
	"github.com/drv-thru/drv-thru/core/wire"
)

// Inputs is the closure of .drv files and sources that some derivations need,
// in the order of the protocol: references before referrers.
type Inputs struct {
	Paths []nix.Path
	Wire  []wire.Input // same indexes
	// Bytes is the sum of the NAR sizes.
	Bytes uint64
}

// Collect finds the closure of the .drv files. What a .drv needs is read from
// the file itself and checked against its name, so that a damaged store is
// noticed here; only sources are asked of the daemon.
func Collect(ctx context.Context, files Files, store Store, drvs []nix.Path) (*Inputs, error) {
	c := collector{files: files, store: store, infos: make(map[nix.Path]nix.PathInfo, 256)}
	next := nix.SortedPaths(slices.Clone(drvs))
	for len(next) > 0 {
		if len(c.infos)+len(next) > wire.MaxClosurePaths {
			return nil, fmt.Errorf("the build needs more than %d paths, the most that a builder takes", wire.MaxClosurePaths)
		}
		found, err := c.level(ctx, next)
		if err != nil {
			return nil, err
		}
		next = next[:0:0]
		for _, info := range found {
			c.infos[info.Path] = info
		}
		for _, info := range found {
			for _, r := range info.References {
				if _, ok := c.infos[r]; !ok {
					next = append(next, r)
				}
			}
		}
		next = nix.SortedPaths(next)
	}
	return order(c.infos)
}

type collector struct {
	files Files
	store Store
	infos map[nix.Path]nix.PathInfo
}

// level describes paths that are all new.
func (c *collector) level(ctx context.Context, paths []nix.Path) ([]nix.PathInfo, error) {
	var drvs, others []nix.Path
	for _, p := range paths {
		if p.IsDrv() {
			drvs = append(drvs, p)
		} else {
			others = append(others, p)
		}
	}
	out := make([]nix.PathInfo, len(drvs), len(paths))
	g, gctx := errgroup.WithContext(ctx)
	const share = 16 // a file at a time would cost more in hand-overs than in reading
	g.SetLimit(runtime.GOMAXPROCS(0))
	for from := 0; from < len(drvs); from += share {
		to := min(from+share, len(drvs))
		g.Go(func() error {
			for i := from; i < to; i++ {
				if err := gctx.Err(); err != nil {
					return err
				}
				var err error
				if out[i], err = drvInfo(c.files, drvs[i]); err != nil {
					return err
				}
			}
			return nil
		})
	}
	var known map[nix.Path]nix.PathInfo
	if len(others) > 0 {
		var err error
		if known, err = c.store.PathInfos(ctx, others); err != nil {
			return nil, errors.Join(fmt.Errorf("ask the local Nix for the build's sources: %w", err), g.Wait())
		}
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	for _, p := range others {
		info, ok := known[p]
		if !ok {
			return nil, fmt.Errorf("%s is needed by the build but not valid in the local store", p)
		}
		out = append(out, info)
	}
	return out, nil
}

// drvInfo computes a .drv file's path info from its text.
func drvInfo(files Files, p nix.Path) (nix.PathInfo, error) {
	text, err := files.ReadDrv(p)
	if err != nil {
		return nix.PathInfo{}, fmt.Errorf("read derivation: %w", err)
	}
	drv, err := nix.ParseDerivation(p.Name(), text)
	if err != nil {
		return nix.PathInfo{}, fmt.Errorf("read derivation %s: %w", p, err)
	}
	info, err := nix.TextInfo(p.Name(), text, drv.References())
	if err == nil && info.Path != p {
		err = fmt.Errorf("its contents belong to %s", info.Path)
	}
	if err != nil {
		return nix.PathInfo{}, fmt.Errorf("%s is damaged: %w", p, err)
	}
	return info, nil
}

// order sorts the closure: references before referrers, and among what could
// come next first the large paths, so that everything small ends up side by
// side and travels in one batch.
func order(infos map[nix.Path]nix.PathInfo) (*Inputs, error) {
	paths := make([]nix.Path, 0, len(infos))
	for p := range infos {
		paths = append(paths, p)
	}
	slices.Sort(paths) // the same closure gives the same document every time
	index := make(map[nix.Path]int, len(paths))
	for i, p := range paths {
		index[p] = i
	}
	waits := make([]int, len(paths)) // references that are not out yet
	referrers := make([][]int, len(paths))
	var large, small []int
	ready := func(i int) {
		if isLarge(infos[paths[i]].NarSize, paths[i]) {
			large = append(large, i)
		} else {
			small = append(small, i)
		}
	}
	for i, p := range paths {
		for _, r := range infos[p].References {
			if j := index[r]; j != i {
				waits[i]++
				referrers[j] = append(referrers[j], i)
			}
		}
		if waits[i] == 0 {
			ready(i)
		}
	}
	in := &Inputs{Paths: make([]nix.Path, 0, len(paths)), Wire: make([]wire.Input, 0, len(paths))}
	position := make([]int, len(paths))
	for len(large)+len(small) > 0 {
		var i int
		if len(large) > 0 {
			i, large = large[0], large[1:]
		} else {
			i, small = small[0], small[1:]
		}
		info := infos[paths[i]]
		position[i] = len(in.Paths)
		w := wire.Input{
			Path: string(info.Path), NarHash: info.NarHash.Nix32(), NarSize: info.NarSize,
			CA: info.CA, Deriver: string(info.Deriver), Sigs: info.Sigs,
		}
		if len(info.References) > wire.MaxReferences {
			return nil, fmt.Errorf("%s has more than %d references, the most that a builder takes", info.Path, wire.MaxReferences)
		}
		for _, r := range info.References {
			w.References = append(w.References, position[index[r]])
		}
		slices.Sort(w.References)
		in.Paths = append(in.Paths, info.Path)
		in.Wire = append(in.Wire, w)
		in.Bytes += info.NarSize
		for _, j := range referrers[i] {
			if waits[j]--; waits[j] == 0 {
				ready(j)
			}
		}
	}
	if len(in.Paths) != len(paths) {
		return nil, errors.New("the local store's references go in circles")
	}
	return in, nil
}
