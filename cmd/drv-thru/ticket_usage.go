package main

import (
	"context"
	"fmt"
	"time"

	"github.com/peterbourgon/ff/v3/ffcli"

	"github.com/drv-thru/drv-thru/cmd/drv-thru/internal/admin"
	"github.com/drv-thru/drv-thru/cmd/drv-thru/internal/term"
)

func newTicketUsageCommand(a *app) *ffcli.Command {
	return a.askingOfTicket(&ffcli.Command{
		Name:       "usage",
		ShortUsage: "drv-thru ticket usage ID",
		ShortHelp:  "show what has been built with a ticket",
		LongHelp:   "Adds up the builds of a ticket, also those that are no longer remembered.\nID may be the ticket's name, its text, or the first four or more characters of its ID.",
	}, a.flags("drv-thru ticket usage"), func(ctx context.Context, client *admin.Client, id string, asJSON bool) error {
		u, err := client.Usage(ctx, id)
		if err != nil {
			return err
		}
		if asJSON {
			return term.WriteJSON(a.stdout, u)
		}
		t := &u.Ticket
		uses := fmt.Sprintf("%d of %d", t.Used, t.MaxUses)
		if t.MaxUses == 0 {
			uses = fmt.Sprintf("%d of unlimited", t.Used)
		}
		rows := append([][]string{{"ticket", t.ID.String()}, {"name", t.Name}, {"state", t.State}, {"uses", uses}}, usageRows(&u.Usage)...)
		if err := table(a.stdout, rows...); err != nil || u.Name == u.Usage {
			return err
		}
		if _, err := fmt.Fprintln(a.stdout, "\nall tickets of this name"); err != nil {
			return err
		}
		return table(a.stdout, usageRows(&u.Name)...)
	})
}

func usageRows(u *admin.Usage) [][]string {
	return [][]string{
		{"builds", fmt.Sprintf("%d, of them %d in the last hour, %d in the last day, %d under way", u.Builds, u.BuildsHour, u.BuildsDay, u.Active)},
		{"build time", term.Span(time.Duration(u.BuildSeconds * float64(time.Second)))},
		{"inputs sent", term.Bytes(int64(u.UploadBytes))},
		{"outputs", term.Bytes(int64(u.OutputBytes))},
	}
}
