package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/drv-thru/drv-thru/cmd/drv-thru/internal/policies"
	"github.com/drv-thru/drv-thru/cmd/drv-thru/internal/state"
	"github.com/drv-thru/drv-thru/core/key"
	"github.com/drv-thru/drv-thru/core/nix"
)

// checkServe looks at everything that serve would read, and changes nothing. A
// builder may be running.
func (a *app) checkServe(ctx context.Context, cfg *serveConfig) error {
	var failed error
	note := func(what, where string, err error) {
		switch {
		case errors.Is(err, fs.ErrNotExist):
			fmt.Fprintf(a.stdout, "%-15s %s: not there yet, serve will make it\n", what, where)
		case err != nil:
			failed = errors.Join(failed, err)
		default:
			fmt.Fprintf(a.stdout, "%-15s %s: good\n", what, where)
		}
	}
	err := checkDataDir(cfg.DataDir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err // of what is in it the same would be said
	}
	note("data directory", cfg.DataDir, err)
	_, err = key.LoadFile(cfg.SecretKeyFile)
	if dir := filepath.Dir(cfg.SecretKeyFile); errors.Is(err, fs.ErrNotExist) && dir != cfg.DataDir {
		// serve makes no directory but its own.
		if _, missing := os.Stat(dir); missing != nil {
			err = fmt.Errorf("the secret key cannot be made: there is no directory %s", dir)
		}
	}
	note("secret key", cfg.SecretKeyFile, err)
	signing := filepath.Join(cfg.DataDir, "signing-secret.key")
	text, err := key.ReadFile(signing)
	if err == nil {
		if _, err = nix.ParseSecretKey(string(text)); err != nil {
			err = fmt.Errorf("%s: %w", signing, err)
		}
	}
	note("signing key", signing, err)
	db := filepath.Join(cfg.DataDir, "state.db")
	note("state", db, state.Check(ctx, db))
	failed = errors.Join(failed, checkAdminSocket(cfg))
	if len(cfg.RelayTokenFiles) > 0 {
		// One that is missing is not made.
		if _, err := cfg.relayToken(); err != nil {
			failed = errors.Join(failed, err)
		}
	}
	if err := errors.Join(failed, cfg.checkModules(ctx)); err != nil {
		return err
	}
	relays := cfg.Relays
	if cfg.EmbeddedRelay != "" {
		relays = slices.Concat(relays, cfg.EmbeddedRelayURLs)
	}
	if warning := unnamedRelays(relays); warning != "" {
		fmt.Fprintf(a.stderr, "warning: %s\n", warning)
	}
	fmt.Fprintln(a.stdout, "the configuration can be served")
	return nil
}

// checkDataDir finds what keeps the data directory from being used; one that is not
// there yet is an error that is [fs.ErrNotExist].
func checkDataDir(dir string) error {
	info, err := os.Stat(dir)
	hint := "name another with --data-dir"
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return err
	case err != nil:
	case !info.IsDir():
		err = errors.New("not a directory")
	default:
		if err = unix.Access(dir, unix.W_OK|unix.X_OK); err == nil {
			return nil
		}
		hint = othersDataDir
	}
	return &hintError{fmt.Errorf("data directory %s: %w", dir, err), hint}
}

// checkAdminSocket finds what keeps the admin socket from being made, but the builder
// that may have it now.
func checkAdminSocket(cfg *serveConfig) error {
	info, err := os.Lstat(cfg.AdminSocket)
	switch {
	case err == nil && info.Mode().Type() != fs.ModeSocket:
		err = errors.New("a file of that name exists and is no socket")
	case errors.Is(err, fs.ErrNotExist):
		err = nil
		// serve makes no directory but its own.
		if dir := filepath.Dir(cfg.AdminSocket); dir != cfg.DataDir {
			err = unix.Access(dir, unix.W_OK|unix.X_OK)
		}
	}
	if err != nil {
		return &hintError{fmt.Errorf("admin socket %s: %w", cfg.AdminSocket, err), "name another with --admin-socket"}
	}
	return nil
}

// checkModules compiles the modules of policies.
func (c *serveConfig) checkModules(ctx context.Context) error {
	modules := make(map[string]policies.Policy)
	for name, p := range c.Policies {
		if p.Module != "" {
			modules[name] = p
		}
	}
	if len(modules) == 0 {
		return nil
	}
	dir, err := os.MkdirTemp("", "drv-thru-check-")
	if err != nil {
		return fmt.Errorf("check policies: %w", err)
	}
	defer os.RemoveAll(dir)
	m, err := policies.New(ctx, policies.Config{
		Policies: modules, Dir: dir, Log: slog.New(slog.DiscardHandler), Now: time.Now,
		Record: func(context.Context, state.Decision) error { return nil },
	})
	if err != nil {
		return err
	}
	defer m.Close()
	var failed error
	for _, p := range m.List(ctx) {
		if p.Error != "" {
			failed = errors.Join(failed, fmt.Errorf("policy %q: %s", p.Name, p.Error))
		}
	}
	return failed
}
