package main

import (
	"context"
	"flag"
	"os"
	"path/filepath"

	"github.com/peterbourgon/ff/v3/ffcli"

	"github.com/drv-thru/drv-thru/cmd/drv-thru/internal/admin"
	"github.com/drv-thru/drv-thru/cmd/internal/usage"
)

// adminSocketEnv names the admin socket for every command that asks the builder.
const adminSocketEnv = "DRV_THRU_ADMIN_SOCKET"

// systemAdminSocket is where systemd makes the admin socket of a builder that is a
// service of the machine, for the group that may use it.
const systemAdminSocket = "/run/drv-thru-admin.socket"

// adminFlags are those of every command that asks the running builder.
type adminFlags struct {
	socket  string
	dataDir string
	json    bool
}

func (f *adminFlags) register(fs *flag.FlagSet, withJSON bool) {
	fs.Var((*usage.Word)(&f.socket), "admin-socket", "`PATH` of the builder's admin socket (default "+systemAdminSocket+" where there is one, else DATA-DIR/"+adminSocketName+")")
	fs.Var((*usage.Word)(&f.dataDir), "data-dir", "the builder's data `DIR`")
	if withJSON {
		fs.BoolVar(&f.json, "json", false, "print JSON")
	}
}

// admin makes the client of the builder's socket.
func (a *app) admin(f *adminFlags) (*admin.Client, error) {
	if f.socket != "" {
		return admin.NewClient(f.socket), nil
	}
	if _, err := os.Stat(systemAdminSocket); err == nil && f.dataDir == "" {
		return admin.NewClient(systemAdminSocket), nil
	}
	dir := f.dataDir
	if dir == "" {
		var err error
		if dir, err = a.defaultDataDir(); err != nil {
			return nil, err
		}
	}
	return admin.NewClient(filepath.Join(dir, adminSocketName)), nil
}

// asking makes c a command that asks the running builder, about the one thing that its
// operand names or, where operand is "", without one. Flags of its own are in fs.
func (a *app) asking(c *ffcli.Command, fs *flag.FlagSet, operand string, do func(ctx context.Context, client *admin.Client, operand string, asJSON bool) error) *ffcli.Command {
	var f adminFlags
	f.register(fs, fs.Name() != "drv-thru builds log")
	c.FlagSet, c.Options = fs, fromEnvironment
	c.Exec = func(ctx context.Context, args []string) error {
		var text string
		var err error
		if operand == "" {
			err = noOperands(fs, args)
		} else {
			text, err = a.oneOperand(fs, args, operand)
		}
		if err != nil {
			return err
		}
		client, err := a.admin(&f)
		if err != nil {
			return err
		}
		return do(ctx, client, text, f.json)
	}
	return c
}
