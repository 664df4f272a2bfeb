package builder

import (
	"context"
	"fmt"
	"slices"

	"github.com/drv-thru/drv-thru/core/nix"
	"github.com/drv-thru/drv-thru/core/ticket"
	"github.com/drv-thru/drv-thru/core/wire"
)

// maxDerivation bounds a .drv file. The largest of nixpkgs have some MiB.
const maxDerivation = 32 << 20

// maxSystem bounds the name of a derivation's system: that of every derivation of a
// build is kept until all its inputs have come.
const maxSystem = 256

// builtinSystem is the system of derivations that the daemon runs itself
// (builtin:fetchurl), on any machine.
const builtinSystem = "builtin"

// checkBuild asks the daemon what building the closure's roots would build, and
// fails if the build's limits forbid any of it. idle says that nothing would be
// built or fetched. Everything of the closure must be valid.
func (s *Service) checkBuild(ctx context.Context, b *build, cl *closure, mode wire.Mode) (planned []Planned, idle bool, err error) {
	for _, r := range cl.roots {
		if err := s.checkRoot(b, r.Path, r.Outputs); err != nil {
			return nil, false, err
		}
	}
	missing, err := s.missing(ctx, b.place.group, cl.roots)
	if err != nil {
		return nil, false, err
	}
	toBuild := missing.WillBuild
	if mode == wire.ModeCheck {
		toBuild = nix.SortedPaths(append(slices.Clone(toBuild), cl.rootDrvs()...))
	}
	planned = make([]Planned, 0, len(toBuild))
	for _, drv := range toBuild {
		p, err := s.plannedOf(b, drv)
		if err != nil {
			return nil, false, err
		}
		if err := s.allowed(p, b.limits); err != nil {
			return nil, false, err
		}
		planned = append(planned, p)
	}
	return planned, len(toBuild)+len(missing.WillSubstitute)+len(missing.Unknown) == 0, nil
}

// checkRoot makes sure that a root has the outputs that are asked of it: the
// daemon's own message names neither well.
func (s *Service) checkRoot(b *build, drv nix.Path, outputs []string) error {
	d, err := s.readDerivation(drv)
	if err != nil {
		return err
	}
	for _, o := range outputs {
		if _, ok := d.Outputs[o]; !ok {
			return badRequest("%s has no output %q", drv, o)
		}
	}
	p, err := plan(drv, d)
	if err != nil {
		return err
	}
	b.notePlanned(p)
	return nil
}

// notePlanned spares reading a derivation again that has just been read.
func (b *build) notePlanned(p Planned) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.planned != nil {
		b.planned[p.Drv] = p
	}
}

func (s *Service) plannedOf(b *build, drv nix.Path) (Planned, error) {
	b.mu.Lock()
	p, ok := b.planned[drv]
	b.mu.Unlock()
	if ok {
		return p, nil
	}
	d, err := s.readDerivation(drv)
	if err != nil {
		return Planned{}, err
	}
	return plan(drv, d)
}

func (s *Service) readDerivation(drv nix.Path) (*nix.Derivation, error) {
	text, err := s.cfg.Store.ReadFile(drv, maxDerivation)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", drv, err)
	}
	d, err := nix.ParseDerivation(drv.Name(), text)
	if err != nil {
		return nil, wire.Errorf(wire.CodeInputDerivation, "%s: %s", drv, err)
	}
	return d, nil
}

func plan(drv nix.Path, d *nix.Derivation) (Planned, error) {
	features, err := d.RequiredFeatures()
	if err != nil {
		return Planned{}, wire.Errorf(wire.CodeInputDerivation, "%s: %s", drv, clipText(err.Error()))
	}
	if len(d.System) > maxSystem {
		return Planned{}, wire.Errorf(wire.CodeInputDerivation, "%s: its system has a name of %d bytes; at most %d", drv, len(d.System), maxSystem)
	}
	kind := d.Kind()
	return Planned{
		Drv: drv, System: d.System, Features: features,
		// Impure derivations have the network as fixed outputs have.
		FixedOutput: kind == nix.Fixed || kind == nix.Impure,
	}, nil
}

// allowed tells whether this derivation may be built within the limits.
func (s *Service) allowed(p Planned, limits ticket.Limits) error {
	if p.System != builtinSystem {
		if !slices.Contains(s.cfg.Systems, p.System) {
			return wire.Errorf(wire.CodeSystemMissing, "%s is for %s; the builder builds for %v", p.Drv, p.System, s.cfg.Systems)
		}
		if len(limits.Systems) > 0 && !slices.Contains(limits.Systems, p.System) {
			return wire.Errorf(wire.CodeSystemDenied, "%s is for %s; allowed is %v", p.Drv, p.System, limits.Systems)
		}
	}
	if p.FixedOutput && limits.NoFixedOutput {
		return wire.Errorf(wire.CodeFixedOutput, "%s would have to be built", p.Drv).
			WithHint("make it available to the builder's substituters, or ask for a ticket that allows it")
	}
	return nil
}
