package builder

import (
	"cmp"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/drv-thru/drv-thru/core/nix"
	"github.com/drv-thru/drv-thru/core/wire"
)

// kept is an input on the disk: one that is arriving, or what is left of one
// that has been taken.
type kept struct {
	dir, base string
	taken     bool
	used      time.Time
	manifest  int64 // bytes
	spool     int64 // NAR size of one that is arriving
}

func (k *kept) path() (nix.Path, error) { return nix.ParseBase(k.base) }

// list returns what is on the disk in some directories, the last used first,
// and the files in them that belong to nothing.
func (in *incoming) list(want func(dir string) bool) (all []kept, stray []string, err error) {
	dirs, err := os.ReadDir(in.dir)
	if err != nil {
		return nil, nil, err
	}
	for _, d := range dirs {
		if !d.IsDir() || !want(d.Name()) {
			continue
		}
		files, err := os.ReadDir(filepath.Join(in.dir, d.Name()))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, nil, err
		}
		arriving := make(map[string]int64) // size of the spool
		for _, f := range files {
			if base, ok := strings.CutSuffix(f.Name(), endManifest); ok {
				arriving[base] = 0
			}
		}
		for _, f := range files {
			if base, ok := strings.CutSuffix(f.Name(), endSpool); ok && has(arriving, base) {
				if info, err := f.Info(); err == nil {
					arriving[base] = info.Size()
				}
			}
		}
		for _, f := range files {
			i := strings.LastIndexByte(f.Name(), '.')
			base, end := f.Name()[:max(i, 0)], f.Name()[max(i, 0):]
			switch {
			case end == endTaken || end == endManifest:
				if info, err := f.Info(); err == nil {
					all = append(all, kept{
						dir: d.Name(), base: base, taken: end == endTaken,
						used: info.ModTime(), manifest: info.Size(), spool: arriving[base],
					})
				}
			case !has(arriving, base):
				stray = append(stray, filepath.Join(in.dir, d.Name(), f.Name()))
			}
		}
	}
	slices.SortFunc(all, func(a, b kept) int {
		return cmp.Or(b.used.Compare(a.used), strings.Compare(a.base, b.base), strings.Compare(a.dir, b.dir))
	})
	return all, stray, nil
}

func has[K comparable, V any](m map[K]V, k K) bool {
	_, ok := m[k]
	return ok
}

func (in *incoming) name(k *kept) string { return filepath.Join(in.dir, k.dir, k.base) }

// file is the one with the manifest.
func (in *incoming) file(k *kept) string {
	if k.taken {
		return in.name(k) + endTaken
	}
	return in.name(k) + endManifest
}

// idle tells whether nobody is sending the input.
func (in *incoming) idle(k *kept) bool {
	in.mu.Lock()
	defer in.mu.Unlock()
	return k.taken || in.open[in.name(k)] == nil
}

func (in *incoming) removeKept(k *kept) error {
	if k.taken {
		return removeAll(in.file(k))
	}
	name := in.name(k)
	return removeAll(name+endManifest, name+endSpool, name+endHave)
}

// makeRoom removes what a sender used longest ago until it may have more bytes
// of an input that is not complete, which may have begun before. in.disk is held.
func (in *incoming) makeRoom(from sender, beginning string, more uint64) error {
	all, _, err := in.list(from.shares)
	if err != nil {
		return err
	}
	all = slices.DeleteFunc(all, func(k kept) bool { return !k.taken && in.name(&k) == beginning })
	var spool uint64
	var manifests int64
	for i := range all {
		k := &all[i]
		if !k.taken {
			spool += uint64(k.spool)
		}
		manifests += k.manifest
	}
	for i, left := len(all)-1, len(all); i >= 0; i-- {
		if spool+more <= spoolShare && left < manifestsShare && manifests <= manifestBytesShare {
			break
		}
		k := &all[i]
		if !in.idle(k) {
			continue
		}
		if err := in.removeKept(k); err != nil {
			return err
		}
		left--
		if !k.taken {
			spool -= uint64(k.spool)
		}
		manifests -= k.manifest
	}
	if spool+more > spoolShare {
		return wire.Errorf(wire.CodeSpoolLimit, "%d bytes are on their way already; %d more than %d", spool, more, spoolShare).
			WithHint("wait until other uploads of this ticket or client are complete")
	}
	return nil
}

// dropOthers removes what clients with the same ticket had begun to send of an
// input that was taken. in.disk is held.
func (in *incoming) dropOthers(a *intake) error {
	dirs, err := os.ReadDir(in.dir)
	for _, d := range dirs {
		if k := (kept{dir: d.Name(), base: a.info.Path.Base()}); d.IsDir() && a.from.shares(k.dir) && in.idle(&k) {
			err = errors.Join(err, in.removeKept(&k))
		}
	}
	return err
}

// dropIdle removes the spools that nobody is filling.
func (in *incoming) dropIdle() { _, _ = in.prune(func(k *kept) bool { return !k.taken }, false) }

// tidy removes what was not of use for as long as things are kept, what is not
// complete if the disk is full, and what an end of the process at the wrong
// moment left. What was of use far in the future is of a time when the clock was wrong.
// With dryRun it only tells.
func (in *incoming) tidy(keep time.Duration, full, dryRun bool) ([]Garbage, error) {
	now := in.now()
	return in.prune(func(k *kept) bool { return full && !k.taken || now.Sub(k.used).Abs() >= keep }, dryRun)
}

func (in *incoming) prune(drop func(*kept) bool, dryRun bool) (gone []Garbage, failed error) {
	in.disk.Lock()
	defer in.disk.Unlock()
	all, stray, err := in.list(func(string) bool { return true })
	if err != nil {
		return nil, err
	}
	for i := range all {
		k := &all[i]
		if !in.idle(k) || !drop(k) {
			continue
		}
		g := Garbage{GarbageUpload, k.base, k.manifest}
		if !k.taken {
			g.Bytes += diskUse(in.name(k) + endSpool)
		}
		gone = append(gone, g)
		if !dryRun {
			failed = errors.Join(failed, in.removeKept(k))
		}
	}
	if dryRun {
		return gone, nil
	}
	failed = errors.Join(failed, removeAll(stray...))
	dirs, err := os.ReadDir(in.dir)
	for _, d := range dirs {
		if d.IsDir() {
			_ = os.Remove(filepath.Join(in.dir, d.Name())) // fails unless it is empty
		}
	}
	return gone, errors.Join(failed, err)
}
