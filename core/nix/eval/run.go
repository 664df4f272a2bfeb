package eval

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/drv-thru/drv-thru/core/nix"
)

// features are what the commands used here need, whatever nix.conf enables.
const features = "nix-command flakes"

// evaluate has Nix evaluate what is not a store path.
func (cfg *Config) evaluate(ctx context.Context, req Request, todo []installable) ([]Target, error) {
	// Nix 2.8 takes ^ for a part of the attribute path: the outputs are chosen here.
	choose := false
	if slices.ContainsFunc(todo, func(in installable) bool { return in.outputs != nil }) {
		old, err := cfg.olderThan(ctx, 2, 9)
		if err != nil {
			return nil, err
		}
		choose = old
	}
	args := req.args()
	for _, in := range todo {
		if choose {
			args = append(args, in.base)
		} else {
			args = append(args, in.whole)
		}
	}
	out, err := cfg.run(ctx, args)
	if err != nil {
		return nil, err
	}
	targets, err := cfg.parseDryRun(out)
	if err != nil {
		return nil, fmt.Errorf("nix build --dry-run --json: %w", err)
	}
	for i := range targets {
		in := installable{}
		switch {
		case len(targets) == len(todo):
			in = todo[i]
		case len(todo) == 1:
			in = todo[0]
		case choose:
			return nil, fmt.Errorf("%w: with Nix older than 2.9, an installable with ^ that stands for several"+
				" derivations must be the only one", ErrRequest)
		}
		if targets[i], err = cfg.name(targets[i], in); err != nil {
			return nil, err
		}
	}
	return targets, nil
}

// name gives a target its installable, and the outputs after its ^: Nix 2.8 was
// not told of them, and later ones leave out without a word what does not exist.
func (cfg *Config) name(t Target, in installable) (Target, error) {
	t.Installable = in.whole
	if t.Drv == "" {
		return t, nil
	}
	if in.outputs != nil {
		chosen, err := cfg.derivation(t.Drv, in)
		if err != nil {
			return Target{}, err
		}
		// Nix may know where a content-addressed output is already.
		for _, name := range chosen.Outputs {
			if p, ok := t.OutPaths[name]; ok {
				chosen.OutPaths[name] = p
			}
		}
		t = chosen
	}
	if len(t.Outputs) == 0 {
		return Target{}, fmt.Errorf("%w: no outputs of %s", ErrRequest, t.Drv)
	}
	return t, nil
}

// args are the arguments before the installables.
func (r *Request) args() []string {
	args := []string{
		"--extra-experimental-features", features, "build",
		"--dry-run", "--json", "--no-link", "--log-format", "internal-json",
	}
	if r.Impure {
		args = append(args, "--impure")
	}
	if r.Refresh {
		args = append(args, "--refresh")
	}
	if r.NoSubstitute {
		args = append(args, "--option", "substitute", "false")
	}
	if r.System != "" {
		args = append(args, "--system", r.System)
	}
	for _, opt := range []struct {
		name  string
		pairs [][2]string
	}{{"--override-input", r.OverrideInputs}, {"--arg", r.Args}, {"--argstr", r.ArgStrs}} {
		for _, p := range opt.pairs {
			args = append(args, opt.name, p[0], p[1])
		}
	}
	switch {
	case r.File != "":
		args = append(args, "--file", r.File)
	case r.Expr != "":
		args = append(args, "--expr", r.Expr)
	}
	return append(args, "--")
}

// parseDryRun reads the output of `nix build --dry-run --json`: a list of
// {"drvPath": path, "outputs": {name: path or null}}, and for what is not built
// {"path": path} (Nix 2.8) or just the path.
func (cfg *Config) parseDryRun(out []byte) ([]Target, error) {
	var entries []json.RawMessage
	if err := json.Unmarshal(out, &entries); err != nil {
		return nil, err
	}
	var targets []Target
	for _, raw := range entries {
		t, err := cfg.parseEntry(raw)
		if err != nil {
			return nil, err
		}
		targets = append(targets, t)
	}
	return targets, nil
}

func (cfg *Config) parseEntry(raw json.RawMessage) (Target, error) {
	var path nix.Path
	if len(raw) > 0 && raw[0] == '"' {
		if err := json.Unmarshal(raw, &path); err != nil {
			return Target{}, err
		}
		return cfg.storePath(path, installable{})
	}
	var e struct {
		Path    nix.Path             `json:"path"`
		DrvPath json.RawMessage      `json:"drvPath"`
		Outputs map[string]*nix.Path `json:"outputs"`
	}
	if err := json.Unmarshal(raw, &e); err != nil {
		return Target{}, err
	}
	if e.Path != "" {
		return cfg.storePath(e.Path, installable{})
	}
	if len(e.DrvPath) > 0 && e.DrvPath[0] == '{' {
		return Target{}, nix.ErrDynamicDerivation
	}
	if err := json.Unmarshal(e.DrvPath, &path); err != nil {
		return Target{}, err
	}
	t := Target{Drv: path, Outputs: slices.Sorted(maps.Keys(e.Outputs)), OutPaths: map[string]nix.Path{}}
	for name, p := range e.Outputs {
		if err := nix.CheckName(name); err != nil {
			return Target{}, fmt.Errorf("output %q of %s: %w", name, path, err)
		}
		if p != nil {
			t.OutPaths[name] = *p
		}
	}
	return t, nil
}

// olderThan compares the version of Nix, "nix (Nix) 2.34.8" or with a suffix.
func (cfg *Config) olderThan(ctx context.Context, major, minor int) (bool, error) {
	out, err := cfg.run(ctx, []string{"--version"})
	if err != nil {
		return false, err
	}
	fields := strings.Fields(string(out))
	if len(fields) > 0 {
		parts := strings.SplitN(fields[len(fields)-1], ".", 3)
		if len(parts) > 1 {
			a, errA := strconv.Atoi(parts[0])
			b, errB := strconv.Atoi(strings.TrimRightFunc(parts[1], func(r rune) bool { return r < '0' || r > '9' }))
			if errA == nil && errB == nil {
				return a < major || a == major && b < minor, nil
			}
		}
	}
	return false, fmt.Errorf("%w: %.80q", errVersion, out)
}

var errVersion = errors.New("nix --version printed something else")
