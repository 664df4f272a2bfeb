package admin

import (
	"net"
	"os"
	"path/filepath"
)

// listenUnix makes the socket under another name and renames it, so that it is
// never open to more than it shall be.
func listenUnix(path string) (net.Listener, error) {
	dir, err := os.MkdirTemp(filepath.Dir(path), ".admin-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	hidden := filepath.Join(dir, "s") // the directory has mode 0700
	l, err := net.Listen("unix", hidden)
	if err != nil {
		return nil, err
	}
	l.(*net.UnixListener).SetUnlinkOnClose(false)
	if err := os.Chmod(hidden, 0o660); err != nil {
		l.Close()
		return nil, err
	}
	if err := os.Rename(hidden, path); err != nil {
		l.Close()
		return nil, err
	}
	return &listener{l, path}, nil
}

type listener struct {
	net.Listener
	path string
}

// Close also removes the socket's file.
func (l *listener) Close() error {
	_ = os.Remove(l.path) // it may be gone
	return l.Listener.Close()
}
