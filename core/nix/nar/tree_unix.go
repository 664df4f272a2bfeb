//go:build linux || darwin || freebsd

package nar

import (
	"fmt"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"
)

// O_NONBLOCK: a pipe that took a file's place must not make the open wait.
const openFlags = os.O_RDONLY | unix.O_NOFOLLOW | unix.O_NONBLOCK

// statAll stats the names relative to the open directory: no walk of the path
// for each, and no way out of it.
func (t *tree) statAll(d *os.File, _ string, names []string, entries []stat) error {
	fd := int(d.Fd())
	var buf [MaxTargetLen + 1]byte
	for i, name := range names {
		var st unix.Stat_t
		if err := fstatat(fd, name, &st); err != nil {
			return &fs.PathError{Op: "lstat", Path: name, Err: err}
		}
		e := &entries[i]
		e.name, e.size = name, st.Size
		e.executable = st.Mode&unix.S_IXUSR != 0
		switch st.Mode & unix.S_IFMT {
		case unix.S_IFREG:
		case unix.S_IFDIR:
			e.mode = fs.ModeDir
		case unix.S_IFLNK:
			e.mode = fs.ModeSymlink
			n, err := unix.Readlinkat(fd, name, buf[:])
			if err != nil {
				return &fs.PathError{Op: "readlink", Path: name, Err: err}
			}
			if n == 0 || n > MaxTargetLen {
				return fmt.Errorf("%w: symlink %q with a target of %d bytes", ErrUnsupported, name, n)
			}
			e.target = string(buf[:n])
		default:
			e.mode = fs.ModeIrregular
		}
	}
	return nil
}

func fstatat(fd int, name string, st *unix.Stat_t) error {
	for {
		if err := unix.Fstatat(fd, name, st, unix.AT_SYMLINK_NOFOLLOW); err != unix.EINTR {
			return err
		}
	}
}
