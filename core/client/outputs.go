package client

import (
	"context"
	"fmt"
	"time"

	"github.com/drv-thru/drv-thru/core/nix"
	"github.com/drv-thru/drv-thru/core/wire"
)

// slowSubstituters is after how long the local Nix's substituters are named as what is
// waited for: of those that do not answer, Nix tries each several times.
const slowSubstituters = 3 * time.Second

// WantedOutputs maps what the builder says that it built to the roots that were
// asked for. known are the output paths that the evaluation already told; a
// builder cannot answer with others, and an output whose path only the build
// tells must at least have the name that it would have.
func WantedOutputs(roots []wire.Root, known map[nix.Path]map[string]nix.Path, result *wire.Result) (map[nix.Path]map[string]nix.Path, error) {
	out := make(map[nix.Path]map[string]nix.Path, len(roots))
	said := make(map[string]map[string]string, len(roots))
	for _, o := range result.Outputs {
		if said[o.Drv] == nil {
			said[o.Drv] = make(map[string]string)
		}
		said[o.Drv][o.Name] = o.Path
	}
	for _, r := range roots {
		drv := nix.Path(r.Drv)
		if out[drv] == nil {
			out[drv] = make(map[string]nix.Path, len(r.Outputs))
		}
		for _, name := range r.Outputs {
			text, ok := said[r.Drv][name]
			if !ok {
				return nil, protocolErrorf("it says that it built %s but not what its output %s is", r.Drv, name)
			}
			p, err := nix.ParsePath(text)
			if err != nil {
				return nil, protocolErrorf("output %s of %s: %v", name, r.Drv, err)
			}
			want := known[drv][name]
			switch {
			case want == p:
			case want != "":
				return nil, protocolErrorf("output %s of %s is %s, it answered %s", name, r.Drv, want, p)
			case p.Name() != outputName(drv, name):
				return nil, protocolErrorf("output %s of %s cannot be %s", name, r.Drv, p)
			}
			out[drv][name] = p
		}
	}
	return out, nil
}

// outputName is the name of a derivation's output as it stands in its store path.
func outputName(drv nix.Path, output string) string {
	name := drv.Name()
	name = name[:len(name)-len(".drv")]
	if output == "out" {
		return name
	}
	return name + "-" + output
}

// ParseClosure reads the narinfos of a builder's answer. What they say is
// checked by [CheckClosure], their signatures by whoever makes use of them.
func ParseClosure(c *wire.Closure) ([]nix.PathInfo, error) {
	if len(c.NarInfos) > wire.MaxClosurePaths {
		return nil, protocolErrorf("the closure has %d paths, more than %d", len(c.NarInfos), wire.MaxClosurePaths)
	}
	infos := make([]nix.PathInfo, len(c.NarInfos))
	for i, text := range c.NarInfos {
		if len(text) > wire.MaxNarInfo {
			return nil, protocolErrorf("a narinfo has %d bytes, more than %d", len(text), wire.MaxNarInfo)
		}
		var err error
		if infos[i], err = nix.ParseNarInfo([]byte(text)); err != nil {
			return nil, protocolErrorf("a narinfo cannot be read: %v", err)
		}
	}
	return infos, nil
}

// CheckClosure makes sure that infos, which a builder sent, are the closure of
// roots and nothing else: each path once, references before referrers, nothing
// missing, nothing that no root refers to. Signatures are the business of whoever
// made infos.
func CheckClosure(infos []nix.PathInfo, roots []nix.Path) error {
	index := make(map[nix.Path]int, len(infos))
	for i, info := range infos {
		if _, ok := index[info.Path]; ok {
			return protocolErrorf("%s is twice in the closure", info.Path)
		}
		index[info.Path] = i
		for _, r := range info.References {
			if _, ok := index[r]; !ok {
				return protocolErrorf("%s comes before %s, which it refers to, or without it", info.Path, r)
			}
		}
	}
	reached := make([]bool, len(infos))
	for _, r := range roots {
		i, ok := index[r]
		if !ok {
			return protocolErrorf("%s is not in its own closure", r)
		}
		reached[i] = true
	}
	// Referrers come last, so one pass from the end reaches everything.
	for i := len(infos) - 1; i >= 0; i-- {
		if !reached[i] {
			return protocolErrorf("%s is in the closure although nothing refers to it", infos[i].Path)
		}
		for _, r := range infos[i].References {
			reached[index[r]] = true
		}
	}
	return nil
}

// Missing is what the local store lacks of a closure.
type Missing struct {
	// Fetch are the paths to be had from the builder, in the closure's order:
	// references before referrers.
	Fetch []nix.PathInfo
	// Tops are those of them that no other refers to: importing them, with what
	// they refer to, imports all.
	Tops []nix.Path
	// Bytes is the sum of their NAR sizes.
	Bytes int64
	// Substituted counts the paths that came from the local Nix's own substituters.
	Substituted int
}

// FindMissing compares a checked closure with the local store. known tells of paths
// that were asked about already, and are kept since, whether they are valid. With
// substitute, what the local Nix can have from its own substituters is brought in from
// there first: nobody's home line carries what a public cache has. When that
// fails, those paths are fetched too.
func FindMissing(ctx context.Context, store Store, infos []nix.PathInfo, known map[nix.Path]bool, substitute bool, note func(string)) (*Missing, error) {
	lacking, err := invalid(ctx, store, infos, known)
	if err != nil {
		return nil, err
	}
	m := &Missing{}
	if substitute && len(lacking) > 0 {
		n := len(lacking)
		if lacking, err = substituted(ctx, store, lacking, note); err != nil {
			return nil, err
		}
		m.Substituted = n - len(lacking)
	}
	for _, info := range lacking {
		m.Bytes += int64(info.NarSize)
	}
	m.Tops = nix.Tops(lacking)
	m.Fetch = lacking
	return m, nil
}

// substituted brings in what can be had elsewhere and returns what still lacks.
func substituted(ctx context.Context, store Store, lacking []nix.PathInfo, note func(string)) ([]nix.PathInfo, error) {
	slow := time.AfterFunc(slowSubstituters, func() {
		note("waiting for this machine's own substituters, which may have the outputs (--no-substitute leaves them out)")
	})
	defer slow.Stop()
	have, err := store.Substitutable(ctx, nix.PathsOf(lacking))
	if err == nil && len(have) > 0 {
		err = store.Substitute(ctx, have)
	}
	switch {
	case ctx.Err() != nil:
		return nil, context.Cause(ctx)
	case err != nil:
		note("the local substituters failed, fetching everything from the builder: " + err.Error())
	case len(have) == 0:
		return lacking, nil
	}
	return invalid(ctx, store, lacking, nil)
}

// invalid returns those of the paths that are not in the local store, which is asked
// about what is not known.
func invalid(ctx context.Context, store Store, infos []nix.PathInfo, known map[nix.Path]bool) ([]nix.PathInfo, error) {
	var ask []nix.Path
	for _, info := range infos {
		if _, ok := known[info.Path]; !ok {
			ask = append(ask, info.Path)
		}
	}
	has := make(map[nix.Path]bool, len(ask))
	if len(ask) > 0 {
		valid, err := store.ValidPaths(ctx, ask)
		if err != nil {
			return nil, fmt.Errorf("ask the local Nix what it has: %w", err)
		}
		for _, p := range valid {
			has[p] = true
		}
	}
	var out []nix.PathInfo
	for _, info := range infos {
		if !known[info.Path] && !has[info.Path] {
			out = append(out, info)
		}
	}
	return out, nil
}
