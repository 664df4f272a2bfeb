package main

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/peterbourgon/ff/v3/ffcli"

	"github.com/drv-thru/drv-thru/cmd/drv-thru/internal/term"
	"github.com/drv-thru/drv-thru/cmd/internal/usage"
)

func newBuildersCommand(a *app) *ffcli.Command {
	return group(&ffcli.Command{
		Name:       "builders",
		ShortUsage: "drv-thru builders list|add|remove|test",
		ShortHelp:  "manage the names of builders that trust this client",
		LongHelp: "Names for builders that trust this client's key (see: drv-thru key show), for\n" +
			"--builder NAME. They stand in " + systemBuilders + " and in\n" +
			"~/.config/drv-thru/builders.json, whose entries win; " + buildersEnv + "\nnames another file in place of both.",
		FlagSet: a.flags("drv-thru builders"),
		Subcommands: []*ffcli.Command{
			newBuildersListCommand(a), newBuildersAddCommand(a), newBuildersRemoveCommand(a), newBuildersTestCommand(a),
		},
	})
}

// listedBuilder is an entry of builders list --json.
type listedBuilder struct {
	Name       string   `json:"name"`
	EndpointID string   `json:"endpoint_id,omitempty"`
	RelayURLs  []string `json:"relay_urls"`
	PublicKey  string   `json:"public_key,omitempty"`
	File       string   `json:"file"`
	Error      string   `json:"error,omitempty"` // why it cannot be used
}

func newBuildersListCommand(a *app) *ffcli.Command {
	fs := a.flags("drv-thru builders list")
	asJSON := fs.Bool("json", false, "print JSON")
	return &ffcli.Command{
		Name:       "list",
		ShortUsage: "drv-thru builders list [--json]",
		ShortHelp:  "list the builders that have names",
		FlagSet:    fs,
		Exec: func(_ context.Context, args []string) error {
			if err := noOperands(fs, args); err != nil {
				return err
			}
			all, err := a.builders()
			if err != nil {
				return err
			}
			list := make([]listedBuilder, len(all))
			for i, b := range all {
				list[i] = listedBuilder{
					Name: b.name, EndpointID: b.EndpointID, RelayURLs: append([]string{}, b.relays()...), PublicKey: b.PublicKey, File: b.file,
				}
				if id, err := b.id(); err != nil {
					list[i].Error = err.Error()
				} else {
					list[i].EndpointID = id.String()
				}
				if len(b.relays()) == 0 {
					list[i].Error = cmp.Or(list[i].Error, noRelays)
				}
			}
			if *asJSON {
				return term.WriteJSON(a.stdout, list)
			}
			rows := [][]string{{"NAME", "ENDPOINT", "RELAYS", "FILE"}}
			for _, b := range list {
				rows = append(rows, []string{b.Name, cmp.Or(b.EndpointID, b.Error), cmp.Or(strings.Join(b.RelayURLs, " "), b.Error), b.File})
			}
			return table(a.stdout, rows...)
		},
	}
}

func newBuildersAddCommand(a *app) *ffcli.Command {
	var e builderEntry
	var relays usage.Names
	fs := a.flags("drv-thru builders add")
	fs.Var((*usage.Word)(&e.EndpointID), "endpoint-id", "the builder's endpoint `ID`, as its serve prints it")
	fs.Var((*usage.Word)(&e.EndpointIDFile), "endpoint-id-file", "absolute path of a `FILE` with it")
	fs.Var(&relays, "relay-url", "`URL` of a relay to reach it through (repeatable, or separated by commas)")
	fs.Var((*usage.Word)(&e.PublicKey), "public-key", "the signing `KEY` that it must have")
	replace := fs.Bool("replace", false, "replace the builder of this name")
	return &ffcli.Command{
		Name:       "add",
		ShortUsage: "drv-thru builders add NAME --endpoint-id ID --relay-url URL [flags]",
		ShortHelp:  "give a builder a name",
		FlagSet:    fs,
		Exec: func(_ context.Context, args []string) error {
			name, err := a.oneOperand(fs, args, "one NAME")
			if err != nil {
				return err
			}
			switch len(relays) {
			case 0:
				return usagef("builders add needs a --relay-url to reach the builder through")
			case 1:
				e.RelayURL = relays[0]
			default:
				e.RelayURLs = relays
			}
			if !builderName().MatchString(name) {
				return usagef("%q cannot be a name: use letters, digits, dots, - and _", name)
			}
			if err := e.check(asFlag); err != nil {
				return usagef("%s", err)
			}
			return a.changeBuilders(func(file string, all map[string]builderEntry) error {
				if _, there := all[name]; there && !*replace {
					return &hintError{fmt.Errorf("%s has a builder %q already", file, name), "replace it with --replace"}
				}
				all[name] = e
				return nil
			})
		},
	}
}

func newBuildersRemoveCommand(a *app) *ffcli.Command {
	fs := a.flags("drv-thru builders remove")
	return &ffcli.Command{
		Name:       "remove",
		ShortUsage: "drv-thru builders remove NAME",
		ShortHelp:  "forget a builder's name",
		FlagSet:    fs,
		Exec: func(_ context.Context, args []string) error {
			name, err := a.oneOperand(fs, args, "one NAME")
			if err != nil {
				return err
			}
			return a.changeBuilders(func(file string, all map[string]builderEntry) error {
				if _, there := all[name]; there {
					delete(all, name)
					return nil
				}
				err := fmt.Errorf("%s has no builder %q", file, name)
				if others, oerr := a.builders(); oerr == nil {
					if i := slices.IndexFunc(others, func(b savedBuilder) bool { return b.name == name }); i >= 0 {
						return &hintError{err, "it stands in " + others[i].file + ", which is not changed by this command"}
					}
				}
				return &hintError{err, "see: drv-thru builders list"}
			})
		},
	}
}
