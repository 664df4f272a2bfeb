package main

import (
	"context"

	"github.com/peterbourgon/ff/v3/ffcli"

	"github.com/drv-thru/drv-thru/cmd/internal/usage"
)

func newManCommand(a *app) *ffcli.Command {
	fs := a.flags("drv-thru man")
	return &ffcli.Command{
		Name:       "man",
		ShortUsage: "drv-thru man DIR",
		LongHelp:   "Writes the manual pages into DIR, for packages.",
		FlagSet:    fs,
		Exec: func(_ context.Context, args []string) error {
			dir, err := a.oneOperand(fs, args, "one directory")
			if err != nil {
				return err
			}
			return a.manual().Write(dir)
		},
	}
}

// manual makes the manual pages.
func (a *app) manual() *usage.Manual {
	return &usage.Manual{
		Root: a.root(), Release: version, SeeAlso: []string{"nix(1)", "drv-thru-relay(1)"},
		Sections: []usage.Section{
			{Title: "EXIT STATUS", Items: []usage.Item{
				{Name: "0", Text: "It is done."},
				{Name: "1", Text: "It failed."},
				{Name: "2", Text: "The command line cannot be understood."},
				{Name: "3", Text: "The builder, a policy or a limit denied it."},
				{Name: "4", Text: "The other side could not be reached."},
				{Name: "100", Text: "The Nix build itself failed."},
				{Name: "130", Text: "It was interrupted."},
				{Name: "141", Text: "Nobody reads what it prints."},
			}},
			{Title: "ENVIRONMENT", Items: []usage.Item{
				{Name: envPrefix + "_TICKET", Text: "The ticket, as --ticket gives it, without being in the list of processes. Every other flag of the commands that ask a builder can be set in the same way: " + envPrefix + "_KEY_FILE is --key-file. Several values are separated by commas where the flag's may be; a flag of two words has both: " + envPrefix + "_ARG='NAME EXPR'."},
				{Name: buildersEnv, Text: "The builders.json to use in place of the two below."},
				{Name: cacheSizeEnv, Text: "How many bytes of chunks a client keeps: 500M, 10G; 0 keeps none (default 10G). It is not --cache-size of mount."},
				{Name: adminSocketEnv, Text: "The socket at which the builder of this machine is asked."},
				{Name: "XDG_CONFIG_HOME, XDG_CACHE_HOME, XDG_STATE_HOME, XDG_RUNTIME_DIR", Text: "Where the files below are, when set. For root, where HOME is somebody else's, ~ is root's own home."},
				{Name: "NO_COLOR", Text: "When set, nothing is coloured."},
			}},
			{Title: "FILES", Items: []usage.Item{
				{Name: "~/.config/drv-thru/secret.key", Text: "This client's key."},
				{Name: "~/.config/drv-thru/builders.json", Text: "The user's names of builders."},
				{Name: systemBuilders, Text: "The machine's names of builders."},
				{Name: "~/.cache/drv-thru", Text: "Chunks and, of mounts, whole paths that were fetched; policies that were compiled."},
				{Name: "/run/user/UID/drv-thru", Text: "Mounts of builds that are under way, in XDG_RUNTIME_DIR; without that, /tmp/drv-thru-UID."},
				{Name: systemDataDir, Text: "A builder's keys and state."},
			}},
		},
	}
}
