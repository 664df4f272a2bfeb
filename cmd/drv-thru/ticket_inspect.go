package main

import (
	"cmp"
	"context"
	"net/netip"
	"strings"
	"time"

	"github.com/peterbourgon/ff/v3/ffcli"

	"github.com/drv-thru/drv-thru/cmd/drv-thru/internal/term"
	"github.com/drv-thru/drv-thru/core/key"
	"github.com/drv-thru/drv-thru/core/ticket"
)

func newTicketInspectCommand(a *app) *ffcli.Command {
	var f adminFlags
	fs := a.flags("drv-thru ticket inspect")
	f.register(fs, true)
	return &ffcli.Command{
		Name:       "inspect",
		ShortUsage: "drv-thru ticket inspect TICKET|ID",
		ShortHelp:  "show what a ticket's text holds, or what the builder knows of one",
		LongHelp: "Reads a ticket's text (- reads it from standard input) and shows which builder it\n" +
			"is for and how to reach it. Asks nobody; the secret is not printed.\n" +
			"With a ticket's ID or name, asks this machine's builder for its limits and policy.",
		FlagSet: fs,
		Options: fromEnvironment,
		Exec: func(ctx context.Context, args []string) error {
			text, err := a.oneOperand(fs, args, "one ticket or its ID, or - to read the ticket from standard input")
			if err != nil {
				return err
			}
			if text == "-" {
				text, err := a.typedTicket(a.note)
				if err != nil {
					return err
				}
				return a.inspectText(text, f.json)
			}
			if strings.HasPrefix(strings.ToLower(strings.TrimSpace(text)), ticketPrefix) || isTicketText(text) {
				return a.inspectText(text, f.json)
			}
			return a.inspectRecord(ctx, &f, text)
		},
	}
}

// inspectText shows what a ticket's text holds.
func (a *app) inspectText(text string, asJSON bool) error {
	t, err := ticket.Parse(text)
	if err != nil {
		return &ticketError{err: err}
	}
	if asJSON {
		return term.WriteJSON(a.stdout, struct {
			ID      ticket.ID        `json:"id"`
			Builder key.ID           `json:"builder"`
			Relays  []string         `json:"relays,omitempty"`
			Direct  []netip.AddrPort `json:"direct,omitempty"`
		}{t.ID(), t.Builder, t.Relays, t.Direct})
	}
	rows := [][]string{{"ticket", t.ID().String()}, {"builder", t.Builder.String()}}
	if len(t.Relays) > 0 {
		rows = append(rows, []string{"relays", strings.Join(t.Relays, ", ")})
	}
	for _, d := range t.Direct {
		rows = append(rows, []string{"address", d.String()})
	}
	return table(a.stdout, rows...)
}

// inspectRecord shows what the builder knows of a ticket.
func (a *app) inspectRecord(ctx context.Context, f *adminFlags, id string) error {
	client, err := a.admin(f)
	if err != nil {
		return err
	}
	t, err := client.Ticket(ctx, id)
	if err != nil {
		return err
	}
	if f.json {
		return term.WriteJSON(a.stdout, t)
	}
	rows := [][]string{
		{"ticket", t.ID.String()}, {"name", t.Name}, {"state", t.State},
		{"uses", usesText(*t)}, {"expiry", expiresText(*t, time.Now())},
	}
	if !t.Bind.IsZero() {
		rows = append(rows, []string{"client", t.Bind.String()})
	}
	rows = append(rows, limitRows(t.Limits)...)
	rows = append(rows, []string{"policy", t.Policy.Name}, []string{"module", cmp.Or(t.Policy.Hash, "built in")})
	if len(t.Policy.Settings) > 0 {
		rows = append(rows, []string{"settings", string(t.Policy.Settings)})
	}
	return table(a.stdout, rows...)
}

// limitRows shows the limits that there are.
func limitRows(l ticket.Limits) (rows [][]string) {
	if l.MaxBuildTime > 0 {
		rows = append(rows, []string{"build time", l.MaxBuildTime.String()})
	}
	for _, size := range []struct {
		name string
		size ticket.Size
	}{{"upload", l.MaxUploadBytes}, {"output", l.MaxOutputBytes}} {
		if size.size > 0 {
			rows = append(rows, []string{size.name, size.size.String()})
		}
	}
	if len(l.Systems) > 0 {
		rows = append(rows, []string{"systems", strings.Join(l.Systems, ", ")})
	}
	if l.NoFixedOutput {
		rows = append(rows, []string{"fixed output", "not built"})
	}
	return rows
}
