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
// store and what says what is in it, what mounts have kept and compiled policies, all of
// which can be had again, and the places of mounts whose process is gone. What a running drv-thru writes to stays. With dryRun
// it only tells.
func (a *app) gcClient(ctx context.Context, dryRun bool) ([]builder.Garbage, error) {
	items := []builder.Garbage{}
	var failed []error
	if base, err := a.cacheDir(); err == nil {
		chunks, err := gcChunks(ctx, filepath.Join(base, chunkDir), dryRun)
		items, failed = append(items, chunks...), append(failed, err)
		kept, err := gcMounted(ctx, filepath.Join(base, mountCacheDir), dryRun)
		items, failed = append(items, kept...), append(failed, err)
		outputs, err := gcWhole(ctx, filepath.Join(base, outputsDir), "imported", dryRun)
		items, failed = append(items, outputs...), append(failed, err)
		compiled, err := gcWhole(ctx, a.policyCache(), "policy", dryRun)
		items, failed = append(items, compiled...), append(failed, err)
	}
	// Asking for the directory makes it.
	if dir, err := a.runtimeDir(); err == nil {
		items = append(items, gcMounts(dir, dryRun)...)
	}
	return items, errors.Join(append(failed, ctx.Err())...)
}

// gcBelow has gc look at what is in a directory, which may not be there yet, and
// returns what that tells of. An item without a What is none.
func gcBelow(ctx context.Context, dir string, gc func(e os.DirEntry, path string) (builder.Garbage, error)) ([]builder.Garbage, error) {
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	var items []builder.Garbage
	var failed []error
	for _, e := range entries {
		if ctx.Err() != nil {
			break
		}
		item, err := gc(e, filepath.Join(dir, e.Name()))
		failed = append(failed, err)
		if item.What != "" {
			items = append(items, item)
		}
	}
	return items, errors.Join(failed...)
}

// gcChunks removes the files of a chunk store. Those that other processes read
// stay theirs until they close them.
func gcChunks(ctx context.Context, dir string, dryRun bool) ([]builder.Garbage, error) {
	return gcBelow(ctx, dir, func(e os.DirEntry, path string) (builder.Garbage, error) {
		info, err := e.Info()
		base, _, _ := strings.Cut(e.Name(), ".")
		if err != nil || !info.Mode().IsRegular() || locked(filepath.Join(dir, base+".pack")) {
			return builder.Garbage{}, nil
		}
		if !dryRun {
			if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return builder.Garbage{}, err
			}
		}
		return builder.Garbage{What: "chunks", Name: path, Bytes: info.Size()}, nil
	})
}

// gcMounted empties the directories in which drv-thru mount keeps what was read, one
// for each builder, but for those of mounts that run.
func gcMounted(ctx context.Context, dir string, dryRun bool) ([]builder.Garbage, error) {
	return gcBelow(ctx, dir, func(e os.DirEntry, path string) (item builder.Garbage, err error) {
		if !e.IsDir() {
			return item, nil
		}
		bytes, err := fusecache.EmptyDisk(path, dryRun)
		if bytes > 0 {
			item = builder.Garbage{What: "mounted", Name: path, Bytes: bytes}
		}
		if errors.Is(err, fusecache.ErrDiskInUse) {
			err = nil
		}
		return item, err
	})
}

// gcWhole removes all that is in a directory: what was compiled of modules, of which an
// author makes another with each change, and what says which chunks outputs are made of.
// Who looks for it meanwhile compiles the module, or asks the builder.
func gcWhole(ctx context.Context, dir, what string, dryRun bool) ([]builder.Garbage, error) {
	return gcBelow(ctx, dir, func(_ os.DirEntry, path string) (builder.Garbage, error) {
		item := builder.Garbage{What: what, Name: path, Bytes: builder.BytesBelow(path)}
		if !dryRun {
			if err := os.RemoveAll(path); err != nil {
				return builder.Garbage{}, err
			}
		}
		return item, nil
	})
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
