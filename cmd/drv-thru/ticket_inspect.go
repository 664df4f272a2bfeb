package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/netip"
	"strings"

	"github.com/peterbourgon/ff/v3/ffcli"

	"github.com/drv-thru/drv-thru/core/key"
	"github.com/drv-thru/drv-thru/core/ticket"
)

func newTicketInspectCommand(a *app) *ffcli.Command {
	fs := a.flags("drv-thru ticket inspect")
	asJSON := fs.Bool("json", false, "print JSON")
	return &ffcli.Command{
		Name:       "inspect",
		ShortUsage: "drv-thru ticket inspect TICKET",
		ShortHelp:  "show what a ticket's text holds",
		LongHelp: "Reads a ticket's text (- reads it from standard input) and shows which builder it\n" +
			"is for and how to reach it. Asks nobody; the secret is not printed.",
		FlagSet: fs,
		Exec: func(_ context.Context, args []string) error {
			text, err := oneOperand(fs, args, "one ticket, or - to read it from standard input")
			if err != nil {
				return err
			}
			if text == "-" {
				data, err := io.ReadAll(io.LimitReader(a.stdin, ticket.MaxText+1))
				if err != nil {
					return fmt.Errorf("read ticket: %w", err)
				}
				text = string(data)
			}
			t, err := ticket.Parse(text)
			if err != nil {
				return err
			}
			if *asJSON {
				return json.NewEncoder(a.stdout).Encode(struct {
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
		},
	}
}
