package main

import (
	"cmp"
	"context"
	"fmt"
	"time"

	"github.com/peterbourgon/ff/v3/ffcli"

	"github.com/drv-thru/drv-thru/cmd/drv-thru/internal/admin"
	"github.com/drv-thru/drv-thru/cmd/drv-thru/internal/term"
)

func newTicketListCommand(a *app) *ffcli.Command {
	return a.asking(&ffcli.Command{
		Name:       "list",
		ShortUsage: "drv-thru ticket list [flags]",
		ShortHelp:  "list the tickets, without their secrets",
	}, a.flags("drv-thru ticket list"), "", func(ctx context.Context, client *admin.Client, _ string, asJSON bool) error {
		tickets, err := client.Tickets(ctx)
		if err != nil {
			return err
		}
		if asJSON {
			return term.WriteJSON(a.stdout, tickets)
		}
		now := time.Now()
		rows := [][]string{{"ID", "NAME", "STATE", "USES", "EXPIRES", "POLICY"}}
		for _, t := range tickets {
			uses := fmt.Sprintf("%d/%d", t.Used, t.MaxUses)
			if t.MaxUses == 0 {
				uses = fmt.Sprintf("%d/unlimited", t.Used)
			}
			rows = append(rows, []string{t.ID.String(), t.Name, t.State, uses, cmp.Or(when(t.Expires, now), "never"), policyText(t.Policy)})
		}
		return table(a.stdout, rows...)
	})
}

// policyText is a policy's name with the beginning of its module's hash.
func policyText(p admin.TicketPolicy) string {
	if p.Hash == "" {
		return p.Name
	}
	return p.Name + " " + p.Hash[:min(8, len(p.Hash))]
}
