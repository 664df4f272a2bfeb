//go:build unix

package fusecache

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// lockFile takes the file for this process, for as long as it is open.
func lockFile(f *os.File) error {
	err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) {
		return ErrDiskInUse
	}
	return err
}

// awaitLock waits until no process has the file.
func awaitLock(f *os.File) error { return unix.Flock(int(f.Fd()), unix.LOCK_SH) }

// ownedBySelf fails for what belongs to another user, who could put something else in
// its place at any time.
func ownedBySelf(info fs.FileInfo) error {
	if st, ok := info.Sys().(*syscall.Stat_t); ok && int(st.Uid) != os.Geteuid() {
		return fmt.Errorf("%s belongs to user %d", info.Name(), st.Uid)
	}
	return nil
}
