package main

import (
	"context"
	"fmt"

	"github.com/peterbourgon/ff/v3/ffcli"

	"github.com/drv-thru/drv-thru/cmd/drv-thru/internal/term"
)

func newTicketRevokeCommand(a *app) *ffcli.Command {
	var f adminFlags
	fs := a.flags("drv-thru ticket revoke")
	f.register(fs, true)
	cancel := fs.Bool("cancel", false, "also cancel its builds that are under way")
	return &ffcli.Command{
		Name:       "revoke",
		ShortUsage: "drv-thru ticket revoke [--cancel] ID",
		ShortHelp:  "end a ticket",
		LongHelp:   "Ends a ticket: nothing can be asked for or fetched with it any more. Builds that were\nadmitted before go on, those that wait too, unless --cancel is given.\nID may be the ticket's name, or a beginning of its ID.",
		FlagSet:    fs,
		Options:    adminOptions(),
		Exec: func(ctx context.Context, args []string) error {
			id, err := a.oneOperand(fs, args, "one ticket ID")
			if err != nil {
				return err
			}
			client, err := a.admin(&f)
			if err != nil {
				return err
			}
			r, err := client.Revoke(ctx, id, *cancel)
			if err != nil {
				return err
			}
			if f.json {
				return term.WriteJSON(a.stdout, r)
			}
			text := "revoked"
			if *cancel {
				text = "revoked, " + term.Count(r.Cancelled, "build") + " cancelled"
			}
			_, err = fmt.Fprintln(a.stdout, text)
			return err
		},
	}
}
