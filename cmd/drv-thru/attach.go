package main

import (
	"context"
	"fmt"
	"time"

	"github.com/peterbourgon/ff/v3/ffcli"

	"github.com/drv-thru/drv-thru/core/client"
	"github.com/drv-thru/drv-thru/core/nix"
	"github.com/drv-thru/drv-thru/core/wire"
)

const attachHelp = `Follows a build that was started before, with build --detach or in another
terminal, from its beginning, and imports its outputs as build does. It takes the
ticket, or the key, that the build was started with.

Ctrl-C leaves the build as it is; drv-thru cancel ends it.`

func newAttachCommand(a *app) *ffcli.Command {
	var f buildFlags
	fs := a.flags("drv-thru attach")
	f.routeFlags.register(fs)
	f.registerResult(fs)
	return &ffcli.Command{
		Name:       "attach",
		ShortUsage: "drv-thru attach [--ticket TICKET | --builder NAME | --server ID] [flags] BUILD",
		ShortHelp:  "follow a build that was started before",
		LongHelp:   attachHelp,
		FlagSet:    fs,
		Options:    fromEnvironment,
		Exec: func(ctx context.Context, args []string) error {
			text, err := a.oneOperand(fs, args, "one build ID")
			if err != nil {
				return err
			}
			id, err := f.checkRemote(a, text)
			if err != nil {
				return err
			}
			if err := f.checkResult(); err != nil {
				return err
			}
			return a.attach(ctx, &f, id)
		},
	}
}

// attach follows a build to its end and brings its outputs.
func (a *app) attach(ctx context.Context, f *buildFlags, id wire.BuildID) error {
	return a.watch(ctx, f, "leaving; the build goes on", func(ctx context.Context, r *buildRun) error {
		return r.attach(ctx, id)
	})
}

func (r *buildRun) attach(ctx context.Context, id wire.BuildID) error {
	userTrust, end, err := r.openStore(ctx)
	if err != nil {
		return err
	}
	defer end()
	r.view.Phase("connecting to builder " + r.route.builder.Short())
	b, err := r.route.dial(ctx, r.log)
	if err != nil {
		return err
	}
	defer b.link.Close()
	r.view.SetPath(func() string { return string(b.link.Path().Kind) })
	s := b.session(r.view)
	build, err := s.State(ctx, id)
	if err != nil {
		return ofBuild(err)
	}
	info, err := s.Info(ctx, id)
	if err != nil {
		return err
	}
	if err := r.route.checkKey(info.SigningKey); err != nil {
		return err
	}
	trust, err := userTrust()
	if err != nil {
		return err
	}
	help, err := r.app.trusted(ctx, trust, info.SigningKey, r.flags.importMode, r.log)
	if err != nil {
		return err
	}
	r.view.Phase("following build " + string(id))
	built, err := s.Attach(ctx, id)
	if err != nil {
		return ofBuild(err)
	}
	if built.Error != nil && (!build.KeepGoing || len(built.Outputs) == 0) {
		return r.buildFailed(id, built)
	}
	if r.targets, err = attached(built); err != nil {
		return err
	}
	in := &incoming{
		buildRun: r, session: s, id: id, signingKey: info.SigningKey, trusted: trust.UserTrusted, helper: help,
		sum: &summary{began: time.Now(), result: built, path: b.link.Explain},
	}
	return in.take(ctx, r.targets)
}

// attached makes targets of what was built. Of derivations that are here it is
// known what their outputs are.
func attached(built *wire.Result) ([]target, error) {
	var roots []wire.Root
	index := make(map[string]int)
	known := make(map[nix.Path]map[string]nix.Path)
	for _, o := range built.Outputs {
		drv, err := nix.ParsePath(o.Drv)
		if err != nil || !drv.IsDrv() {
			return nil, fmt.Errorf("the builder answers with %q, which is no derivation", o.Drv)
		}
		i, ok := index[o.Drv]
		if !ok {
			i = len(roots)
			index[o.Drv] = i
			roots = append(roots, wire.Root{Drv: o.Drv})
			known[drv] = localOutputs(drv)
		}
		roots[i].Outputs = append(roots[i].Outputs, o.Name)
	}
	paths, err := client.WantedOutputs(roots, known, built)
	if err != nil {
		return nil, err
	}
	targets := make([]target, len(roots))
	for i, root := range roots {
		drv := nix.Path(root.Drv)
		targets[i] = target{installable: root.Drv, drv: drv, nth: i}
		for _, name := range root.Outputs {
			targets[i].outputs = append(targets[i].outputs, output{name, paths[drv][name]})
		}
	}
	return targets, nil
}

// localOutputs returns the paths of a derivation's outputs as far as this
// machine knows them.
func localOutputs(drv nix.Path) map[string]nix.Path {
	text, err := client.StoreFiles{}.ReadDrv(drv)
	if err != nil {
		return nil
	}
	d, err := nix.ParseDerivation(drv.Name(), text)
	if err != nil {
		return nil
	}
	outputs := make(map[string]nix.Path, len(d.Outputs))
	for name, o := range d.Outputs {
		if o.Path != "" {
			outputs[name] = o.Path
		}
	}
	return outputs
}
