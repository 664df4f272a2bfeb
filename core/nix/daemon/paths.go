package daemon

import (
	"fmt"
	"slices"
	"strings"

	"github.com/drv-thru/drv-thru/core/nix"
)

func (d *decoder) path() nix.Path {
	s := d.string(maxPathLen, "store path")
	if d.err != nil {
		return ""
	}
	p, err := nix.ParsePath(s)
	if err != nil {
		d.malformed("%v", err)
	}
	return p
}

// optPath reads a path or the empty string.
func (d *decoder) optPath() nix.Path {
	s := d.string(maxPathLen, "store path")
	if s == "" {
		return ""
	}
	p, err := nix.ParsePath(s)
	if err != nil {
		d.malformed("%v", err)
	}
	return p
}

// paths reads a set of paths and returns it sorted.
func (d *decoder) paths() []nix.Path {
	n := d.count(MaxPaths, "store paths")
	var ps []nix.Path
	for range n {
		if p := d.path(); d.err == nil {
			ps = append(ps, p)
		} else {
			return nil
		}
	}
	return nix.SortedPaths(ps)
}

func (e *encoder) paths(ps []nix.Path) {
	e.u64(uint64(len(ps)))
	for _, p := range ps {
		e.string(string(p))
	}
}

// unkeyedInfo reads a path info without its path (Nix UnkeyedValidPathInfo).
func (d *decoder) unkeyedInfo(p nix.Path) *nix.PathInfo {
	info := &nix.PathInfo{Path: p, Deriver: d.optPath()}
	hash := d.string(maxName, "NAR hash")
	info.References = d.paths()
	info.RegistrationTime = int64(d.u64())
	info.NarSize = d.u64()
	info.Ultimate = d.bool()
	info.Sigs = d.strings(maxFeatures, maxName, "signature")
	info.CA = d.string(maxName, "content address")
	if d.err != nil {
		return nil
	}
	var err error
	if info.NarHash, err = nix.ParseHashHex(hash); err != nil {
		d.malformed("%v", err)
		return nil
	}
	return info
}

// info writes a path info in the form of AddMultipleToStore, which is the
// ValidPathInfo of protocol 1.16 whatever was negotiated. The registration time
// is left to the daemon and a path that is sent to it was not built there.
func (e *encoder) info(i *nix.PathInfo) {
	e.string(string(i.Path))
	e.string(string(i.Deriver))
	e.string(i.NarHash.Hex())
	e.paths(nix.SortedPaths(i.References))
	e.u64(0) // registration time
	e.u64(i.NarSize)
	e.bool(false) // ultimate
	e.strings(i.Sigs)
	e.string(i.CA)
}

// AllOutputs in DerivedPath.Outputs stands for every output.
const AllOutputs = "*"

// DerivedPath is something that can be realised: a store path as it is, or
// outputs of a derivation.
type DerivedPath struct {
	Path nix.Path
	// Outputs are names of outputs of the derivation Path, or just AllOutputs.
	// Empty means Path itself, which the daemon may substitute but not build.
	Outputs []string
}

// String returns the form that the protocol has used since 1.30 (Nix
// libstore/derived-path.cc, to_string_legacy): <path>, <path>!<out>,<out> or
// <path>!*.
func (p DerivedPath) String() string {
	if len(p.Outputs) == 0 {
		return string(p.Path)
	}
	outs := slices.Clone(p.Outputs)
	slices.Sort(outs)
	return string(p.Path) + "!" + strings.Join(slices.Compact(outs), ",")
}

// ParseDerivedPath reads what String returns.
func ParseDerivedPath(s string) (DerivedPath, error) {
	base, outs, ok := strings.Cut(s, "!")
	p, err := nix.ParsePath(base)
	if err != nil {
		return DerivedPath{}, err
	}
	dp := DerivedPath{Path: p}
	if ok {
		dp.Outputs = strings.Split(outs, ",")
	}
	return dp, dp.check()
}

func (p DerivedPath) check() error {
	if _, err := nix.ParsePath(string(p.Path)); err != nil {
		return err
	}
	if len(p.Outputs) > 0 && !p.Path.IsDrv() {
		return fmt.Errorf("outputs of %s, which is not a derivation", p.Path)
	}
	for _, o := range p.Outputs {
		if o == AllOutputs && len(p.Outputs) == 1 {
			break
		}
		if err := nix.CheckName(o); err != nil {
			return fmt.Errorf("output %q of %s: %w", o, p.Path, err)
		}
	}
	return nil
}

func checkDerived(ps []DerivedPath) error {
	for _, p := range ps {
		if err := p.check(); err != nil {
			return err
		}
	}
	return nil
}

func (d *decoder) derivedPath() DerivedPath {
	s := d.string(maxDerived, "derived path")
	if d.err != nil {
		return DerivedPath{}
	}
	p, err := ParseDerivedPath(s)
	if err != nil {
		d.malformed("%v", err)
	}
	return p
}

func (e *encoder) derivedPaths(ps []DerivedPath) {
	e.u64(uint64(len(ps)))
	for _, p := range ps {
		e.string(p.String())
	}
}
