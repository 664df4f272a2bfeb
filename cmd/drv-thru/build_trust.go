package main

import (
	"context"
	"os/user"
	"strings"

	"github.com/drv-thru/drv-thru/core/client"
	"github.com/drv-thru/drv-thru/core/nix/daemon"
)

// localTrust finds out what the local Nix would import. store says whether the
// daemon trusts the user; the keys are the machine's, not what the user's own
// nix.conf adds, for the daemon does not heed that.
func (a *app) localTrust(ctx context.Context, store *localStore) (client.LocalTrust, error) {
	t := client.LocalTrust{User: a.userName()}
	trust, err := daemon.ProbeTrust(ctx, store.cfg)
	if err != nil {
		return t, err
	}
	if t.UserTrusted = trust == daemon.Trusted; t.UserTrusted {
		return t, nil
	}
	config, err := a.machineConfig(ctx)
	if err != nil {
		return t, err
	}
	t.Keys = strings.Fields(config["trusted-public-keys"])
	t.NoSigs = config["require-sigs"] == "false"
	return t, nil
}

func (a *app) userName() string {
	if u, err := user.Current(); err == nil && u.Username != "" {
		return u.Username
	}
	return a.env("USER")
}
