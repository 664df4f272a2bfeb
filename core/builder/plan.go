package builder

import (
	"context"
	"slices"

	"github.com/drv-thru/drv-thru/core/nix"
	"github.com/drv-thru/drv-thru/core/nix/daemon"
	"github.com/drv-thru/drv-thru/core/wire"
)

// askSubstituters is the NAR size from which on the builder's substituters are
// asked for a content-addressed path that it lacks: smaller ones are sent
// sooner than asked for, and most sources are nobody's but the client's.
const askSubstituters = 1 << 20

// maxRecent bounds what is remembered of the store: a few MiB of paths and hashes.
const maxRecent = 32 << 10

// present tells for every path of the closure whether the store has it with the
// NAR hash and the references that the client stated.
func (s *Service) present(ctx context.Context, c *closure) ([]bool, error) {
	have := make([]bool, len(c.infos))
	return have, s.presentAmong(ctx, c, c.paths(), have)
}

func (s *Service) presentAmong(ctx context.Context, c *closure, paths []nix.Path, have []bool) error {
	if len(paths) == 0 {
		return nil
	}
	valid, err := s.cfg.Store.ValidPaths(ctx, paths, false)
	if err != nil {
		return storeError(err)
	}
	ask := make([]nix.Path, 0, len(valid))
	for _, p := range valid {
		i, ok := c.index[p]
		if !ok {
			continue
		}
		if h, ok := s.hashes.Get(p); ok && c.ca[i] {
			have[i] = h == c.infos[i].NarHash
			continue
		}
		ask = append(ask, p)
	}
	if len(ask) == 0 {
		return nil
	}
	infos, err := s.cfg.Store.PathInfos(ctx, ask)
	if err != nil {
		return storeError(err)
	}
	for p, info := range infos {
		i, ok := c.index[p]
		if !ok {
			continue
		}
		// Where the content address makes the path, it makes the references too. Any
		// other could be stated without what it refers to, which nobody then asks for.
		have[i] = info.NarHash == c.infos[i].NarHash && (c.ca[i] || slices.Equal(info.References, c.infos[i].References))
		if info.CA != "" {
			s.hashes.Put(p, info.NarHash)
		}
	}
	return nil
}

// substitute fetches what the store's substituters have of the paths that are
// missing, where asking is worth it, and updates have.
func (s *Service) substitute(ctx context.Context, c *closure, have []bool) error {
	var ask []nix.Path
	for i, info := range c.infos {
		if !have[i] && asksSubstituters(c, i) {
			ask = append(ask, info.Path)
		}
	}
	if len(ask) == 0 {
		return nil
	}
	if _, err := s.cfg.Store.ValidPaths(ctx, ask, true); err != nil {
		return storeError(err)
	}
	return s.presentAmong(ctx, c, ask, have)
}

func asksSubstituters(c *closure, i int) bool {
	return !c.infos[i].Path.IsDrv() && (!c.ca[i] || c.infos[i].NarSize >= askSubstituters)
}

// wantedOf returns the rising indexes of what is missing and the sum of its NAR
// sizes.
func wantedOf(c *closure, have []bool) (wanted []int, bytes uint64) {
	for i, ok := range have {
		if !ok {
			wanted = append(wanted, i)
			bytes += c.infos[i].NarSize
		}
	}
	return wanted, bytes
}

// acceptable tells whether every wanted path may be sent at all.
func (s *Service) acceptable(c *closure, wanted []int) error {
	return refuseUnsigned(s.unsigned(c, wanted))
}

// unsigned returns those of the wanted paths that may not be sent: neither are they
// content-addressed, nor has a key that this builder's Nix trusts signed them. Of the
// others only signatures that verify are kept.
func (s *Service) unsigned(c *closure, wanted []int) (paths []nix.Path) {
	for _, i := range wanted {
		if c.ca[i] {
			continue
		}
		info := &c.infos[i]
		if info.Sigs = validSigs(info, s.cfg.TrustedKeys); len(info.Sigs) == 0 {
			paths = append(paths, info.Path)
		}
	}
	return paths
}

