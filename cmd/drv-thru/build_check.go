package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"

	"github.com/drv-thru/drv-thru/core/client"
	"github.com/drv-thru/drv-thru/core/nix"
	"github.com/drv-thru/drv-thru/core/wire"
)

// builtinSystem is the system of what Nix builds by itself, on any machine.
const builtinSystem = "builtin"

// collect reads what is to be built, which the local Nix has just evaluated.
func collect(ctx context.Context, store client.Store, drvs []nix.Path) (*client.Inputs, error) {
	inputs, err := client.Collect(ctx, client.StoreFiles{}, store, drvs)
	if errors.Is(err, fs.ErrNotExist) {
		err = &hintError{err, "the local Nix has put it elsewhere: see NIX_REMOTE, and store in nix.conf"}
	}
	return inputs, err
}

// checkBuilder fails when it is known already that the builder will refuse what
// is to be built, so that nothing moves and no use of a ticket is spent.
func checkBuilder(info *wire.Info, roots []wire.Root) error {
	for _, root := range roots {
		p := nix.Path(root.Drv)
		text, err := client.StoreFiles{}.ReadDrv(p)
		if err != nil {
			return fmt.Errorf("read derivation: %w", err)
		}
		drv, err := nix.ParseDerivation(p.Name(), text)
		if err != nil {
			return fmt.Errorf("read derivation %s: %w", p, err)
		}
		if err := checkSystem(info, p, drv.System); err != nil {
			return err
		}
		switch drv.Kind() {
		case nix.Floating, nix.Deferred, nix.Impure:
			if !info.CADerivations {
				return &hintError{
					fmt.Errorf("the path of %s would be known only after the build, which the builder's Nix does not do", p),
					"its owner has to add ca-derivations to experimental-features in nix.conf",
				}
			}
		}
	}
	return nil
}

func checkSystem(info *wire.Info, drv nix.Path, system string) error {
	switch {
	case system == builtinSystem:
	case !slices.Contains(info.Systems, system):
		return wire.Errorf(wire.CodeSystemMissing, "%s is for %s; the builder builds for %s", drv, system, strings.Join(info.Systems, ", "))
	case info.Ticket != nil && len(info.Ticket.Limits.Systems) > 0 && !slices.Contains(info.Ticket.Limits.Systems, system):
		return wire.Errorf(wire.CodeSystemDenied, "%s is for %s; the ticket is for %s", drv, system, strings.Join(info.Ticket.Limits.Systems, ", "))
	}
	return nil
}
