package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/drv-thru/drv-thru/core/chunk/pack"
)

// inodeBytes is what a free inode counts for where a file system has only so many of
// them: ext4 has one for each 16 KiB.
const inodeBytes = 16 << 10

// freeDisk returns the free bytes of the fullest of the file systems that hold
// the paths.
func freeDisk(paths ...string) (uint64, error) {
	least := ^uint64(0)
	for _, path := range paths {
		free, _, err := pack.FileSystemSpace(path)
		if err != nil {
			return 0, fmt.Errorf("statfs %s: %w", path, err)
		}
		var st unix.Statfs_t
		if err := unix.Statfs(path, &st); err != nil {
			return 0, fmt.Errorf("statfs %s: %w", path, err)
		}
		if st.Files > 0 {
			free = min(free, uint64(max(0, st.Ffree))*inodeBytes)
		}
		least = min(least, free)
	}
	return least, nil
}

// othersDataDir is what to do about a data directory that cannot be written to.
const othersDataDir = "run this as the user that it belongs to, or name another with --data-dir"

// lockDataDir makes sure that one builder at a time has the directory, for as
// long as it lives.
func lockDataDir(dir string) (unlock func(), err error) {
	f, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, &hintError{fmt.Errorf("lock data directory: %w", err), othersDataDir}
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		f.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil, &hintError{fmt.Errorf("another builder runs with the data directory %s", dir), "stop it, or choose another with --data-dir"}
		}
		return nil, fmt.Errorf("lock data directory: %w", err)
	}
	return func() { f.Close() }, nil
}

// makeDataDir makes the data directory. Others may pass through it: the Nix
// daemon follows the links below builds/, and a group may have the admin socket.
func makeDataDir(dir string) error {
	if err := os.MkdirAll(filepath.Join(dir, "builds"), 0o755); err != nil {
		return &hintError{fmt.Errorf("make data directory: %w", err), "name another with --data-dir"}
	}
	return nil
}
