package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"

	"github.com/peterbourgon/ff/v3/ffcli"

	"github.com/drv-thru/drv-thru/cmd/drv-thru/internal/term"
	"github.com/drv-thru/drv-thru/cmd/internal/notify"
	"github.com/drv-thru/drv-thru/cmd/internal/usage"
	"github.com/drv-thru/drv-thru/core/client"
	"github.com/drv-thru/drv-thru/core/wire"
)

// app is the process as commands see it.
type app struct {
	stdin          io.Reader
	stdout, stderr io.Writer
	environ        []string // "NAME=value"
	args           []string

	// version is --version, which does before whatever command follows.
	version bool
	// asked is the command whose usage was asked for, or got wrong.
	asked *ffcli.Command
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

// note tells something besides what was asked for.
func (a *app) note(text string) { fmt.Fprintln(a.stderr, plain(text)) }

func (a *app) logger(verbose bool) *slog.Logger {
	level := slog.LevelInfo
	if verbose {
		level = slog.LevelDebug
	}
	return slog.New(notify.LogHandler(a.stderr, level))
}

const rootHelp = `The client evaluates, sends what the builder lacks, and imports the outputs into
this machine's Nix store. The builder is drv-thru serve on another machine; it lets
in who has a ticket of it, and clients that it trusts.`

// root makes the tree of commands, in the order of the help.
func (a *app) root() *ffcli.Command {
	fs := a.flags("drv-thru")
	fs.BoolVar(&a.version, "version", false, "print the version and exit")
	root := group(&ffcli.Command{
		Name:       "drv-thru",
		ShortUsage: "drv-thru COMMAND [flags] …",
		ShortHelp:  "build Nix derivations on another machine",
		LongHelp:   rootHelp,
		FlagSet:    fs,
	})
	for _, c := range []func(*app) *ffcli.Command{
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
		newCompletionCommand,
		newManCommand,
	} {
		root.Subcommands = append(root.Subcommands, c(a))
	}
	a.prepare(root)
	return root
}

// group makes a command that only leads to those below it.
func group(c *ffcli.Command) *ffcli.Command {
	c.Exec = func(_ context.Context, args []string) error { return choose(c, args) }
	return c
}

// choose is what a group does where none of its commands was named: it asks for one.
func choose(c *ffcli.Command, args []string) error {
	if len(args) == 0 {
		return flag.ErrHelp
	}
	e := &usageError{text: fmt.Sprintf("no such command: %s %s", c.FlagSet.Name(), args[0])}
	near := usage.NearestCommand(c, args[0])
	switch {
	case args[0] == "help":
		e.hint = "did you mean: " + usage.Find(c, args[1:]).FlagSet.Name() + " --help"
	case args[0] == "version":
		e.hint = "did you mean: drv-thru --version"
	case near != "":
		e.hint = "did you mean: " + c.FlagSet.Name() + " " + near
	}
	return e
}

// prepare has the commands tell a which of them is to explain itself, in place of
// printing by themselves.
func (a *app) prepare(c *ffcli.Command) {
	c.UsageFunc = func(c *ffcli.Command) string {
		a.asked = c
		return ""
	}
	for _, s := range c.Subcommands {
		a.prepare(s)
	}
}

// interrupts are the signals that end what a user has begun. Under nohup the end
// of the terminal is none.
func interrupts() []os.Signal {
	all := []os.Signal{syscall.SIGINT, syscall.SIGTERM}
	if !signal.Ignored(syscall.SIGHUP) {
		all = append(all, syscall.SIGHUP)
	}
	return all
}

// run is the program without its process: it returns the exit code.
func run(ctx context.Context, args []string, stdin io.Reader, stdout, stderr io.Writer, environ []string) int {
	a := &app{stdin: stdin, stdout: stdout, stderr: stderr, environ: environ, args: args}
	// Who closes the pipe that we print to must not have us killed, with a mount
	// still there: writing fails instead. What we start gets the signal as ever.
	signal.Notify(make(chan os.Signal, 1), syscall.SIGPIPE)
	root := a.root()
	if word := a.env(usage.WordVar(root.Name)); word != "" {
		return a.complete(ctx, root, word, args)
	}
	err := root.Parse(args)
	if err == nil && a.version {
		_, err = fmt.Fprintf(stdout, "drv-thru %s, protocol %d\n", version, wire.Version)
	} else if err == nil {
		err = root.Run(ctx)
	} else if !errors.Is(err, flag.ErrHelp) {
		err = parseError(usage.Find(root, args).FlagSet, err)
	}
	if errors.Is(err, flag.ErrHelp) {
		if !wantsHelp(args) {
			fmt.Fprint(stderr, usage.Help(a.asked))
			return wire.ExitUsage
		}
		_, err = fmt.Fprint(stdout, usage.Help(a.asked))
	}
	switch {
	case err == nil:
		return wire.ExitOK
	case isUnread(err):
		return exitUnread
	}
	var mistake *usageError
	if errors.As(err, &mistake) && mistake.hint == "" {
		mistake.hint = "see: " + usage.Find(root, args).FlagSet.Name() + " --help"
	}
	a.printError(err)
	return exitCode(err)
}

// exitUnread is the shell's convention for who was ended because nobody read what
// it printed: 128 and SIGPIPE's number.
const exitUnread = 141

// isUnread reports whether err is that standard output or error leads nowhere any
// more. (Sockets have errors of the same number.)
func isUnread(err error) bool {
	var path *fs.PathError
	return errors.Is(err, errUnread) || errors.As(err, &path) && errors.Is(path.Err, syscall.EPIPE) && strings.HasPrefix(path.Path, "/dev/std")
}

// wantsHelp reports whether help was asked for. A group of commands without one of
// them is no question but a mistake.
func wantsHelp(args []string) bool {
	return slices.ContainsFunc(args, func(s string) bool { return s == "-h" || s == "-help" || s == "--help" })
}

// parseError says what is wrong with flags.
func parseError(fs *flag.FlagSet, err error) error {
	err = usage.ParseError(fs, err)
	e := &usageError{text: err.Error()}
	if near := usage.NearestFlag(fs, err); near != "" {
		e.hint = "did you mean: " + near
	}
	return e
}

// flags makes a flag set that returns its errors and prints nothing.
func (a *app) flags(name string) *flag.FlagSet {
	fs := flag.NewFlagSet(name, flag.ContinueOnError)
	fs.SetOutput(io.Discard)
	return fs
}

// hintError is an error and what to do about it.
type hintError struct {
	err  error
	hint string
}

func (e *hintError) Error() string { return e.err.Error() }
func (e *hintError) Unwrap() error { return e.err }
func (e *hintError) Hint() string  { return e.hint }

// exitError is an error with an exit code of its own.
type exitError struct {
	text string
	code int
}

func (e *exitError) Error() string { return e.text }
func (e *exitError) Exit() int     { return e.code }

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
	p.Line(notify.Mark(a.stderr, slog.LevelError) + p.Paint("1;31", "error:") + " " + term.Safe(err.Error()))
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
