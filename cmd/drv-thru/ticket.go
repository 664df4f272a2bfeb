package main

import (
	"context"
	"flag"
	"strings"

	"github.com/peterbourgon/ff/v3/ffcli"

	"github.com/drv-thru/drv-thru/cmd/drv-thru/internal/admin"
	"github.com/drv-thru/drv-thru/core/ticket"
)

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

// askingOfTicket makes c a command that asks the running builder about the ticket that
// its operand names.
func (a *app) askingOfTicket(c *ffcli.Command, fs *flag.FlagSet, do func(ctx context.Context, client *admin.Client, name string, asJSON bool) error) *ffcli.Command {
	return a.asking(c, fs, "one ticket ID", func(ctx context.Context, client *admin.Client, operand string, asJSON bool) error {
		name, err := ticketName(operand)
		if err != nil {
			return err
		}
		return do(ctx, client, name, asJSON)
	})
}

const (
	// ticketPrefix begins a ticket's text.
	ticketPrefix = "drvthru"
	// secretChars are the characters of a secret's 32 bytes.
	secretChars = 52
)

// isTicketText reports whether text is so much of a ticket's that its secret may be in
// it. A name has no such length.
func isTicketText(text string) bool {
	return len(text) >= len(ticketPrefix)+secretChars && strings.Contains(strings.ToLower(text), ticketPrefix)
}

// ticketName returns what the builder finds a ticket by: what an operand says, or the ID
// of the ticket whose text it is. Messages repeat names, which no secret is to be in.
func ticketName(operand string) (string, error) {
	if !isTicketText(operand) {
		return operand, nil
	}
	t, err := ticket.Parse(operand)
	if err != nil {
		return "", &ticketError{err: err}
	}
	return t.ID().String(), nil
}
