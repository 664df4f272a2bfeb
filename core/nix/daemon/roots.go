package daemon

import (
	"context"
	"fmt"
	"path"

	"github.com/drv-thru/drv-thru/core/nix"
)

// AddTempRoot keeps a path, valid or not, from garbage collection for as long
// as this connection is open.
func (c *Conn) AddTempRoot(ctx context.Context, p nix.Path) error {
	return c.AddTempRoots(ctx, []nix.Path{p})
}

// AddTempRoots is AddTempRoot of many paths at once.
func (c *Conn) AddTempRoots(ctx context.Context, ps []nix.Path) error {
	c.private.Store(true)
	return c.pipeline(ctx, batch{
		next: times(len(ps)),
		write: func(e *encoder, i int) error {
			e.u64(opAddTempRoot)
			e.string(string(ps[i]))
			return e.err
		},
		read: func(d *decoder, _ int) { d.u64() },
	})
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

// EnsurePath makes a path valid by substitution, if it is not.
func (c *Conn) EnsurePath(ctx context.Context, p nix.Path) error {
	return c.call(ctx, func(e *encoder) {
		e.u64(opEnsurePath)
		e.string(string(p))
	}, func(d *decoder) { d.u64() })
}
