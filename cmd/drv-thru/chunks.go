package main

import (
	"context"
	"crypto/rand"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/drv-thru/drv-thru/core/cache"
	"github.com/drv-thru/drv-thru/core/chunk"
	"github.com/drv-thru/drv-thru/core/chunk/pack"
	"github.com/drv-thru/drv-thru/core/nix"
	"github.com/drv-thru/drv-thru/core/nix/daemon"
	"github.com/drv-thru/drv-thru/core/nix/nar"
	"github.com/drv-thru/drv-thru/core/ticket"
)

// cacheSizeEnv says how large the chunk store may be, of which there is one for all
// commands.
const cacheSizeEnv = envPrefix + "_CACHE_SIZE"

// defaultCacheSize bounds the chunk store when cacheSizeEnv does not say.
const defaultCacheSize = 10 << 30

// cacheSize reads cacheSizeEnv: 0 keeps nothing.
func (a *app) cacheSize() (int64, error) {
	text := strings.TrimSpace(a.env(cacheSizeEnv))
	switch text {
	case "":
		return defaultCacheSize, nil
	case "0":
		return 0, nil
	}
	size, err := ticket.ParseSize(text)
	if err == nil && size == 0 { // "unlimited"
		err = fmt.Errorf("the cache has to have a limit: %q", text)
	}
	if err != nil {
		return 0, &usageError{
			text: fmt.Sprintf("%s: %v", cacheSizeEnv, err),
			hint: "write a size like 500M or 10G; 0 keeps no chunks",
		}
	}
	return int64(size), nil
}

// cacheDir is where this user's drv-thru keeps what can be had again. Who else could
// write there would choose what is removed, and what code of policies is run.
func (a *app) cacheDir() (string, error) {
	base := a.env("XDG_CACHE_HOME")
	if home := a.home(); !filepath.IsAbs(base) && filepath.IsAbs(home) {
		base = filepath.Join(home, ".cache")
	}
	if !filepath.IsAbs(base) {
		return "", fmt.Errorf("neither XDG_CACHE_HOME nor HOME is set")
	}
	dir := filepath.Join(base, "drv-thru")
	var st unix.Stat_t
	if err := unix.Stat(dir, &st); err == nil && (int(st.Uid) != os.Geteuid() || st.Mode&0o022 != 0) {
		return "", fmt.Errorf("others can write to %s; set XDG_CACHE_HOME", dir)
	}
	return dir, nil
}

// chunkDir is the chunk store's directory in the cache directory.
const chunkDir = "chunks"

// chunkCache is what is here of the outputs' chunks.
type chunkCache struct {
	store cache.ChunkStore // nil without one
	seeds cache.SeedFinder
	close func()
}

// openChunks opens the chunk store, once. closeChunks closes it.
func (r *buildRun) openChunks() *chunkCache {
	if r.chunks == nil {
		r.chunks = r.app.openChunks(r.cacheSize, r.view.Note)
	}
	return r.chunks
}

func (r *buildRun) closeChunks() {
	if r.chunks != nil {
		r.chunks.close()
	}
}

// openChunks opens the chunk store; an import does without it if need be.
func (a *app) openChunks(size int64, note func(string)) *chunkCache {
	c := &chunkCache{seeds: &seedFinder{cfg: daemon.Config{Dial: a.storeDialer()}}, close: func() {}}
	if size == 0 {
		return c
	}
	dir, err := a.cacheDir()
	var store *pack.Store
	if err == nil {
		dir = filepath.Join(dir, chunkDir)
		store, err = pack.Open(dir, pack.Config{MaxBytes: size, Now: time.Now, Rand: rand.Reader, Free: pack.FileSystemSpace})
	}
	if err != nil {
		note("importing without the chunk cache: " + err.Error())
		return c
	}
	// What is in it is read while Nix is asked what it has.
	var wg sync.WaitGroup
	wg.Go(func() { store.Has(chunk.ID{}) })
	c.store, c.close = store, func() {
		wg.Wait()
		_ = store.Close()
	}
	return c
}

// seedFinder finds valid paths of the local store that have the name of a wanted
// one: earlier builds of the same thing.
type seedFinder struct {
	cfg daemon.Config

	names []string // of the store's directory, sorted by what follows the hash
	read  time.Time
}

// seedNames is for how long they are good: a mount lasts for months.
const seedNames = 10 * time.Minute

// maxSeedCandidates bounds how many paths of one name are asked about.
const maxSeedCandidates = 64

// Seeds implements [cache.SeedFinder]: the paths that came last are first. It is asked
// for one path at a time.
func (s *seedFinder) Seeds(ctx context.Context, like nix.Path) ([]cache.Seed, error) {
	if time.Since(s.read) > seedNames {
		s.list()
	}
	want := "-" + like.Name()
	i, _ := slices.BinarySearchFunc(s.names, want, func(n, want string) int { return strings.Compare(n[nix.HashPartLen:], want) })
	var paths []nix.Path
	for ; i < len(s.names) && s.names[i][nix.HashPartLen:] == want && len(paths) < maxSeedCandidates; i++ {
		if p, err := nix.ParseBase(s.names[i]); err == nil && p != like {
			paths = append(paths, p)
		}
	}
	if len(paths) == 0 {
		return nil, nil
	}
	infos, err := s.ask(ctx, paths)
	if err != nil {
		return nil, err
	}
	slices.SortStableFunc(infos, func(a, b *nix.PathInfo) int { return int(b.RegistrationTime - a.RegistrationTime) })
	var out []cache.Seed
	for _, info := range infos[:min(len(infos), 2)] {
		if seed, err := openSeed(ctx, info); err == nil {
			out = append(out, seed)
		}
	}
	return out, nil
}

func (s *seedFinder) list() {
	s.names, s.read = nil, time.Now()
	d, err := os.Open(nix.StoreDir)
	if err != nil {
		return
	}
	defer d.Close()
	s.names, _ = d.Readdirnames(-1)
	s.names = slices.DeleteFunc(s.names, func(n string) bool { return len(n) <= nix.HashPartLen })
	slices.SortFunc(s.names, func(a, b string) int { return strings.Compare(a[nix.HashPartLen:], b[nix.HashPartLen:]) })
}

// ask returns the infos of those paths that are valid.
func (s *seedFinder) ask(ctx context.Context, paths []nix.Path) ([]*nix.PathInfo, error) {
	conn, err := daemon.Dial(ctx, s.cfg)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	infos, err := conn.QueryPathInfos(ctx, paths)
	if err != nil {
		return nil, err
	}
	return slices.DeleteFunc(infos, func(i *nix.PathInfo) bool { return i == nil }), nil
}

func openSeed(ctx context.Context, info *nix.PathInfo) (cache.Seed, error) {
	layout, err := nar.Scan(ctx, string(info.Path))
	if err != nil {
		return cache.Seed{}, err
	}
	refs := chunk.RefsOf(info.Path, info.References)
	return cache.Seed{NAR: layout, Size: layout.Size(), Refs: refs, Close: layout.Close}, nil
}
