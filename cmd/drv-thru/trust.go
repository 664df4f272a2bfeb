package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"os/user"
	"strings"

	"github.com/drv-thru/drv-thru/core/cache"
	"github.com/drv-thru/drv-thru/core/client"
	"github.com/drv-thru/drv-thru/core/nix"
	"github.com/drv-thru/drv-thru/core/nix/daemon"
	"github.com/drv-thru/drv-thru/core/nix/eval"
	"github.com/drv-thru/drv-thru/fusecache/helper"
)

const (
	// daemonConfig is where the Nix daemon's settings are.
	daemonConfig = "/etc/nix/nix.conf"
	// maxDaemonConfig bounds how much of it is read.
	maxDaemonConfig = 1 << 20
)

// importHelperEnv names the import helper's socket.
const importHelperEnv = envPrefix + "_IMPORT_HELPER"

// importHelperSocket is where the import helper listens.
func (a *app) importHelperSocket() string {
	return cmp.Or(a.env(importHelperEnv), helper.DefaultSocket)
}

// importHelp is an import helper that takes what key has signed.
type importHelp struct {
	client *helper.Client
	key    string
}

// trusted makes sure that what key signs can be imported: the local Nix trusts the
// user or the key, or there is an import helper that takes it, which is returned.
func (a *app) trusted(ctx context.Context, trust client.LocalTrust, key, mode string, log *slog.Logger) (*importHelp, error) {
	err := a.checkTrust(ctx, trust, key)
	var distrust *client.TrustError
	if !errors.As(err, &distrust) {
		return nil, err
	}
	if h := a.helped(ctx, distrust, mode, log); h != nil {
		return h, nil
	}
	return nil, err
}

// helped returns the import helper that takes the key of which distrust is, or nil,
// and then distrust says why there is none.
func (a *app) helped(ctx context.Context, distrust *client.TrustError, mode string, log *slog.Logger) *importHelp {
	h := &importHelp{&helper.Client{Socket: a.importHelperSocket(), Log: log}, distrust.Key}
	herr := h.client.Check(ctx, distrust.Key)
	var refused *helper.RefusedError
	switch {
	case herr == nil && mode != "auto":
		distrust.Helper = fmt.Sprintf("the import helper would take it, but --import %s does without one, unlike --import auto", mode)
	case herr == nil:
		log.Debug("the import helper takes the builder's key")
		return h
	case errors.As(herr, &refused) && refused.Code == helper.CodeKey:
		distrust.Helper = "there is an import helper, but the key is not on its list"
	case errors.As(herr, &refused):
		distrust.Helper = refused.Error()
	case !errors.Is(herr, helper.ErrNoHelper) || !missing(a.importHelperSocket()):
		distrust.Helper = herr.Error()
	}
	return nil
}

// missing reports whether there is nothing where the helper's socket should be,
// which is nothing to speak of.
func missing(socket string) bool {
	_, err := os.Lstat(socket)
	return errors.Is(err, fs.ErrNotExist)
}

// copy has the helper import paths from the view.
func (h *importHelp) copy(ctx context.Context, view *cache.View, paths []nix.Path, recursive bool) error {
	if recursive {
		return errors.New("the outputs refer to derivations, which the import helper does not import; have this machine's Nix trust the builder's key")
	}
	texts := make([]string, len(paths))
	for i, p := range paths {
		texts[i] = string(p)
	}
	err := h.client.Import(ctx, view, h.key, texts, nil)
	var failed *helper.FailedError
	if errors.As(err, &failed) {
		return &copyError{err, strings.TrimSpace(daemon.StripANSI(failed.Text))}
	}
	return err
}

// checkTrust fails unless the local Nix will import what key signs.
func (a *app) checkTrust(ctx context.Context, trust client.LocalTrust, key string) error {
	// Running nix takes longer than all the rest of an import that has little to
	// do, and the key mostly stands in the file.
	if text, err := readBounded(daemonConfig, maxDaemonConfig); err == nil {
		trust.Keys = configKeys(string(text))
		if client.CheckTrust(key, trust) == nil {
			return nil
		}
	}
	// The keys are the machine's, not what the user's own nix.conf adds, for the
	// daemon does not heed that.
	config, err := eval.ShowConfig(ctx, eval.Config{Env: eval.SystemEnv(a.environ)})
	if err != nil {
		return fmt.Errorf("find out whom the local Nix trusts: %w", err)
	}
	trust.Keys = strings.Fields(config["trusted-public-keys"])
	trust.NoSigs = config["require-sigs"] == "false"
	return client.CheckTrust(key, trust)
}

// configKeys returns the trusted keys that a nix.conf(5) names; none if it includes
// another file, which may name others in their place.
func configKeys(text string) []string {
	var keys, extra []string
	for line := range strings.Lines(text) {
		line, _, _ = strings.Cut(line, "#")
		words := strings.Fields(line)
		if len(words) > 0 && (words[0] == "include" || words[0] == "!include") {
			return nil
		}
		if len(words) < 2 || words[1] != "=" {
			continue
		}
		switch words[0] {
		case "trusted-public-keys", "binary-cache-public-keys":
			keys, extra = words[2:], nil
		case "extra-trusted-public-keys", "extra-binary-cache-public-keys":
			extra = append(extra, words[2:]...)
		}
	}
	return append(keys[:len(keys):len(keys)], extra...)
}

// userTrust asks the daemon whether it trusts the user.
func (a *app) userTrust(ctx context.Context, store *localStore) (client.LocalTrust, error) {
	t := client.LocalTrust{User: a.userName()}
	trust := store.conn.Info().Trust
	if trust == daemon.TrustUnknown {
		var err error
		if trust, err = daemon.ProbeTrust(ctx, store.cfg); err != nil {
			return t, err
		}
	}
	t.UserTrusted = trust == daemon.Trusted
	return t, nil
}

func (a *app) userName() string {
	if u, err := user.Current(); err == nil && u.Username != "" {
		return u.Username
	}
	return a.env("USER")
}
