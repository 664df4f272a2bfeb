package main

import (
	"context"
	"fmt"
	"os/user"
	"strings"

	"github.com/drv-thru/drv-thru/core/client"
	"github.com/drv-thru/drv-thru/core/nix/daemon"
	"github.com/drv-thru/drv-thru/core/nix/eval"
)

// localTrust finds out what the local Nix would import. The daemon says whether
// it trusts the user; the keys are the machine's, not what the user's own
// nix.conf adds, for the daemon does not heed that.
func (a *app) localTrust(ctx context.Context, store *localStore) (client.LocalTrust, error) {
	t := client.LocalTrust{User: a.userName()}
	trust := store.conn.Info().Trust
	if trust == daemon.TrustUnknown {
		var err error
		if trust, err = daemon.ProbeTrust(ctx, store.cfg); err != nil {
			return t, err
		}
	}
	if t.UserTrusted = trust == daemon.Trusted; t.UserTrusted {
		return t, nil
	}
	config, err := eval.ShowConfig(ctx, eval.Config{Env: eval.SystemEnv(a.environ)})
	if err != nil {
		return t, fmt.Errorf("find out whom the local Nix trusts: %w", err)
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

// trustLookup is a localTrust under way, so that it costs no time of its own.
type trustLookup struct {
	done  chan struct{}
	trust client.LocalTrust
	err   error
}

func (a *app) lookUpTrust(ctx context.Context, store *localStore) *trustLookup {
	l := &trustLookup{done: make(chan struct{})}
	go func() {
		defer close(l.done)
		l.trust, l.err = a.localTrust(ctx, store)
	}()
	return l
}

func (l *trustLookup) wait() (client.LocalTrust, error) {
	<-l.done
	return l.trust, l.err
}
