package daemon

import (
	"context"

	"github.com/drv-thru/drv-thru/core/nix"
)

// QueryValidPaths returns those of the paths that are in the store, sorted. With
// substitute the daemon first fetches what its substituters have of the others.
func (c *Conn) QueryValidPaths(ctx context.Context, ps []nix.Path, substitute bool) (valid []nix.Path, err error) {
	err = c.call(ctx, func(e *encoder) { e.queryValidPaths(ps, substitute) }, func(d *decoder) { valid = d.paths() })
	return valid, err
}

func (e *encoder) queryValidPaths(ps []nix.Path, substitute bool) {
	e.u64(opQueryValidPaths)
	e.paths(nix.SortedPaths(ps))
	e.bool(substitute)
}

// QueryPathInfos asks for many paths at once, in one round trip or few. The
// result has an entry for each, nil where the path is not valid.
func (c *Conn) QueryPathInfos(ctx context.Context, ps []nix.Path) ([]*nix.PathInfo, error) {
	infos := make([]*nix.PathInfo, len(ps))
	err := c.pipeline(ctx, batch{
		next: times(len(ps)),
		write: func(e *encoder, i int) error {
			e.u64(opQueryPathInfo)
			e.string(string(ps[i]))
			return e.err
		},
		read: func(d *decoder, i int) {
			if d.bool() {
				infos[i] = d.unkeyedInfo(ps[i])
			}
		},
	})
	if err != nil {
		return nil, err
	}
	return infos, nil
}

// QueryPathFromHashPart returns the valid path with this hash part, "" for none. It is
// answered from the store's database alone: no substituter is asked.
func (c *Conn) QueryPathFromHashPart(ctx context.Context, hash string) (p nix.Path, err error) {
	err = c.call(ctx, func(e *encoder) {
		e.u64(opQueryPathFromHashPart)
		e.string(hash)
	}, func(d *decoder) { p = d.optPath() })
	return p, err
}

// Missing is what it takes to realise some paths.
type Missing struct {
	// WillBuild are derivations.
	WillBuild []nix.Path
	// WillSubstitute are outputs that a substituter has.
	WillSubstitute []nix.Path
	// Unknown are paths that can be had in no way, such as a .drv that is
	// neither here nor in a substituter.
	Unknown []nix.Path
	// DownloadSize and NarSize sum up WillSubstitute in bytes, compressed and not.
	DownloadSize, NarSize uint64
}

// QueryMissing tells what realising the paths would build and fetch. The daemon
// asks its substituters.
func (c *Conn) QueryMissing(ctx context.Context, ps []DerivedPath) (m Missing, err error) {
	if err := checkDerived(ps); err != nil {
		return Missing{}, err
	}
	err = c.call(ctx, func(e *encoder) {
		e.u64(opQueryMissing)
		e.derivedPaths(ps)
	}, func(d *decoder) {
		m = Missing{
			WillBuild: d.paths(), WillSubstitute: d.paths(), Unknown: d.paths(),
			DownloadSize: d.u64(), NarSize: d.u64(),
		}
	})
	return m, err
}
