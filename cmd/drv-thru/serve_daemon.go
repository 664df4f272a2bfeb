package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"

	"github.com/drv-thru/drv-thru/core/builder/nixstore"
	"github.com/drv-thru/drv-thru/core/nix/daemon"
)

// checkDaemon refuses a Nix daemon that would make serving strangers unsafe.
func (a *app) checkDaemon(ctx context.Context, cfg *serveConfig, store *nixstore.Store, settings *nixSettings) (daemon.Info, error) {
	info, err := store.Info(ctx)
	if err != nil {
		return info, &hintError{fmt.Errorf("ask the Nix daemon: %w", err), "is nix-daemon running, and may this user talk to it? (allowed-users in nix.conf; on Debian, the group nix-users)"}
	}
	if info.Trust == daemon.Trusted && !cfg.AllowTrustedDaemon {
		return info, &hintError{
			fmt.Errorf("the Nix daemon trusts this user (%s): ticket holders could then put any path into the store if drv-thru erred", a.userName()),
			"run drv-thru serve as a user that is not in trusted-users of nix.conf (root always is)\nor, on a machine that is yours alone: --allow-trusted-daemon",
		}
	}
	if settings.delegates() && len(settings.machines) == 0 && settings.machinesErr == nil {
		return info, &hintError{
			errors.New("nothing can be built: nix.conf has max-jobs = 0, and no machines in builders"),
			"set max-jobs in nix.conf to what this machine may build at a time, or name machines in builders, and restart the Nix daemon",
		}
	}
	if cfg.AllowUnsandboxed {
		return info, nil
	}
	if settings.sandbox != "true" {
		return info, &hintError{
			fmt.Errorf("builds are not sandboxed: nix.conf has sandbox = %s", settings.sandbox),
			"set sandbox = true in nix.conf and restart the Nix daemon\nor, if whoever holds a ticket may do what a local user may: --allow-unsandboxed",
		}
	}
	if settings.delegates() {
		return info, nil // nothing is built here; whose the machines are sees to theirs
	}
	err = store.ProbeSandbox(ctx, rand.Reader, settings.systems[0])
	switch {
	case errors.Is(err, nixstore.ErrUnsandboxed):
		return info, &hintError{err, "see sandbox in nix.conf; to serve all the same: --allow-unsandboxed"}
	case errors.Is(err, nixstore.ErrRoot):
		return info, &hintError{err, "set build-users-group in nix.conf to a group that has members, such as nixbld, and restart the Nix daemon\nor, if whoever holds a ticket may do what root may: --allow-unsandboxed"}
	case err != nil:
		// It may be a full disk, or a post-build-hook that fails: no reason to do
		// without a sandbox.
		return info, &hintError{err, "the Nix daemon has to build a derivation of one line before it is served: see what it says, and its log\nor, where all that it lacks is a sandbox: sandbox in nix.conf, or --allow-unsandboxed"}
	}
	return info, nil
}
