package cache

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/drv-thru/drv-thru/core/nix"
)

const (
	// DefaultIndexBytes is what an Index holds at most: the manifests and
	// layouts of about a terabyte of NARs.
	DefaultIndexBytes = 1 << 30
	// indexVersion names the directory of the format that index_file.go writes.
	// Whatever else lies beside it is of another drv-thru and is removed.
	indexVersion = "v1"
	// touchEvery is how exactly the last use of a file is known after a restart.
	touchEvery = time.Hour
	// diskBlock is what a file's size is rounded up to.
	diskBlock = 4 << 10
)

// IndexConfig makes an Index.
type IndexConfig struct {
	Dir string
	// MaxBytes is what it may take on disk, default DefaultIndexBytes.
	MaxBytes int64
	Now      func() time.Time
	Log      *slog.Logger // default: none
}

// Index keeps on disk what it takes work to find out about a NAR: where its
// chunks begin, what they are, and where on disk their bytes lie. One file for
// each store path, named like it; nothing of the NAR itself. A file that cannot
// be used is removed, and what it said is found out again: nothing is ever lost
// with it. Safe for concurrent use; one process at a time has a directory.
type Index struct {
	dir string
	max int64
	now func() time.Time
	log *slog.Logger

	mu    sync.Mutex
	files map[nix.Path]*indexFile
	bytes int64
	temp  uint64
}

type indexFile struct {
	size    int64 // on disk
	used    time.Time
	touched time.Time // the file's own time
}

// OpenIndex opens the index in a directory, which it makes.
func OpenIndex(cfg IndexConfig) (*Index, error) {
	x := &Index{
		dir: filepath.Join(cfg.Dir, indexVersion), max: cmp.Or(cfg.MaxBytes, DefaultIndexBytes),
		now: cfg.Now, log: cfg.Log, files: make(map[nix.Path]*indexFile),
	}
	if x.log == nil {
		x.log = slog.New(slog.DiscardHandler)
	}
	if err := os.MkdirAll(x.dir, 0o700); err != nil {
		return nil, fmt.Errorf("open index: %w", err)
	}
	others, err := os.ReadDir(cfg.Dir)
	if err != nil {
		return nil, fmt.Errorf("open index: %w", err)
	}
	for _, o := range others {
		if o.Name() != indexVersion {
			if err := os.RemoveAll(filepath.Join(cfg.Dir, o.Name())); err != nil {
				return nil, fmt.Errorf("open index: %w", err)
			}
		}
	}
	entries, err := os.ReadDir(x.dir)
	if err != nil {
		return nil, fmt.Errorf("open index: %w", err)
	}
	for _, e := range entries {
		if err := x.take(e); err != nil {
			return nil, fmt.Errorf("open index: %w", err)
		}
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	x.shrink()
	return x, nil
}

// take notes a file that is there, or removes it when it is none of ours: what
// was being written when the process died.
func (x *Index) take(e fs.DirEntry) error {
	path, err := nix.ParseBase(e.Name())
	info, statErr := e.Info()
	if err != nil || statErr != nil || !info.Mode().IsRegular() {
		return os.RemoveAll(filepath.Join(x.dir, e.Name()))
	}
	f := &indexFile{size: onDisk(info.Size()), used: info.ModTime(), touched: info.ModTime()}
	x.files[path] = f
	x.bytes += f.size
	return nil
}

func onDisk(size int64) int64 { return (size + diskBlock - 1) &^ (diskBlock - 1) }

func (x *Index) file(path nix.Path) string { return filepath.Join(x.dir, path.Base()) }

// Usage returns how many files there are and what they take on disk.
func (x *Index) Usage() (files int, bytes int64) {
	x.mu.Lock()
	defer x.mu.Unlock()
	return len(x.files), x.bytes
}

// has tells whether anything is known of a path.
func (x *Index) has(path nix.Path) bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.files[path] != nil
}

