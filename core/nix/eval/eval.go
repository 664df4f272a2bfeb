package eval

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"

	"github.com/drv-thru/drv-thru/core/nix"
)

// Config says how to run Nix.
type Config struct {
	// Program is the nix command, "nix" if empty.
	Program string
	// Env is the environment, as os.Environ returns it. Nix needs at least PATH
	// and HOME. Variables that begin with DRV_THRU_ are left out.
	Env []string
	// Stdin is read where Request.File is "-".
	Stdin io.Reader
	// Stderr receives Nix's messages for the user, nil discards them.
	Stderr io.Writer
	// Color keeps the colours of the messages: Stderr is a terminal.
	Color bool
	// Progress, if not nil, is told what Nix is doing: "evaluating …", "copying
	// …", "downloading …". It is called from one goroutine at a time.
	Progress func(text string)
	// ReadFile reads a .drv file; os.ReadFile if nil.
	ReadFile func(name string) ([]byte, error)
}

// Request is what to evaluate, in the terms of `nix build`.
type Request struct {
	// Installables are flake references with attribute paths, store paths, or
	// with File or Expr attribute paths; each may end with ^<out>,<out> or ^*.
	// None means ".", or with File or Expr the whole expression.
	Installables []string
	// File is a Nix file, or "-" for standard input.
	File string
	// Expr is a Nix expression.
	Expr string
	// Args and ArgStrs are names and values of --arg and --argstr.
	Args, ArgStrs [][2]string
	// Impure and Refresh are the options of these names.
	Impure, Refresh bool
	// OverrideInputs are pairs of an input path and a flake reference.
	OverrideInputs [][2]string
	// System replaces builtins.currentSystem.
	System string
	// NoSubstitute keeps Nix from using substituters, also for what the
	// evaluation itself builds.
	NoSubstitute bool
}

// Target is something to be realised: outputs of a derivation, or a store path.
type Target struct {
	// Installable is the request's, as it was given. It is empty where several
	// installables have together become a different number of targets, which
	// attribute paths in a File or Expr can.
	Installable string
	// Drv is the derivation, which is in the local store, or empty.
	Drv nix.Path
	// Outputs are the names of the wanted outputs of Drv, sorted.
	Outputs []string
	// OutPaths are the paths of Outputs by name, as far as they are known before
	// the build: content-addressed ones are not.
	OutPaths map[string]nix.Path
	// Path is the store path, where Drv is empty.
	Path nix.Path
}

// ErrRequest is wrapped by errors about requests that Nix never sees.
var ErrRequest = errors.New("not something to evaluate")

// ExitError says that Nix failed. Messages of an evaluation went to Config.Stderr.
type ExitError struct {
	// Command is what was run, shortened: "nix build".
	Command string
	Code    int
	// Message is Nix's last error message without colours, possibly empty; of
	// [ShowConfig], all that Nix said.
	Message string
}

func (e *ExitError) Error() string {
	if e.Message == "" {
		return fmt.Sprintf("%s failed with exit code %d", e.Command, e.Code)
	}
	return fmt.Sprintf("%s: %s", e.Command, e.Message)
}

const maxInstallables = 4096

// Evaluate finds the targets of a request, in the order of its installables. An
// installable that stands for several derivations (a set of them in a file) has
// as many targets. A .drv path without ^ means all of its outputs, as before Nix
// 2.13, for a .drv by itself needs no building.
func Evaluate(ctx context.Context, cfg Config, req Request) ([]Target, error) {
	if err := req.check(); err != nil {
		return nil, fmt.Errorf("evaluate: %w", err)
	}
	given := req.Installables
	expression := req.File != "" || req.Expr != ""
	if len(given) == 0 && !expression {
		given = []string{"."}
	}
	var (
		found = make([][]Target, len(given))
		todo  []installable
		where []int // of todo, in given
	)
	for i, s := range given {
		in := parseInstallable(s)
		p, err := nix.ParsePath(in.base)
		if expression || err != nil {
			todo = append(todo, in)
			where = append(where, i)
			continue
		}
		t, err := cfg.storePath(p, in)
		if err != nil {
			return nil, fmt.Errorf("evaluate %s: %w", s, err)
		}
		found[i] = []Target{t}
	}
	var rest []Target
	if len(todo) > 0 || expression {
		targets, err := cfg.evaluate(ctx, req, todo)
		if err != nil {
			return nil, fmt.Errorf("evaluate: %w", err)
		}
		if len(targets) == len(todo) {
			for k, t := range targets {
				found[where[k]] = []Target{t}
			}
		} else if len(todo) == 1 {
			found[where[0]] = targets
		} else {
			rest = targets
		}
	}
	return append(slices.Concat(found...), rest...), nil
}

