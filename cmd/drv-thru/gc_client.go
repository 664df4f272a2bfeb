package main

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/drv-thru/drv-thru/core/builder"
	"github.com/drv-thru/drv-thru/fusecache"
)

// gcClient removes what this user's builds have left and nobody needs: the chunk
// store, what mounts have kept and compiled policies, all of which can be had again,
// and the places of mounts whose process is gone. What a running drv-thru writes to stays. With dryRun
// it only tells.
func (a *app) gcClient(ctx context.Context, dryRun bool) ([]builder.Garbage, error) {
	items := []builder.Garbage{}
	var failed []error
	if base, err := a.cacheDir(); err == nil {
		chunks, err := gcChunks(ctx, filepath.Join(base, chunkDir), dryRun)
		items, failed = append(items, chunks...), append(failed, err)
		kept, err := gcMounted(ctx, filepath.Join(base, mountCacheDir), dryRun)
		items, failed = append(items, kept...), append(failed, err)
		compiled, err := gcPolicies(a.policyCache(), dryRun)
		items, failed = append(items, compiled...), append(failed, err)
	}
	// Asking for the directory makes it.
	if dir, err := a.runtimeDir(); err == nil {
		items = append(items, gcMounts(dir, dryRun)...)
	}
	return items, errors.Join(append(failed, ctx.Err())...)
}

// gcChunks removes the files of a chunk store. Those that other processes read
// stay theirs until they close them.
func gcChunks(ctx context.Context, dir string, dryRun bool) ([]builder.Garbage, error) {
	entries, err := entriesOf(dir)
	if err != nil {
		return nil, err
	}
	var items []builder.Garbage
	var failed []error
	busy := make(map[string]bool) // names without their ending
	for _, e := range entries {
		if name, ok := strings.CutSuffix(e.Name(), ".pack"); ok && locked(filepath.Join(dir, e.Name())) {
			busy[name] = true
		}
	}
	for _, e := range entries {
		info, err := e.Info()
		base, _, _ := strings.Cut(e.Name(), ".")
		if ctx.Err() != nil || err != nil || !info.Mode().IsRegular() || busy[base] {
			continue
		}
		path := filepath.Join(dir, e.Name())
		if !dryRun {
			if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
				failed = append(failed, err)
				continue
			}
		}
		items = append(items, builder.Garbage{What: "chunks", Name: path, Bytes: info.Size()})
	}
	return items, errors.Join(failed...)
}

// gcMounted empties the directories in which drv-thru mount keeps what was read, one
// for each builder, but for those of mounts that run.
func gcMounted(ctx context.Context, dir string, dryRun bool) ([]builder.Garbage, error) {
	entries, err := entriesOf(dir)
	if err != nil {
		return nil, err
	}
	var items []builder.Garbage
	var failed []error
	for _, e := range entries {
		if ctx.Err() != nil || !e.IsDir() {
			continue
		}
		path := filepath.Join(dir, e.Name())
		bytes, err := fusecache.EmptyDisk(path, dryRun)
		if err != nil && !errors.Is(err, fusecache.ErrDiskInUse) {
			failed = append(failed, err)
		}
		if bytes > 0 {
			items = append(items, builder.Garbage{What: "mounted", Name: path, Bytes: bytes})
		}
	}
	return items, errors.Join(failed...)
}

// gcPolicies removes what was compiled of modules, of which an author makes another
// with each change. Who loads one meanwhile compiles it.
func gcPolicies(dir string, dryRun bool) ([]builder.Garbage, error) {
	entries, err := entriesOf(dir)
	if err != nil {
		return nil, err
	}
	var items []builder.Garbage
	var failed []error
	for _, e := range entries {
		path := filepath.Join(dir, e.Name())
		item := builder.Garbage{What: "policy", Name: path, Bytes: builder.BytesBelow(path)}
		if !dryRun {
			if err := os.RemoveAll(path); err != nil {
				failed = append(failed, err)
				continue
			}
		}
		items = append(items, item)
	}
	return items, errors.Join(failed...)
}

// entriesOf reads a directory, which may not be there yet.
func entriesOf(dir string) ([]os.DirEntry, error) {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	return entries, err
}

// gcMounts takes away what killed clients left mounted.
func gcMounts(dir string, dryRun bool) []builder.Garbage {
	locks, err := filepath.Glob(filepath.Join(dir, "mount-*"+lockSuffix))
	if err != nil {
		return nil
	}
	var stale []builder.Garbage
	for _, name := range locks {
		if !locked(name) {
			stale = append(stale, builder.Garbage{What: "mount", Name: strings.TrimSuffix(name, lockSuffix)})
		}
	}
	if dryRun {
		return stale
	}
	sweep(dir, fusecache.ClearStale)
	var gone []builder.Garbage
	for _, item := range stale {
		if _, err := os.Lstat(item.Name + lockSuffix); errors.Is(err, fs.ErrNotExist) {
			gone = append(gone, item)
		}
	}
	return gone
}

// locked reports whether a process holds a lock on a file.
func locked(path string) bool {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return false
	}
	defer f.Close()
	return errors.Is(unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB), unix.EWOULDBLOCK)
}
