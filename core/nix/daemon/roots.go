package daemon

import (
	"context"
	"fmt"
	"path"

	"github.com/drv-thru/drv-thru/core/nix"
)

// AddTempRoots keeps paths, valid or not, from garbage collection for as long
// as this connection is open.
func (c *Conn) AddTempRoots(ctx context.Context, ps []nix.Path) error {
	c.private.Store(true)
	return c.pipeline(ctx, batch{
		next: times(len(ps)),
		write: func(e *encoder, i int) error {
			e.addTempRoot(ps[i])
			return e.err
		},
		read: func(d *decoder, _ int) { d.u64() },
	})
}

// KeepPaths is AddTempRoots and QueryValidPaths of the same paths, in one round trip.
func (c *Conn) KeepPaths(ctx context.Context, ps []nix.Path) (valid []nix.Path, err error) {
	c.private.Store(true)
	err = c.pipeline(ctx, batch{
		next: times(len(ps) + 1),
		write: func(e *encoder, i int) error {
			if i < len(ps) {
				e.addTempRoot(ps[i])
			} else {
				e.queryValidPaths(ps, false)
			}
			return e.err
		},
		read: func(d *decoder, i int) {
			if i < len(ps) {
				d.u64()
			} else {
				valid = d.paths()
			}
		},
	})
	return valid, err
}

func (e *encoder) addTempRoot(p nix.Path) {
	e.u64(opAddTempRoot)
	e.string(string(p))
}

// AddIndirectRoots registers symbolic links anywhere in the file system, which
// the caller has made, as roots: what they point to stays until the links go.
func (c *Conn) AddIndirectRoots(ctx context.Context, links ...string) error {
	for _, link := range links {
		if !path.IsAbs(link) {
			return fmt.Errorf("add a garbage collector root: %q is not an absolute path", link)
		}
	}
	return c.pipeline(ctx, batch{
		next: times(len(links)),
		write: func(e *encoder, i int) error {
			e.u64(opAddIndirectRoot)
			e.string(links[i])
			return e.err
		},
		read: func(d *decoder, _ int) { d.u64() },
	})
}