func refuseUnsigned(paths []nix.Path) error {
	if len(paths) == 0 {
		return nil
	}
	return wire.Errorf(wire.CodeInputUnsigned, "%s", paths[0]).WithHint(
		"the evaluation refers to a built path directly; build it on the builder too, or sign it with a key in the builder's trusted-public-keys")
}

// maxForeseen bounds the paths of a plan, which costs its client nothing, that the
// substituters are asked for.
const maxForeseen = 100

// foreseeUnsigned is acceptable for a plan, which fetches nothing: what the store's
// substituters have need not be sent.
func (s *Service) foreseeUnsigned(ctx context.Context, group string, c *closure, wanted []int) error {
	paths := s.unsigned(c, wanted)
	if len(paths) == 0 {
		return nil
	}
	paths = paths[:min(len(paths), maxForeseen)]
	targets := make([]daemon.DerivedPath, len(paths))
	for i, p := range paths {
		targets[i].Path = p
	}
	m, err := s.missing(ctx, group, targets)
	if err != nil {
		return err
	}
	return refuseUnsigned(slices.DeleteFunc(paths, func(p nix.Path) bool { return slices.Contains(m.WillSubstitute, p) }))
}

func validSigs(info *nix.PathInfo, keys []nix.PublicKey) (valid []string) {
	one := *info
	for i := range info.Sigs {
		one.Sigs = info.Sigs[i : i+1]
		if _, ok := one.VerifySig(keys); ok {
			valid = append(valid, info.Sigs[i])
		}
	}
	return valid
}

// plan answers POST /v1/plan.
func (s *Service) plan(ctx context.Context, group string, req *wire.PlanRequest) (*wire.Plan, error) {
	c, err := newClosure(req.Roots, req.Closure)
	if err != nil {
		return nil, err
	}
	have, err := s.present(ctx, c)
	if err != nil {
		return nil, err
	}
	p := &wire.Plan{}
	if p.Wanted, p.UploadBytes = wantedOf(c, have); len(p.Wanted) > 0 {
		return p, s.foreseeUnsigned(ctx, group, c, p.Wanted)
	}
	m, err := s.missing(ctx, group, c.roots)
	if err != nil {
		return nil, err
	}
	p.Built = len(m.WillBuild)+len(m.WillSubstitute)+len(m.Unknown) == 0
	p.WillBuild, p.WillSubstitute = texts(m.WillBuild), texts(m.WillSubstitute)
	p.DownloadBytes, p.UnpackBytes = m.DownloadSize, m.NarSize
	if p.Built {
		if p.OutputPaths, p.OutputBytes, err = s.sizeOf(ctx, c.roots); err != nil {
			return nil, err
		}
	}
	return p, nil
}

// sizeOf tells of the closure of the outputs of roots, which are built: its paths
// and the sum of their NAR sizes. Both are 0 when an output's path is only known
// to the daemon.
func (s *Service) sizeOf(ctx context.Context, roots []daemon.DerivedPath) (paths int, bytes uint64, err error) {
	var outputs []nix.Path
	for _, r := range roots {
		d, err := s.readDerivation(r.Path)
		if err != nil {
			return 0, 0, err
		}
		for _, name := range r.Outputs {
			path := d.Outputs[name].Path
			if path == "" {
				return 0, 0, nil
			}
			outputs = append(outputs, path)
		}
	}
	infos, err := s.cache.Closure(ctx, nix.SortedPaths(outputs))
	if err != nil {
		return 0, 0, storeError(err)
	}
	for _, info := range infos {
		bytes += info.NarSize
	}
	return len(infos), bytes, nil
}

func texts(paths []nix.Path) []string {
	all := make([]string, len(paths))
	for i, p := range paths {
		all[i] = string(p)
	}
	return all
}
