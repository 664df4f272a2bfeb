package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// freeDisk returns the free bytes of the fullest of the file systems that hold
// the paths.
func freeDisk(paths ...string) (uint64, error) {
	least := ^uint64(0)
	for _, path := range paths {
		var st unix.Statfs_t
		if err := unix.Statfs(path, &st); err != nil {
			return 0, fmt.Errorf("statfs %s: %w", path, err)
		}
		least = min(least, uint64(st.Bavail)*uint64(st.Bsize)) //nolint:unconvert // signed on some systems
	}
	return least, nil
}

// lockDataDir makes sure that one builder at a time has the directory, for as
// long as it lives.
func lockDataDir(dir string) (unlock func(), err error) {
	f, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock data directory: %w", err)
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
