package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"strings"

	"github.com/peterbourgon/ff/v3/ffcli"

	"github.com/drv-thru/drv-thru/cmd/drv-thru/internal/term"
	"github.com/drv-thru/drv-thru/core/client"
	"github.com/drv-thru/drv-thru/core/wire"
)

// app is the process as commands see it.
type app struct {
	stdin          io.Reader
	stdout, stderr io.Writer
	environ        []string // "NAME=value"
}

// env returns an environment variable, "" without one.
func (a *app) env(name string) string {
	for i := len(a.environ) - 1; i >= 0; i-- {
		if value, ok := strings.CutPrefix(a.environ[i], name+"="); ok {
			return value
		}
	}
	return ""
}

// commands makes the subcommands, in the order of the help.
var commands = []func(*app) *ffcli.Command{
	newBuildCommand,
	newAttachCommand,
	newLogCommand,
	newCancelCommand,
	newBuildersCommand,
	newMountCommand,
	newImportHelperCommand,
	newKeyCommand,
	newServeCommand,
	newTicketCommand,
	newPolicyCommand,
	newStatusCommand,
	newBuildsCommand,
	newPauseCommand,
	newResumeCommand,
	newDrainCommand,
	newStateCommand,
	newDoctorCommand,
	newGCCommand,
}

// run is the program without its process: it returns the exit code.
func run(ctx context.Context, args []string, stdin io.Reader, stdout, stderr io.Writer, environ []string) int {
	a := &app{stdin: stdin, stdout: stdout, stderr: stderr, environ: environ}
	root := &ffcli.Command{
		Name:       "drv-thru",
		ShortUsage: "drv-thru COMMAND [flags] …",
		ShortHelp:  "build Nix derivations on another machine",
		FlagSet:    a.flags("drv-thru"),
		Exec:       func(context.Context, []string) error { return flag.ErrHelp },
	}
	for _, c := range commands {
		root.Subcommands = append(root.Subcommands, c(a))
	}
	err := root.Parse(args)
	if err == nil {
		err = root.Run(ctx)
	} else if !errors.Is(err, flag.ErrHelp) {
		// The flag package has printed the error and the usage.
		return wire.ExitUsage
	}
	switch {
	case err == nil:
		return wire.ExitOK
	case errors.Is(err, flag.ErrHelp):
		if len(args) == 0 {
			return wire.ExitUsage
		}
		return wire.ExitOK
	}
	a.printError(err)
	return exitCode(err)
}

// flags makes a flag set that returns its errors instead of ending the process.
func (a *app) flags(name string) *flag.FlagSet {
	fs := flag.NewFlagSet(name, flag.ContinueOnError)
	fs.SetOutput(a.stderr)
	return fs
}

// usageError is a command line that cannot be understood.
type usageError struct{ text, hint string }

func usagef(format string, args ...any) error {
	return &usageError{text: fmt.Sprintf(format, args...)}
}

func (e *usageError) Error() string { return e.text }
func (e *usageError) Hint() string  { return e.hint }
func (e *usageError) Exit() int     { return wire.ExitUsage }

// exitCode finds the exit code that an error or one in its chain asks for.
func exitCode(err error) int {
	var e interface{ Exit() int }
	if errors.As(err, &e) {
		return e.Exit()
	}
	if code := wire.CodeOf(err); code != "" {
		return code.Exit()
	}
	if errors.Is(err, client.ErrConnection) {
		return wire.ExitUnreachable
	}
	return wire.ExitFailed
}

// printError prints an error and, on lines of their own, what to do about it.
func (a *app) printError(err error) {
	p := term.New(a.stderr, a.env)
	defer p.Close()
	p.Line(p.Paint("1;31", "error:") + " " + term.Safe(err.Error()))
	prefix := p.Paint("1", "hint:")
	for line := range strings.Lines(hintOf(err)) {
		p.Line(prefix + " " + term.Safe(strings.TrimRight(line, "\n")))
		prefix = "     "
	}
}

func hintOf(err error) string {
	var h interface{ Hint() string }
	if errors.As(err, &h) {
		return h.Hint()
	}
	var e *wire.Error
	if errors.As(err, &e) {
		return e.Hint
	}
	return ""
}
