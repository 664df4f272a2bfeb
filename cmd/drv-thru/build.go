package main

import (
	"context"
	"flag"
	"fmt"
	"runtime"
	"strconv"

	"github.com/peterbourgon/ff/v3"
	"github.com/peterbourgon/ff/v3/ffcli"

	"github.com/drv-thru/drv-thru/cmd/internal/usage"
	"github.com/drv-thru/drv-thru/core/wire"
)

// envPrefix stands before the environment variables of flags: DRV_THRU_TICKET
// is --ticket.
const envPrefix = "DRV_THRU"

// fromEnvironment is the option of commands whose flags the environment sets, too.
var fromEnvironment = []ff.Option{ff.WithEnvVarPrefix(envPrefix)}

// buildFlags are the flags of build, which are those of `nix build` and ours.
type buildFlags struct {
	routeFlags

	file, expr         string
	args, argstrs      pairs
	overrides          pairs
	impure, refresh    bool
	system             string
	outLink            string
	noLink             bool
	printPaths, json   bool
	dryRun, detach     bool
	keepGoing, rebuild bool
	logs, plain        bool
	verbose            bool

	importMode   string
	noSubstitute bool
	fetches      fetches
}

func (f *buildFlags) register(fs *flag.FlagSet) {
	f.routeFlags.register(fs)
	fs.Var((*usage.Word)(&f.file), "f", "evaluate `FILE`; installables are attribute paths in it")
	fs.Var((*usage.Word)(&f.file), "file", "same as -f `FILE`")
	fs.Var((*usage.Word)(&f.expr), "expr", "evaluate the Nix `EXPRESSION`; installables are attribute paths in it")
	fs.Var(&f.args, "arg", "`NAME EXPR`: pass the value of EXPR as the argument NAME (repeatable)")
	fs.Var(&f.argstrs, "argstr", "`NAME STRING`: pass STRING as the argument NAME (repeatable)")
	fs.BoolVar(&f.impure, "impure", false, "allow the evaluation to read mutable paths and the environment")
	fs.BoolVar(&f.refresh, "refresh", false, "take nothing that was downloaded before for fresh")
	fs.Var(&f.overrides, "override-input", "`INPUT FLAKE`: use FLAKE for the flake input INPUT (repeatable)")
	fs.Var((*usage.Word)(&f.system), "system", "evaluate for this `SYSTEM`")
	fs.BoolVar(&f.dryRun, "dry-run", false, "only tell what would be sent, built and fetched")
	fs.BoolVar(&f.keepGoing, "keep-going", false, "build what can still be built after a failure")
	fs.BoolVar(&f.keepGoing, "k", false, "same as --keep-going")
	fs.BoolVar(&f.rebuild, "rebuild", false, "build again what is built already, and compare")
	fs.BoolVar(&f.detach, "detach", false, "leave once the builder has everything it needs, and print the build's ID")
	f.registerResult(fs)
}

// registerResult makes the flags that say how a build is shown and what becomes
// of its outputs.
func (f *buildFlags) registerResult(fs *flag.FlagSet) {
	fs.StringVar(&f.outLink, "o", "result", "`NAME` of the link to the result")
	fs.StringVar(&f.outLink, "out-link", "result", "same as -o `NAME`")
	fs.BoolVar(&f.noLink, "no-link", false, "make no link to the result")
	fs.BoolVar(&f.printPaths, "print-out-paths", false, "print the paths of the outputs")
	fs.BoolVar(&f.json, "json", false, "print what was built as JSON")
	fs.BoolVar(&f.logs, "L", false, "show the logs of all builds")
	fs.BoolVar(&f.logs, "print-build-logs", false, "same as -L")
	fs.BoolVar(&f.plain, "no-nom", false, "plain lines, also on a terminal")
	fs.BoolVar(&f.verbose, "v", false, "tell what happens to connections and how long each step takes")
	fs.StringVar(&f.importMode, "import", "auto", "`WAY` in which outputs are imported: from a mount (fuse), over HTTP on this machine (http), or auto")
	f.fetches.register(fs)
	fs.BoolVar(&f.noSubstitute, "no-substitute", false, "fetch everything from the builder, nothing from this machine's own substituters")
}

