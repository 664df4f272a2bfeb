package main

import (
	"context"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"github.com/peterbourgon/ff/v3/ffcli"

	"github.com/drv-thru/drv-thru/cmd/internal/usage"
	"github.com/drv-thru/drv-thru/fusecache/helper"
)

// importHelperFlags are the flags of import-helper serve.
type importHelperFlags struct {
	socket, group, nix                            string
	keyFiles                                      usage.List
	requestTime, readyTime, stallTime, importTime time.Duration
	maxImports, maxImportsPerUser                 int
	verbose                                       bool
}

const importHelperHelp = `Imports for users whom Nix does not trust. Whoever may connect to the socket can have
store paths imported that a key in one of the files has signed, and nothing else:
no other key, no setting, no command. drv-thru build uses it by itself.

It runs as root. With systemd's socket activation (LISTEN_FDS), --socket and
--socket-group do not count.`

func newImportHelperCommand(a *app) *ffcli.Command {
	return group(&ffcli.Command{
		Name:        "import-helper",
		ShortUsage:  "drv-thru import-helper serve [flags]",
		ShortHelp:   "import for users whom Nix does not trust",
		FlagSet:     a.flags("drv-thru import-helper"),
		Subcommands: []*ffcli.Command{newImportHelperServeCommand(a)},
	})
}

func newImportHelperServeCommand(a *app) *ffcli.Command {
	f := importHelperFlags{socket: helper.DefaultSocket, maxImports: 16, maxImportsPerUser: 4}
	fs := a.flags("drv-thru import-helper serve")
	fs.Var((*usage.Word)(&f.socket), "socket", "`PATH` of the socket to make")
	fs.Var((*usage.Word)(&f.group), "socket-group", "`GROUP` that may connect to it (default: root alone)")
	fs.Var(&f.keyFiles, "trusted-public-key-file", "`FILE` with the public keys that users may name, one a line (repeatable)")
	fs.Var((*usage.Word)(&f.nix), "nix", "`FILE` of the program nix (default: that of "+helper.DefaultPath+")")
	usage.DurationVar(fs, &f.requestTime, "request-timeout", 10*time.Second, "`TIME` for a client to say what it wants")
	usage.DurationVar(fs, &f.readyTime, "ready-timeout", 15*time.Second, "`TIME` for a client to serve what was mounted for it")
	usage.DurationVar(fs, &f.stallTime, "stall-timeout", 90*time.Second, "`TIME` that an import may go without progress")
	usage.DurationVar(fs, &f.importTime, "import-timeout", 24*time.Hour, "`TIME` that an import may take")
	fs.Var((*usage.Count)(&f.maxImports), "max-imports", "`NUMBER` of imports at once")
	fs.Var((*usage.Count)(&f.maxImportsPerUser), "max-imports-per-user", "`NUMBER` of imports at once of one user")
	fs.BoolVar(&f.verbose, "v", false, "log more")
	return &ffcli.Command{
		Name:       "serve",
		ShortUsage: "drv-thru import-helper serve --trusted-public-key-file FILE [flags]",
		ShortHelp:  "run the import helper",
		LongHelp:   importHelperHelp,
		FlagSet:    fs,
		Exec: func(ctx context.Context, args []string) error {
			if err := noOperands(fs, args); err != nil {
				return err
			}
			if err := f.check(); err != nil {
				return err
			}
			ctx, stop := signal.NotifyContext(ctx, syscall.SIGTERM, syscall.SIGINT)
			defer stop()
			return a.serveImportHelper(ctx, &f)
		},
	}
}

func (f *importHelperFlags) check() error {
	switch {
	case len(f.keyFiles) == 0:
		return &usageError{
			text: "import-helper serve needs to know whose signatures count",
			hint: "give --trusted-public-key-file FILE, with lines like those that drv-thru serve prints as signing key",
		}
	case !filepath.IsAbs(f.socket):
		return usagef("--socket is a whole path, not %q", f.socket)
	case f.nix != "" && !filepath.IsAbs(f.nix):
		return usagef("--nix is a whole path, not %q", f.nix)
	}
	return nil
}