// load reads what is known of a path, nil when that is nothing.
func (x *Index) load(info nix.PathInfo) *known {
	x.mu.Lock()
	f := x.files[info.Path]
	x.mu.Unlock()
	if f == nil {
		return nil
	}
	k, err := readKnown(x.file(info.Path))
	if err == nil && !k.of(info) {
		err = errors.New("it is of another path of that name")
	}
	if err != nil {
		x.log.Warn("index entry is useless and was removed", "path", info.Path, "err", err)
		x.drop(info.Path)
		return nil
	}
	now := x.now()
	x.mu.Lock()
	f.used = now
	stale := now.Sub(f.touched) >= touchEvery
	if stale {
		f.touched = now
	}
	x.mu.Unlock()
	if stale {
		_ = os.Chtimes(x.file(info.Path), now, now) // it is only an order of use
	}
	return k
}

// store keeps what was found out.
func (x *Index) store(k *known) error {
	x.mu.Lock()
	x.temp++
	temp := filepath.Join(x.dir, fmt.Sprintf(".new-%d", x.temp))
	x.mu.Unlock()
	size, err := writeKnown(temp, k)
	if err == nil {
		err = os.Rename(temp, x.file(k.info.Path))
	}
	if err != nil {
		return fmt.Errorf("write index: %w", errors.Join(err, removeIfThere(temp)))
	}
	now := x.now()
	x.mu.Lock()
	defer x.mu.Unlock()
	if old := x.files[k.info.Path]; old != nil {
		x.bytes -= old.size
	}
	x.files[k.info.Path] = &indexFile{size: onDisk(size), used: now, touched: now}
	x.bytes += onDisk(size)
	x.shrink()
	return nil
}

// shrink removes what was used longest ago until there is room again, and a
// tenth more, so that it is not called for each file. x.mu is held.
func (x *Index) shrink() {
	if x.bytes <= x.max {
		return
	}
	paths := slices.Collect(maps.Keys(x.files))
	slices.SortFunc(paths, func(a, b nix.Path) int { return x.files[a].used.Compare(x.files[b].used) })
	for _, p := range paths {
		if x.bytes <= x.max-x.max/10 {
			return
		}
		x.remove(p)
	}
}

// drop forgets a path.
func (x *Index) drop(path nix.Path) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.remove(path)
}

func (x *Index) remove(path nix.Path) {
	f := x.files[path]
	if f == nil {
		return
	}
	delete(x.files, path)
	x.bytes -= f.size
	if err := removeIfThere(x.file(path)); err != nil {
		x.log.Warn("remove index entry", "path", path, "err", err)
	}
}

func removeIfThere(name string) error {
	if err := os.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// sweepBatch is how many paths are asked about at once.
const sweepBatch = 1000

// Swept is an index entry of a path that is no longer there.
type Swept struct {
	Path  nix.Path
	Bytes int64
}

// Sweep finds the entries of paths that are not valid any more, and removes them
// unless dryRun is set.
func (x *Index) Sweep(ctx context.Context, valid func(context.Context, []nix.Path) ([]nix.Path, error), dryRun bool) ([]Swept, error) {
	x.mu.Lock()
	paths := slices.Collect(maps.Keys(x.files))
	x.mu.Unlock()
	slices.Sort(paths)
	var gone []Swept
	for batch := range slices.Chunk(paths, sweepBatch) {
		alive, err := valid(ctx, batch)
		if err != nil {
			return gone, fmt.Errorf("sweep index: %w", err)
		}
		alive = nix.SortedPaths(alive)
		for _, p := range batch {
			if _, ok := slices.BinarySearch(alive, p); ok {
				continue
			}
			x.mu.Lock()
			size := int64(0)
			if f := x.files[p]; f != nil {
				size = f.size
			}
			if !dryRun {
				x.remove(p)
			}
			x.mu.Unlock()
			gone = append(gone, Swept{p, size})
		}
	}
	return gone, nil
}
