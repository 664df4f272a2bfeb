package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/peterbourgon/ff/v3/ffcli"

	"github.com/drv-thru/drv-thru/cmd/drv-thru/internal/admin"
	"github.com/drv-thru/drv-thru/cmd/drv-thru/internal/term"
	"github.com/drv-thru/drv-thru/core/builder"
)

func newGCCommand(a *app) *ffcli.Command {
	var f adminFlags
	fs := a.flags("drv-thru gc")
	f.register(fs, true)
	dryRun := fs.Bool("dry-run", false, "only tell what would be removed")
	return &ffcli.Command{
		Name:       "gc",
		ShortUsage: "drv-thru gc [--dry-run] [--json]",
		ShortHelp:  "remove what has had its time",
		LongHelp: "Removes what drv-thru has kept and nobody needs any more, and says what that was:\n" +
			"on every machine what this user's builds and mounts have fetched or left behind, and what\n" +
			"was compiled of policies, and where a builder runs its old builds, their roots and logs, and\n" +
			"what it knows of store paths that are gone. Nix's own store is left to nix-collect-garbage.",
		FlagSet: fs,
		Options: fromEnvironment,
		Exec: func(ctx context.Context, args []string) error {
			if err := noOperands(fs, args); err != nil {
				return err
			}
			result := gcResult{DryRun: *dryRun}
			err := a.gcBuilder(ctx, &f, &result)
			var clientErr error
			result.Client, clientErr = a.gcClient(ctx, *dryRun)
			if f.json {
				err = errors.Join(term.WriteJSON(a.stdout, result), err)
			} else {
				err = errors.Join(a.printGarbage(&result), err)
			}
			return errors.Join(err, clientErr)
		},
	}
}

// gcResult is what gc --json prints.
type gcResult struct {
	DryRun bool              `json:"dry_run"`
	Client []builder.Garbage `json:"client"`
	// Builder is absent where none runs, and empty where one has nothing to remove.
	Builder []builder.Garbage `json:"builder,omitzero"`
}

// gcBuilder asks the builder of this machine, if there is one. One that was
// named has to be there.
func (a *app) gcBuilder(ctx context.Context, f *adminFlags, result *gcResult) error {
	client, err := a.admin(f)
	if err != nil {
		return err
	}
	result.Builder, err = client.CollectGarbage(ctx, result.DryRun)
	if err == nil && result.Builder == nil {
		result.Builder = []builder.Garbage{}
	}
	var missing *admin.SocketError
	if errors.As(err, &missing) && f.socket == "" && f.dataDir == "" {
		return nil
	}
	return err
}

func (a *app) printGarbage(r *gcResult) error {
	var rows [][]string
	var disk, store int64
	for _, g := range append(r.Builder, r.Client...) {
		rows = append(rows, []string{g.What, g.Name, term.Bytes(g.Bytes)})
		if g.What == builder.GarbageOutputs {
			store += g.Bytes
		} else {
			disk += g.Bytes
		}
	}
	if err := table(a.stdout, rows...); err != nil {
		return err
	}
	verb := "removed"
	if r.DryRun {
		verb = "would remove"
	}
	text := fmt.Sprintf("%s %s, %s", verb, term.Count(len(rows), "item"), term.Bytes(disk))
	if store > 0 {
		text += fmt.Sprintf("; the Nix store may free up to %s more", term.Bytes(store))
	}
	_, err := fmt.Fprintln(a.stdout, text)
	return err
}
