package main

import (
	"context"
	"fmt"

	"github.com/peterbourgon/ff/v3/ffcli"

	"github.com/drv-thru/drv-thru/cmd/drv-thru/internal/admin"
	"github.com/drv-thru/drv-thru/cmd/drv-thru/internal/term"
)

func newTicketRevealCommand(a *app) *ffcli.Command {
	return a.askingOfTicket(&ffcli.Command{
		Name:       "reveal",
		ShortUsage: "drv-thru ticket reveal ID",
		ShortHelp:  "print a ticket's text again",
		LongHelp:   "Prints the text of a ticket again, with the relays that the builder has now, or with\nits own addresses if the ticket was made with --direct.\nID may be the ticket's name, its text, or the first four or more characters of its ID.",
	}, a.flags("drv-thru ticket reveal"), func(ctx context.Context, client *admin.Client, id string, asJSON bool) error {
		t, err := client.Reveal(ctx, id)
		if err != nil {
			return err
		}
		if asJSON {
			return term.WriteJSON(a.stdout, t)
		}
		if t.State != "usable" {
			fmt.Fprintf(a.stderr, "warning: this ticket is %s\n", t.State)
		}
		_, err = fmt.Fprintln(a.stdout, t.Text)
		return err
	})
}