func (r *Request) check() error {
	if r.File != "" && r.Expr != "" {
		return fmt.Errorf("%w: both a file and an expression", ErrRequest)
	}
	if len(r.Installables) > maxInstallables {
		return fmt.Errorf("%w: more than %d installables", ErrRequest, maxInstallables)
	}
	for _, s := range r.Installables {
		switch {
		case s == "":
			return fmt.Errorf("%w: an empty installable", ErrRequest)
		case strings.HasPrefix(s, "-"):
			return fmt.Errorf("%w: %q looks like an option", ErrRequest, s)
		}
	}
	for _, o := range r.OverrideInputs {
		if o[0] == "" || o[1] == "" || strings.HasPrefix(o[0], "-") || strings.HasPrefix(o[1], "-") {
			return fmt.Errorf("%w: input override %q", ErrRequest, o)
		}
	}
	all := append(slices.Clone(r.Installables), r.File, r.Expr, r.System)
	for _, pairs := range [][][2]string{r.Args, r.ArgStrs, r.OverrideInputs} {
		for _, p := range pairs {
			all = append(all, p[0], p[1])
		}
	}
	for _, s := range all {
		if strings.ContainsRune(s, 0) {
			return fmt.Errorf("%w: a zero byte in %q", ErrRequest, s)
		}
	}
	return nil
}

// installable is an installable taken apart.
type installable struct {
	whole, base string
	// outputs are the names after ^, or just "*"; nil if there is no ^.
	outputs []string
}

// parseInstallable splits off ^ and what follows as Nix ≥ 2.9 does (libstore
// outputs-spec.cc, ExtendedOutputsSpec::parse): what is no list of output names
// belongs to the installable.
func parseInstallable(s string) installable {
	whole := installable{whole: s, base: s}
	i := strings.LastIndexByte(s, '^')
	if i < 0 {
		return whole
	}
	if s[i+1:] == "*" {
		return installable{s, s[:i], []string{"*"}}
	}
	outs := strings.Split(s[i+1:], ",")
	for _, o := range outs {
		if nix.CheckName(o) != nil {
			return whole
		}
	}
	slices.Sort(outs)
	return installable{s, s[:i], slices.Compact(outs)}
}

// storePath makes the target of a store path.
func (cfg *Config) storePath(p nix.Path, in installable) (Target, error) {
	if p.IsDrv() {
		return cfg.derivation(p, in)
	}
	if in.outputs != nil {
		return Target{}, fmt.Errorf("%w: outputs of %s, which is not a derivation", ErrRequest, p)
	}
	return Target{Installable: in.whole, Path: p}, nil
}

// derivation makes the target of outputs of a .drv file that is in the store.
func (cfg *Config) derivation(drv nix.Path, in installable) (Target, error) {
	read := cfg.ReadFile
	if read == nil {
		read = os.ReadFile
	}
	text, err := read(string(drv))
	if err != nil {
		return Target{}, err
	}
	d, err := nix.ParseDerivation(drv.Name(), text)
	if err != nil {
		return Target{}, fmt.Errorf("%s: %w", drv, err)
	}
	t := Target{Installable: in.whole, Drv: drv, Outputs: in.outputs, OutPaths: map[string]nix.Path{}}
	if in.outputs == nil || in.outputs[0] == "*" {
		t.Outputs = slices.Sorted(maps.Keys(d.Outputs))
	}
	for _, name := range t.Outputs {
		o, ok := d.Outputs[name]
		if !ok {
			return Target{}, fmt.Errorf("%w: derivation %s has no output %q, only %s",
				ErrRequest, drv, name, strings.Join(slices.Sorted(maps.Keys(d.Outputs)), ", "))
		}
		if o.Path != "" {
			t.OutPaths[name] = o.Path
		}
	}
	return t, nil
}
