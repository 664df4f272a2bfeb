package nar

import (
	"io"
	"io/fs"
	"os"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// beneath opens paths below a directory with openat2(2), which refuses symlinks
// in every component: one system call where os.Root makes one per component.
// It is off where the kernel (before 5.6) or a seccomp filter lacks the call.
type beneath struct {
	root *os.File
	off  *atomic.Bool
}

func (b *beneath) open(r *os.Root) {
	if f, err := r.Open("."); err == nil {
		b.root, b.off = f, new(atomic.Bool)
	}
}

func (b *beneath) close() {
	if b.root != nil {
		_ = b.root.Close()
	}
}

func (b *beneath) openDir(path string) (*os.File, bool, error) {
	fd, ok, err := b.openat2(path, unix.O_DIRECTORY)
	if err != nil || !ok {
		return nil, ok, err
	}
	return os.NewFile(uintptr(fd), path), true, nil
}

func (b *beneath) openFile(path string) (openedFile, int64, bool, error) {
	fd, ok, err := b.openat2(path, unix.O_NONBLOCK)
	if err != nil || !ok {
		return nil, 0, ok, err
	}
	var st unix.Stat_t
	if err = unix.Fstat(fd, &st); err == nil && st.Mode&unix.S_IFMT != unix.S_IFREG {
		err = errNotRegular
	}
	if err != nil {
		_ = unix.Close(fd)
		return nil, 0, true, &fs.PathError{Op: "open", Path: path, Err: err}
	}
	return fdFile(fd), st.Size, true, nil
}

// openat2 returns a descriptor, or false when the caller has to walk the path itself.
func (b *beneath) openat2(path string, flags uint64) (fd int, ok bool, err error) {
	if b.root == nil || b.off.Load() {
		return 0, false, nil
	}
	how := unix.OpenHow{
		Flags:   flags | unix.O_RDONLY | unix.O_NOFOLLOW | unix.O_CLOEXEC,
		Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_MAGICLINKS,
	}
	conn, err := b.root.SyscallConn()
	if err != nil {
		return 0, true, err
	}
	if ctlErr := conn.Control(func(root uintptr) {
		for {
			if fd, err = unix.Openat2(int(root), path, &how); err != unix.EINTR {
				return
			}
		}
	}); ctlErr != nil {
		return 0, true, &fs.PathError{Op: "open", Path: path, Err: fs.ErrClosed}
	}
	switch err {
	case nil:
		return fd, true, nil
	case unix.ENOSYS, unix.EPERM:
		b.off.Store(true)
		return 0, false, nil
	case unix.ENAMETOOLONG, unix.EAGAIN: // the whole path is too long, or a race with a rename
		return 0, false, nil
	}
	return 0, true, &fs.PathError{Op: "open", Path: path, Err: err}
}

// fdFile is a file descriptor without what os.File adds (three system calls to
// ask whether a regular file can be polled, and a finalizer), which is half of
// the time that a small file takes.
type fdFile int

func (f fdFile) ReadAt(p []byte, off int64) (int, error) {
	n := 0
	for n < len(p) {
		k, err := unix.Pread(int(f), p[n:], off+int64(n))
		switch {
		case err == unix.EINTR:
		case err != nil:
			return n, err
		case k == 0:
			return n, io.EOF
		default:
			n += k
		}
	}
	return n, nil
}

func (f fdFile) Close() error { return unix.Close(int(f)) }
