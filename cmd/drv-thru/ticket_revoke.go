package main

import (
	"context"
	"fmt"

	"github.com/peterbourgon/ff/v3/ffcli"

	"github.com/drv-thru/drv-thru/cmd/drv-thru/internal/admin"
	"github.com/drv-thru/drv-thru/cmd/drv-thru/internal/term"
)

func newTicketRevokeCommand(a *app) *ffcli.Command {
	fs := a.flags("drv-thru ticket revoke")
	cancel := fs.Bool("cancel", false, "also cancel its builds that are under way")
	return a.askingOfTicket(&ffcli.Command{
		Name:       "revoke",
		ShortUsage: "drv-thru ticket revoke [--cancel] ID",
		ShortHelp:  "end a ticket",
		LongHelp:   "Ends a ticket: nothing can be asked for or fetched with it any more. Builds that were\nadmitted before go on, those that wait too, for as long as their clients follow them, and\ndetached ones without, unless --cancel is given.\nID may be the ticket's name, its text, or the first four or more characters of its ID.",
	}, fs, func(ctx context.Context, client *admin.Client, id string, asJSON bool) error {
		r, err := client.Revoke(ctx, id, *cancel)
		if err != nil {
			return err
		}
		if asJSON {
			return term.WriteJSON(a.stdout, r)
		}
		text := "revoked"
		if *cancel {
			text = "revoked, " + term.Count(r.Cancelled, "build") + " cancelled"
		}
		_, err = fmt.Fprintln(a.stdout, text)
		return err
	})
}
