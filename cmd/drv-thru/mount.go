package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"os/signal"
	"path/filepath"
	"time"

	"github.com/peterbourgon/ff/v3/ffcli"

	"github.com/drv-thru/drv-thru/cmd/internal/usage"
	"github.com/drv-thru/drv-thru/core/ticket"
)

// mountFlags are the flags of mount.
type mountFlags struct {
	routeFlags
	allowOther          bool
	cacheDir, cacheSize string
	readTimeout         time.Duration
	fetches             fetches
	verbose             bool
}

// minReadTimeout keeps a typing error from making every read fail.
const minReadTimeout = time.Second

const mountHelp = `Mounts the builder's signed cache on DIR, for as long as this runs. The directory
is a substituter: nix build --substituters file://DIR, with the builder's signing
key among trusted-public-keys. It has what the ticket or this client may read, also
what is built later. While the builder cannot be reached it has what was read before.

The Nix daemon, or anybody but the user who mounts, needs --allow-other; for
ordinary users that takes user_allow_other in /etc/fuse.conf.

A ticket on the command line can be seen by every user of this machine while the
command runs. Put it into DRV_THRU_TICKET or a file instead.`

func newMountCommand(a *app) *ffcli.Command {
	var f mountFlags
	// Of the flags that may stand in the environment, --cache-size is the one whose
	// name there is taken. What a asks for is a copy.
	_ = os.Unsetenv(cacheSizeEnv)
	fs := a.flags("drv-thru mount")
	f.routeFlags.register(fs)
	fs.Var((*usage.Word)(&f.ticketFile), "ticket-file", "`FILE` with the ticket")
	fs.BoolVar(&f.allowOther, "allow-other", false, "let all users of this machine read the mount, the Nix daemon among them")
	fs.Var((*usage.Word)(&f.cacheDir), "cache-dir", "`DIR` for whole paths that were read (default $XDG_CACHE_HOME/drv-thru/mount/BUILDER)")
	fs.StringVar(&f.cacheSize, "cache-size", "4G", "`SIZE` of that; 0 keeps none (chunks are kept apart: "+cacheSizeEnv+")")
	usage.DurationVar(fs, &f.readTimeout, "read-timeout", 30*time.Second, "`TIME` after which a read without progress fails")
	f.fetches.register(fs)
	fs.BoolVar(&f.verbose, "v", false, "tell what happens to connections")
	return &ffcli.Command{
		Name:       "mount",
		ShortUsage: "drv-thru mount [--ticket TICKET | --builder NAME | --server ID --relay-url URL] [flags] DIR",
		ShortHelp:  "mount a builder's cache as a substituter",
		LongHelp:   mountHelp,
		FlagSet:    fs,
		Options:    fromEnvironment,
		Exec: func(ctx context.Context, args []string) error {
			dir, err := a.oneOperand(fs, args, "one directory")
			if err != nil {
				return err
			}
			cfg, err := f.configure(a, dir)
			if err != nil {
				return err
			}
			ctx, stop := signal.NotifyContext(ctx, interrupts()...)
			defer stop()
			return a.mount(ctx, cfg)
		},
	}
}

// mountConfig is what mount needs to know.
type mountConfig struct {
	dir         string
	route       *route
	allowOther  bool
	cacheDir    string // "": keep nothing
	cacheBytes  int64
	chunkBytes  int64
	readTimeout time.Duration
	fetches     int
	verbose     bool
}

func (f *mountFlags) configure(a *app, dir string) (*mountConfig, error) {
	if f.named() == 0 {
		return nil, &usageError{
			text: "mount needs to know whose cache to show",
			hint: "give --ticket TICKET, --builder NAME, or --server ID with --relay-url URL",
		}
	}
	if f.readTimeout < minReadTimeout {
		return nil, usagef("--read-timeout is at least %s", minReadTimeout)
	}
	if err := f.routeFlags.check(a); err != nil {
		return nil, err
	}
	r, err := a.route(&f.routeFlags, a.note)
	if err != nil {
		return nil, err
	}
	cfg := &mountConfig{
		dir: dir, route: r,
		allowOther: f.allowOther, readTimeout: f.readTimeout, fetches: f.fetches.orAuto(), verbose: f.verbose,
	}
	if cfg.chunkBytes, err = a.cacheSize(); err != nil {
		return nil, err
	}
	if f.cacheSize == "0" {
		return cfg, nil
	}
	size, err := ticket.ParseSize(f.cacheSize)
	if err != nil {
		return nil, usagef("--cache-size: %v", err)
	}
	if cfg.cacheBytes = int64(size); size == 0 {
		cfg.cacheBytes = math.MaxInt64 / 2 // unlimited
	}
	if cfg.cacheDir = f.cacheDir; cfg.cacheDir != "" {
		return cfg, nil
	}
	base, err := a.cacheDir()
	if err != nil {
		a.note("nothing that is read is kept on disk, which takes --cache-dir: " + err.Error())
		return cfg, nil
	}
	cfg.cacheDir = filepath.Join(base, mountCacheDir, r.builder.String())
	return cfg, nil
}

// mountCacheDir is the directory of what mounts keep, in the cache directory.
const mountCacheDir = "mount"

// readTicketFile reads a ticket from a file.
func readTicketFile(name string) (string, error) {
	file, err := os.Open(name)
	if err != nil {
		return "", fmt.Errorf("read the ticket: %w", err)
	}
	defer file.Close()
	text, err := io.ReadAll(io.LimitReader(file, ticket.MaxText+1))
	if err != nil {
		return "", fmt.Errorf("read the ticket: %w", err)
	}
	if len(text) == 0 {
		return "", &ticketError{err: errors.New("the ticket's file " + name + " is empty")}
	}
	return string(text), nil
}
