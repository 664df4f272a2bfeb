package helper

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// Listen makes the helper's socket, open to root and a group. Whatever is in its
// place but a socket that nobody listens on any more is left alone.
func Listen(path string, gid int) (net.Listener, error) {
	l, err := listen(path, gid)
	if err != nil {
		return nil, fmt.Errorf("listen on %s: %w", path, err)
	}
	return l, nil
}

func listen(path string, gid int) (net.Listener, error) {
	parent, name := filepath.Split(filepath.Clean(path))
	var st unix.Stat_t
	if err := unix.Lstat(filepath.Clean(parent), &st); err != nil {
		return nil, err
	}
	switch {
	case !filepath.IsAbs(path) || name == "":
		return nil, errors.New("the path has to be absolute")
	case st.Mode&unix.S_IFMT != unix.S_IFDIR:
		return nil, fmt.Errorf("%s is no directory", parent)
	case int(st.Uid) != os.Geteuid() || st.Mode&0o022 != 0:
		return nil, fmt.Errorf("others than root can write to %s", parent)
	}
	err := unix.Lstat(path, &st)
	switch {
	case errors.Is(err, unix.ENOENT):
	case err != nil:
		return nil, err
	case st.Mode&unix.S_IFMT != unix.S_IFSOCK:
		return nil, errors.New("something else than a socket is there")
	default:
		if conn, err := net.Dial("unix", path); err == nil {
			conn.Close()
			return nil, errors.New("another helper listens there")
		}
	}
	// It is made under another name, so that it is never open to more than it
	// shall be, and a link in its place is replaced, not followed.
	dir, err := os.MkdirTemp(parent, ".import-helper-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	hidden := filepath.Join(dir, "s")
	l, err := net.Listen("unix", hidden)
	if err != nil {
		return nil, err
	}
	l.(*net.UnixListener).SetUnlinkOnClose(false)
	err = os.Chown(hidden, 0, gid)
	if err == nil {
		err = os.Chmod(hidden, 0o660)
	}
	if err == nil {
		err = os.Rename(hidden, path)
	}
	if err != nil {
		l.Close()
		return nil, err
	}
	return &listener{l, path}, nil
}

type listener struct {
	net.Listener
	path string
}

// Addr is where the socket ended up.
func (l *listener) Addr() net.Addr { return &net.UnixAddr{Name: l.path, Net: "unix"} }

// Close also removes the socket's file.
func (l *listener) Close() error {
	_ = os.Remove(l.path) // it may be gone
	return l.Listener.Close()
}
