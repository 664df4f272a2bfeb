package main

import (
	"context"
	"errors"
	"flag"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/peterbourgon/ff/v3/ffcli"

	"github.com/drv-thru/drv-thru/cmd/drv-thru/internal/admin"
	"github.com/drv-thru/drv-thru/cmd/drv-thru/internal/term"
	"github.com/drv-thru/drv-thru/core/ticket"
)

// adminSocketEnv names the admin socket for every command that asks the builder.
const adminSocketEnv = "DRV_THRU_ADMIN_SOCKET"

// systemAdminSocket is where systemd makes the admin socket of a builder that is a
// service of the machine, for the group that may use it.
const systemAdminSocket = "/run/drv-thru-admin.socket"

func newTicketCommand(a *app) *ffcli.Command {
	return group(&ffcli.Command{
		Name:       "ticket",
		ShortUsage: "drv-thru ticket create|list|inspect|usage|reveal|revoke",
		ShortHelp:  "make and manage tickets of this builder",
		FlagSet:    a.flags("drv-thru ticket"),
		Subcommands: []*ffcli.Command{
			newTicketCreateCommand(a), newTicketListCommand(a), newTicketInspectCommand(a), newTicketUsageCommand(a),
			newTicketRevealCommand(a), newTicketRevokeCommand(a),
		},
	})
}

// adminFlags are those of every command that asks the running builder.
type adminFlags struct {
	socket  string
	dataDir string
	json    bool
}

func (f *adminFlags) register(fs *flag.FlagSet, withJSON bool) {
	fs.StringVar(&f.socket, "admin-socket", "", "`PATH` of the builder's admin socket (default "+systemAdminSocket+" where there is one, else DATA-DIR/"+adminSocketName+")")
	fs.StringVar(&f.dataDir, "data-dir", "", "the builder's data `DIR`")
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

// table prints rows of cells in columns.
func table(w io.Writer, rows ...[]string) error {
	// Most tables have something in them that a stranger has written.
	for _, row := range rows {
		for i, cell := range row {
			row[i] = plain(cell)
		}
	}
	_, err := io.WriteString(w, term.Columns(rows...))
	return err
}

// when prints a time of the past or future for a person, "" for none.
func when(t, now time.Time) string {
	if t.IsZero() {
		return ""
	}
	d := t.Sub(now)
	if d >= 0 {
		return "in " + roughly(d)
	}
	return roughly(-d) + " ago"
}

// roughly prints a duration in its two largest units: "2d3h", "1h59m", "5s".
func roughly(d time.Duration) string {
	unit := time.Second
	switch {
	case d >= 48*time.Hour:
		unit = time.Hour
	case d >= time.Hour:
		unit = time.Minute
	}
	return ticket.Duration(d.Truncate(unit)).String()
}

// operands returns a command's arguments, of which flags may also follow others:
// "ticket revoke ID --cancel". The first is none: package flag stops at an operand, or
// behind --, which it does not tell. The second word of a flag of two words, of which
// the command may have some, is such an argument too.
func (a *app) operands(fs *flag.FlagSet, args []string, two ...*pairs) ([]string, error) {
	if endsFlags(a.args, args) {
		return args, nil
	}
	var all []string
	for len(args) > 0 {
		if !slices.ContainsFunc(two, func(p *pairs) bool { return p.complete(args[0]) }) {
			all = append(all, args[0])
		}
		args = args[1:]
		if err := fs.Parse(args); err != nil {
			if errors.Is(err, flag.ErrHelp) {
				return nil, err
			}
			return nil, parseError(fs, err)
		}
		if endsFlags(args, fs.Args()) {
			return append(all, fs.Args()...), nil
		}
		args = fs.Args()
	}
	return all, nil
}

// endsFlags reports whether rest, with which args end, stands behind --.
func endsFlags(args, rest []string) bool {
	i := len(args) - len(rest) - 1
	return i >= 0 && args[i] == "--"
}

// noOperands refuses the arguments of a command that takes none.
func noOperands(fs *flag.FlagSet, args []string) error {
	if len(args) > 0 {
		return usagef("%s takes no arguments, got %q", strings.TrimPrefix(fs.Name(), "drv-thru "), args[0])
	}
	return nil
}

// oneOperand returns the only operand of a command. One that is empty would be part of
// the path of another request to the builder, or the working directory.
func (a *app) oneOperand(fs *flag.FlagSet, args []string, what string) (string, error) {
	all, err := a.operands(fs, args)
	if err != nil {
		return "", err
	}
	if len(all) != 1 || strings.TrimSpace(all[0]) == "" {
		return "", usagef("%s takes %s", strings.TrimPrefix(fs.Name(), "drv-thru "), what)
	}
	return all[0], nil
}
