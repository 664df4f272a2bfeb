//go:build unix

package main

import (
	"fmt"

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
