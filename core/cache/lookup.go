package cache

import (
	"cmp"
	"context"
	"fmt"
	"io/fs"
	"slices"

	"github.com/drv-thru/drv-thru/core/nix"
)

const (
	// defaultMaxPaths is how many paths a View with a Lookup remembers.
	defaultMaxPaths = 20_000
	// averageInfo is how many bytes their narinfos may have on average: one may have
	// 8 MiB, most have less than 1 KiB.
	averageInfo = 4 << 10
)

// lookedUp is a path that was looked up.
type lookedUp struct {
	at    uint64 // the value of View.uses then
	bytes int    // of its narinfo
}

// lookup asks ViewConfig.Lookup for the narinfo of a path, by the hash part, and
// takes it in. The answer "no" is not remembered, and takes back an earlier "yes".
func (v *View) lookup(ctx context.Context, hash string) error {
	// The builder takes what is no name of a path for its own failure.
	if _, err := nix.ParseBase(hash + "-x"); err != nil || len(hash) != nix.HashPartLen {
		return fs.ErrNotExist
	}
	v.mu.Lock()
	_, known := v.infos[hash]
	_, looked := v.used[hash]
	v.mu.Unlock()
	if known && !looked {
		return nil // it was added
	}
	ctx, cancel := context.WithTimeout(ctx, v.cfg.ReadTimeout)
	defer cancel()
	defer context.AfterFunc(v.ctx, cancel)()
	text, err := v.cfg.Lookup(ctx, hash)
	if err != nil {
		v.mu.Lock()
		defer v.mu.Unlock()
		v.unlook(hash)
		return err
	}
	infos, err := parseNarInfos([]string{text}, v.keys)
	if err != nil {
		return err
	}
	if got := infos[0].Path; got.Hash() != hash {
		return fmt.Errorf("%w: asked for %s, got %s", ErrNarInfo, hash, got)
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.closed {
		return fs.ErrClosed
	}
	// It may have other signatures now, or another build of it may be there.
	v.unlook(hash)
	added := len(v.paths)
	err = v.add(infos)
	v.paths = v.paths[:added]
	if err != nil {
		return err
	}
	v.uses++
	v.used[hash] = lookedUp{v.uses, len(text)}
	v.looked += len(text)
	// Paths that have other NARs each time do not become more, but their NARs do.
	if len(v.used) > v.cfg.MaxPaths || v.looked > v.cfg.MaxPaths*averageInfo || len(v.order)-len(v.paths) > 2*v.cfg.MaxPaths {
		v.prune()
	}
	return nil
}

// unlook forgets the narinfo of a path that was looked up, if it is known; v.mu is
// held.
func (v *View) unlook(hash string) {
	v.looked -= v.used[hash].bytes
	delete(v.infos, hash)
	delete(v.used, hash)
}

// prune forgets the paths that were looked up longest ago, a quarter of what may
// be remembered but never the last, with those of their NARs that nobody uses; v.mu
// is held.
func (v *View) prune() {
	type use struct {
		hash string
		at   uint64
	}
	all := make([]use, 0, len(v.used))
	for hash, u := range v.used {
		all = append(all, use{hash, u.at})
	}
	slices.SortFunc(all, func(a, b use) int { return cmp.Compare(a.at, b.at) })
	most := v.cfg.MaxPaths * 3 / 4
	for len(all) > 1 && (len(all) > most || v.looked > most*averageInfo) {
		v.unlook(all[0].hash)
		all = all[1:]
	}
	kept := make(map[string]bool, len(v.infos))
	for _, info := range v.infos {
		kept[info.NarHash.Nix32()] = true
	}
	busy := make(map[*narState]bool)
	for r := range v.runs {
		busy[r.nar] = true
		for _, w := range r.todo {
			busy[w.nar] = true
		}
	}
	var start int64
	order := v.order[:0]
	for i, n := range v.order {
		if !kept[n.hash] && i >= v.expected && !busy[n] && len(n.files) == 0 && len(n.waiters) == 0 {
			segs := n.segs
			n.segs = nil
			for _, s := range segs {
				v.drop(s)
			}
			delete(v.nars, n.hash)
			continue
		}
		n.index, n.start = len(order), start
		start += n.size
		order = append(order, n)
	}
	clear(v.order[len(order):])
	v.order = order
}