const buildHelp = `Builds INSTALLABLEs on another machine, like nix build does here: the evaluation
runs on this machine, what the builder lacks is sent, and the outputs come back
into this machine's Nix store, which checks their signatures.

INSTALLABLEs are what nix build takes: flake references with a fragment, store
paths, .drv files, each with ^OUTPUTS if need be; with -f or --expr, attribute
paths. Flags may stand before and after them.

A ticket on the command line can be seen by every user of this machine while the
command runs. Put it into DRV_THRU_TICKET or pipe it to --ticket - instead.`

func newBuildCommand(a *app) *ffcli.Command {
	var f buildFlags
	fs := a.flags("drv-thru build")
	f.register(fs)
	return &ffcli.Command{
		Name:       "build",
		ShortUsage: "drv-thru build [--ticket TICKET | --builder NAME | --server ID] [flags] INSTALLABLE…",
		ShortHelp:  "build derivations on another machine",
		LongHelp:   buildHelp,
		FlagSet:    fs,
		Options:    fromEnvironment,
		Exec: func(ctx context.Context, args []string) error {
			installables, err := a.operands(fs, args, &f.args, &f.argstrs, &f.overrides)
			if err != nil {
				return err
			}
			if err := f.check(a); err != nil {
				return err
			}
			return a.build(ctx, &f, installables)
		},
	}
}

func (f *buildFlags) check(a *app) error {
	for name, p := range map[string]*pairs{"arg": &f.args, "argstr": &f.argstrs, "override-input": &f.overrides} {
		if p.pending {
			return usagef("--%s takes two words", name)
		}
	}
	if err := f.routeFlags.check(a); err != nil {
		return err
	}
	switch {
	case f.file != "" && f.expr != "":
		return usagef("-f and --expr exclude each other")
	case f.file == "-" && f.ticket == "-":
		return usagef("standard input can be the ticket or the file, not both; put the ticket into DRV_THRU_TICKET")
	case f.detach && (f.dryRun || f.printPaths):
		return usagef("--detach excludes --dry-run and --print-out-paths")
	}
	return f.checkResult()
}

func (f *buildFlags) checkResult() error {
	switch {
	case f.importMode != "auto" && f.importMode != "fuse" && f.importMode != "http":
		return usagef("--import is auto, fuse or http, not %q", f.importMode)
	case f.outLink == "":
		return usagef("--out-link needs a name; --no-link makes no link")
	case f.json && f.printPaths:
		return usagef("--json and --print-out-paths exclude each other")
	}
	return nil
}

// mode is how the builder is to build.
func (f *buildFlags) mode() wire.Mode {
	if f.rebuild {
		return wire.ModeCheck
	}
	return wire.ModeNormal
}

// fetches is how many NARs are fetched at once; 0 leaves that to orAuto.
type fetches int

const (
	leastAutoFetches = 8
	mostAutoFetches  = 32
	// mostFetches keeps a typing error from taking the memory that each needs.
	mostFetches = 128
)

func (f *fetches) register(fs *flag.FlagSet) {
	usage := fmt.Sprintf("`N` outputs that are fetched at once (default: as many as CPUs, at least %d and at most %d)", leastAutoFetches, mostAutoFetches)
	fs.Func("nar-fetches", usage, func(text string) error {
		n, err := strconv.Atoi(text)
		if err != nil || n < 1 || n > mostFetches {
			return fmt.Errorf("want a number from 1 to %d", mostFetches)
		}
		*f = fetches(n)
		return nil
	})
}

func (f *fetches) orAuto() int {
	if *f > 0 {
		return int(*f)
	}
	return min(max(leastAutoFetches, runtime.NumCPU()), mostAutoFetches)
}
