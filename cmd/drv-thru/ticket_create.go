package main

import (
	"context"
	"errors"
	"fmt"
	"math"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/peterbourgon/ff/v3/ffcli"

	"github.com/drv-thru/drv-thru/cmd/drv-thru/internal/admin"
	"github.com/drv-thru/drv-thru/cmd/drv-thru/internal/policies"
	"github.com/drv-thru/drv-thru/cmd/drv-thru/internal/term"
	"github.com/drv-thru/drv-thru/cmd/internal/usage"
	"github.com/drv-thru/drv-thru/core/key"
	"github.com/drv-thru/drv-thru/core/ticket"
	"github.com/drv-thru/drv-thru/core/wire"
)

type ticketCreateFlags struct {
	adminFlags
	name          string
	expires       ticket.Duration
	uses          string
	buildTime     ticket.Duration
	upload        ticket.Size
	output        ticket.Size
	systems       usage.Names
	noFixedOutput bool
	bind          string
	direct        bool
	policy        string
	settings      string
	qr            bool
}

func newTicketCreateCommand(a *app) *ffcli.Command {
	f := ticketCreateFlags{
		expires: ticket.DefaultExpiry, buildTime: ticket.DefaultMaxBuildTime, upload: ticket.DefaultMaxUploadBytes,
	}
	fs := a.flags("drv-thru ticket create")
	f.register(fs, true)
	fs.Var((*usage.Word)(&f.name), "name", "`NAME` for lists (default ticket-<unix time>)")
	fs.Var(&f.expires, "expires", "`DURATION` until it expires: 90s, 30m, 2h, 7d")
	fs.StringVar(&f.uses, "uses", "1", "`N` builds that it allows, or unlimited")
	fs.Var(&f.buildTime, "max-build-time", "`DURATION` that one build may run")
	fs.Var(&f.upload, "max-upload-bytes", "`SIZE` that one build may send: 500M, 20G, unlimited")
	fs.Var(&f.output, "max-output-bytes", "`SIZE` that one build's outputs may have (default unlimited)")
	fs.Var(&f.systems, "system", "`SYSTEM` that may be built for (repeatable, or separated by commas; default: all of the builder's)")
	fs.BoolVar(&f.noFixedOutput, "no-fixed-output", false, "build no fixed-output derivations: they have the network of this machine")
	fs.Var((*usage.Word)(&f.bind), "bind-client", "endpoint `ID` of the only client that may use it (see: drv-thru key show)")
	fs.BoolVar(&f.direct, "direct", false, "put this machine's own addresses into it instead of relays")
	fs.Var((*usage.Word)(&f.policy), "policy", "`NAME` of a policy of the builder's configuration, or a FILE.wasm (default: the built-in one)")
	fs.Var((*usage.Word)(&f.settings), "policy-settings", "`JSON` that the policy is given instead of the configuration's, or @FILE")
	fs.BoolVar(&f.qr, "qr", false, "also show the ticket as a QR code, for the terminal")
	return &ffcli.Command{
		Name:       "create",
		ShortUsage: "drv-thru ticket create [flags]",
		ShortHelp:  "make a ticket",
		LongHelp:   "Makes a ticket and prints it. Whoever has the text may use it: send it like a password.",
		FlagSet:    fs,
		Options:    fromEnvironment,
		Exec: func(ctx context.Context, args []string) error {
			if err := noOperands(fs, args); err != nil {
				return err
			}
			if f.qr && f.json {
				return usagef("--qr and --json exclude each other")
			}
			return a.ticketCreate(ctx, &f)
		},
	}
}

func (a *app) ticketCreate(ctx context.Context, f *ticketCreateFlags) error {
	n := admin.NewTicket{Direct: f.direct, Name: f.name, Expires: f.expires, Limits: ticket.Limits{
		MaxBuildTime: f.buildTime, MaxUploadBytes: f.upload, MaxOutputBytes: f.output,
		Systems: f.systems, NoFixedOutput: f.noFixedOutput,
	}}
	if f.uses != "unlimited" {
		uses, err := strconv.ParseInt(f.uses, 10, 32)
		if err != nil || uses < 1 {
			return usagef("--uses=%s: want a number from 1 to %d, or unlimited", f.uses, math.MaxInt32)
		}
		n.MaxUses = uses
	}
	if f.bind != "" {
		id, err := key.ParseID(f.bind)
		if err != nil {
			return usagef("--bind-client: %s", err)
		}
		n.Bind = id
	}
	if err := checkSystems("--system", f.systems); err != nil {
		return err
	}
	var err error
	if n.Policy, err = readPolicyChoice(f.policy, f.settings); err != nil {
		return err
	}
	client, err := a.admin(&f.adminFlags)
	if err != nil {
		return err
	}
	if len(f.systems) > 0 {
		st, err := client.Status(ctx)
		if err != nil {
			return err
		}
		for _, s := range f.systems {
			if !slices.Contains(st.Systems, s) {
				a.note(fmt.Sprintf("warning: this builder builds for %s, and not for %s", strings.Join(st.Systems, ", "), s))
			}
		}
	}
	t, err := client.CreateTicket(ctx, n)
	if denied := (*wire.Error)(nil); f.json && errors.As(err, &denied) {
		return errors.Join(err, term.WriteJSON(a.stdout, struct {
			Error *wire.Error `json:"error"`
		}{denied}))
	}
	if err != nil {
		return err
	}
	if f.json {
		err = term.WriteJSON(a.stdout, t)
	} else {
		_, err = fmt.Fprintln(a.stdout, t.Text)
	}
	switch {
	case err != nil:
		return &hintError{err, "the ticket is made; to see it: drv-thru ticket reveal " + t.ID.String()}
	case f.json:
		return nil
	}
	if f.qr {
		a.showQR(t.Text)
	}
	fmt.Fprintf(a.stderr, "ticket %s (%s): %s, %s\n", t.ID, t.Name, usesText(t.Ticket), expiresText(t.Ticket, time.Now()))
	return nil
}

// readPolicyChoice reads --policy and --policy-settings.
func readPolicyChoice(name, settings string) (c policies.Choice, err error) {
	c.Name = name
	if strings.HasSuffix(name, ".wasm") || strings.ContainsRune(name, filepath.Separator) {
		if c.Module, err = readModule(name); err != nil {
			return c, err
		}
		c.Name = strings.TrimSuffix(filepath.Base(name), ".wasm")
	}
	if settings == "" {
		return c, nil
	}
	c.Settings, err = readSettings(settings)
	return c, err
}

func usesText(t admin.Ticket) string {
	switch {
	case t.MaxUses == 0:
		return "unlimited uses"
	case t.MaxUses == 1 && t.Used == 0:
		return "1 use"
	}
	return fmt.Sprintf("%d of %d uses left", max(0, t.MaxUses-t.Used), t.MaxUses)
}

func expiresText(t admin.Ticket, now time.Time) string {
	if t.Expires.IsZero() {
		return "never expires"
	}
	if !now.Before(t.Expires) {
		return "expired " + when(t.Expires, now)
	}
	return "expires " + when(t.Expires.Add(time.Second-1), now)
}
