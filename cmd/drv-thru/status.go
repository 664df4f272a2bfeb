package main

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"time"
	"unicode"

	"github.com/peterbourgon/ff/v3/ffcli"

	"github.com/drv-thru/drv-thru/cmd/drv-thru/internal/admin"
	"github.com/drv-thru/drv-thru/core/builder"
	"github.com/drv-thru/drv-thru/core/nix/daemon"
)

func newStatusCommand(a *app) *ffcli.Command {
	var f adminFlags
	fs := a.flags("drv-thru status")
	f.register(fs, true)
	watch := fs.Bool("watch", false, "go on showing it until interrupted")
	interval := fs.Duration("interval", 2*time.Second, "`TIME` from one look of --watch to the next")
	return &ffcli.Command{
		Name:       "status",
		ShortUsage: "drv-thru status [flags]",
		ShortHelp:  "show what this builder does",
		LongHelp:   "With --watch, a terminal is redrawn; elsewhere each look is printed after the last,\nwith --json as one line.",
		FlagSet:    fs,
		Options:    adminOptions(),
		Exec: func(ctx context.Context, args []string) error {
			if len(args) > 0 {
				return usagef("status takes no arguments, got %q", args[0])
			}
			client, err := a.admin(&f)
			if err != nil {
				return err
			}
			if *interval < minInterval {
				return usagef("--interval is at least %s", minInterval)
			}
			if *watch {
				return a.watchStatus(ctx, client, *interval, f.json)
			}
			st, err := client.Status(ctx)
			if err != nil {
				return err
			}
			if f.json {
				return json.NewEncoder(a.stdout).Encode(st)
			}
			return a.printStatus(st, time.Now())
		},
	}
}

func (a *app) printStatus(st *admin.Status, now time.Time) error {
	rows := [][]string{
		{"endpoint", st.Endpoint.String()},
		{"signing key", st.SigningKey},
		{"nix", st.NixVersion + " for " + strings.Join(st.Systems, ", ")},
		{"running since", st.Started.Local().Format(time.DateTime)},
	}
	for _, r := range st.Relays {
		text := r.URL
		if !r.Registered {
			text += " (not connected: " + cmp.Or(r.Error, "connecting") + ")"
		}
		rows = append(rows, []string{"relay", text})
	}
	if d := st.Direct; d != nil {
		for _, at := range d.Addresses {
			rows = append(rows, []string{"listens at", at.String()})
		}
		rows = append(rows, []string{"network", natText(d.NAT)})
		if d.Mapping != "" {
			rows = append(rows, []string{"forwarded", d.Mapping})
		}
	} else {
		rows = append(rows, []string{"listens at", "no address: clients come by relays only"})
	}
	rows = append(rows, []string{"capacity", capacityText(st)})
	if err := table(a.stdout, rows...); err != nil {
		return err
	}
	if err := a.printBuilds("active", st.Active, now); err != nil {
		return err
	}
	if err := a.printBuilds("recent", st.Recent, now); err != nil {
		return err
	}
	return a.printDecisions("denied by policies", st.Denials, now)
}

func (a *app) printBuilds(title string, builds []builder.BuildStatus, now time.Time) error {
	if len(builds) == 0 {
		return nil
	}
	if _, err := fmt.Fprintf(a.stdout, "\n%s\n", title); err != nil {
		return err
	}
	var rows [][]string
	for _, b := range builds {
		rows = append(rows, []string{
			"  " + string(b.ID), clientText(&b), phaseText(&b), roughly(elapsed(&b, now)), plain(strings.Join(b.Labels, " ")),
		})
	}
	return table(a.stdout, rows...)
}

// plain drops what could steer a terminal: labels are what strangers sent.
func plain(s string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsControl(r) {
			return -1
		}
		return r
	}, daemon.StripANSI(s))
}
