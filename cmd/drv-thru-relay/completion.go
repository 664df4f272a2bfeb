package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/peterbourgon/ff/v3/ffcli"

	"github.com/drv-thru/drv-thru/cmd/internal/usage"
)

func newCompletionCommand(stdout io.Writer) *ffcli.Command {
	return &ffcli.Command{
		Name:       "completion",
		ShortUsage: "drv-thru-relay completion " + strings.Join(usage.Shells, "|"),
		ShortHelp:  "print what makes a shell complete drv-thru-relay's command lines",
		LongHelp:   usage.CompletionHelp("drv-thru-relay"),
		FlagSet:    subcommandFlags("completion"),
		UsageFunc:  func(*ffcli.Command) string { return "" },
		Exec: func(_ context.Context, args []string) error {
			if len(args) != 1 {
				return usageError{fmt.Errorf("completion takes one shell: %s", strings.Join(usage.Shells, ", "))}
			}
			script, err := usage.Script("drv-thru-relay", args[0])
			if err != nil {
				return usageError{err}
			}
			_, err = fmt.Fprint(stdout, script)
			return err
		},
	}
}

func newManCommand() *ffcli.Command {
	return &ffcli.Command{
		Name:       "man",
		ShortUsage: "drv-thru-relay man DIR",
		LongHelp:   "Writes the manual page into DIR, for packages.",
		FlagSet:    subcommandFlags("man"),
		UsageFunc:  func(*ffcli.Command) string { return "" },
		Exec: func(_ context.Context, args []string) error {
			if len(args) != 1 {
				return usageError{fmt.Errorf("man takes one directory")}
			}
			return manual().Write(args[0])
		},
	}
}

func subcommandFlags(name string) *flag.FlagSet {
	fs := flag.NewFlagSet("drv-thru-relay "+name, flag.ContinueOnError)
	fs.SetOutput(io.Discard)
	return fs
}

// manual makes the manual pages.
func manual() *usage.Manual {
	return &usage.Manual{
		Root: command(new(flags), io.Discard, io.Discard), Release: version, SeeAlso: []string{"drv-thru(1)"},
		Sections: []usage.Section{
			{Title: "SIGNALS", Items: []usage.Item{
				{Name: "SIGTERM, SIGINT", Text: "Tell builders and clients, wait for open circuits up to --drain-timeout, end. A second one ends at once."},
				{Name: "SIGHUP", Text: "Read lists, tokens and certificates again."},
			}},
			{Title: "EXIT STATUS", Items: []usage.Item{
				{Name: "0", Text: "It has been told to end, and has."},
				{Name: "1", Text: "It failed."},
				{Name: "2", Text: "The command line cannot be understood."},
			}},
		},
	}
}

// complete answers a shell.
func complete(ctx context.Context, cmd *ffcli.Command, stdout io.Writer, index string, args []string) error {
	c := &usage.Completion{Root: cmd, Home: os.Getenv("HOME"), Values: values}
	if err := c.Answer(ctx, stdout, index, args); err != nil {
		return usageError{err}
	}
	return nil
}

// values returns what a flag's value may be.
func values(_ context.Context, l *usage.Line) (usage.Candidates, bool) {
	var words []string
	switch {
	case l.Flag == "access":
		words = []string{accessAllowlist, accessOpen, accessToken}
	case l.Flag == "log-level":
		words = []string{"debug", "error", "info", "warn"}
	case l.Flag == "stun-listen":
		words = []string{stunOff}
	case l.Flag == "" && l.Command.Name == "completion":
		words = usage.Shells
	default:
		return usage.Candidates{}, false
	}
	got := usage.Candidates{Kind: usage.Normal}
	for _, w := range words {
		got.Words = append(got.Words, usage.Item{Name: w})
	}
	return got, true
}
