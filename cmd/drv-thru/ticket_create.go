package main

import (
	"context"
	"encoding/json"
	"fmt"
	"strconv"
	"time"

	"github.com/peterbourgon/ff/v3/ffcli"

	"github.com/drv-thru/drv-thru/cmd/drv-thru/internal/admin"
	"github.com/drv-thru/drv-thru/core/key"
	"github.com/drv-thru/drv-thru/core/ticket"
)

type ticketCreateFlags struct {
	adminFlags
	name          string
	expires       ticket.Duration
	uses          string
	buildTime     ticket.Duration
	upload        ticket.Size
	output        ticket.Size
	systems       listFlag
	noFixedOutput bool
	bind          string
	direct        bool
}

func newTicketCreateCommand(a *app) *ffcli.Command {
	f := ticketCreateFlags{
		expires: ticket.DefaultExpiry, buildTime: ticket.DefaultMaxBuildTime, upload: ticket.DefaultMaxUploadBytes,
	}
	fs := a.flags("drv-thru ticket create")
	f.register(fs, true)
	fs.StringVar(&f.name, "name", "", "`NAME` for lists (default ticket-<unix time>)")
	fs.Var(&f.expires, "expires", "`DURATION` until it expires: 90s, 30m, 2h, 7d")
	fs.StringVar(&f.uses, "uses", "1", "`N` builds that it allows, or unlimited")
	fs.Var(&f.buildTime, "max-build-time", "`DURATION` that one build may run")
	fs.Var(&f.upload, "max-upload-bytes", "`SIZE` that one build may send: 500M, 20G, unlimited")
	fs.Var(&f.output, "max-output-bytes", "`SIZE` that one build's outputs may have (default unlimited)")
	fs.Var(&f.systems, "system", "`SYSTEM` that may be built for; repeatable (default: all of the builder's)")
	fs.BoolVar(&f.noFixedOutput, "no-fixed-output", false, "build no fixed-output derivations: they have the network of this machine")
	fs.StringVar(&f.bind, "bind-client", "", "endpoint `ID` of the only client that may use it (see: drv-thru key show)")
	fs.BoolVar(&f.direct, "direct", false, "put this machine's own addresses into it instead of relays")
	return &ffcli.Command{
		Name:       "create",
		ShortUsage: "drv-thru ticket create [flags]",
		ShortHelp:  "make a ticket",
		LongHelp:   "Makes a ticket and prints it. Whoever has the text may use it: send it like a password.",
		FlagSet:    fs,
		Options:    adminOptions(),
		Exec: func(ctx context.Context, args []string) error {
			if len(args) > 0 {
				return usagef("ticket create takes no arguments, got %q", args[0])
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
			return usagef("--uses=%s: want a number from 1 on, or unlimited", f.uses)
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
	client, err := a.admin(&f.adminFlags)
	if err != nil {
		return err
	}
	t, err := client.CreateTicket(ctx, n)
	if err != nil {
		return err
	}
	if f.json {
		return json.NewEncoder(a.stdout).Encode(t)
	}
	if _, err := fmt.Fprintln(a.stdout, t.Text); err != nil {
		return err
	}
	fmt.Fprintf(a.stderr, "ticket %s (%s): %s, %s\n", t.ID, t.Name, usesText(t.Ticket), expiresText(t.Ticket, time.Now()))
	return nil
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
	return "expires " + when(t.Expires.Round(time.Second).Add(time.Second-1), now)
}
