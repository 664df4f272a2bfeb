package main

import "github.com/peterbourgon/ff/v3/ffcli"

func newTicketCommand(a *app) *ffcli.Command {
	return group(&ffcli.Command{
		Name:       "ticket",
		ShortUsage: "drv-thru ticket create|list|inspect|usage|reveal|revoke",
		ShortHelp:  "make and manage tickets of this builder",
		FlagSet:    a.flags("drv-thru ticket"),
		Subcommands: []*ffcli.Command{
			newTicketCreateCommand(a), newTicketListCommand(a), newTicketInspectCommand(a), newTicketUsageCommand(a),
			newTicketRevealCommand(a), newTicketRevokeCommand(a),
		},
	})
}
