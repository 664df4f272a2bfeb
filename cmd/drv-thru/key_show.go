package main

import (
	"context"
	"fmt"

	"github.com/peterbourgon/ff/v3/ffcli"

	"github.com/drv-thru/drv-thru/cmd/drv-thru/internal/term"
	"github.com/drv-thru/drv-thru/cmd/internal/usage"
	"github.com/drv-thru/drv-thru/core/key"
)

func newKeyCommand(a *app) *ffcli.Command {
	return group(&ffcli.Command{
		Name:        "key",
		ShortUsage:  "drv-thru key show",
		ShortHelp:   "show this client's key",
		FlagSet:     a.flags("drv-thru key"),
		Subcommands: []*ffcli.Command{newKeyShowCommand(a)},
	})
}

func newKeyShowCommand(a *app) *ffcli.Command {
	fs := a.flags("drv-thru key show")
	var file string
	fs.Var((*usage.Word)(&file), "key-file", "secret key `FILE` (default ~/.config/drv-thru/secret.key, made when it does not exist)")
	asJSON := fs.Bool("json", false, "print JSON")
	return &ffcli.Command{
		Name:       "show",
		ShortUsage: "drv-thru key show [flags]",
		ShortHelp:  "print this client's endpoint ID",
		LongHelp:   "Prints the endpoint ID of this client's key: what a builder's owner puts into\ntrusted_clients, or binds a ticket to. The secret half is never printed.",
		FlagSet:    fs,
		Options:    fromEnvironment,
		Exec: func(_ context.Context, args []string) error {
			if err := noOperands(fs, args); err != nil {
				return err
			}
			secret, err := a.identity(file)
			if err != nil {
				return err
			}
			if *asJSON {
				return term.WriteJSON(a.stdout, struct {
					ID key.ID `json:"endpoint_id"`
				}{secret.ID()})
			}
			_, err = fmt.Fprintln(a.stdout, secret.ID())
			return err
		},
	}
}
