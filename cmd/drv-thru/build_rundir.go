package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/drv-thru/drv-thru/fusecache"
)

// mountDir is a directory to mount on, with a lock that lives as long as its
// owner's process does.
type mountDir struct {
	path string
	lock *os.File
}

// Beside a directory lie its lock, and for a moment the pipes of its mount.
const (
	lockSuffix = ".lock"
	pipeSuffix = ".pipe"
)

// runtimeDir returns the user's directory for mounts, which nobody else can
// write to.
func (a *app) runtimeDir() (string, error) {
	dir := filepath.Join(os.TempDir(), "drv-thru-"+strconv.Itoa(os.Getuid()))
	var st unix.Stat_t
	if base := a.env("XDG_RUNTIME_DIR"); filepath.IsAbs(base) {
		// su and sudo -E leave root the user's, who could move what root makes there, and
		// has no use for it.
		if err := unix.Stat(base, &st); err == nil && st.Mode&unix.S_IFMT == unix.S_IFDIR && int(st.Uid) == os.Getuid() {
			dir = filepath.Join(base, "drv-thru")
		}
	}
	if fusecache.FileURL(dir) != "file://"+dir {
		return "", fmt.Errorf("make a place for mounts: not every Nix takes a file:// URL of %q; set XDG_RUNTIME_DIR", dir)
	}
	if err := os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, os.ErrExist) {
		return "", fmt.Errorf("make a place for mounts: %w", err)
	}
	// In a shared /tmp somebody else may have made it first.
	if err := unix.Lstat(dir, &st); err != nil {
		return "", fmt.Errorf("make a place for mounts: %w", err)
	}
	if st.Mode&unix.S_IFMT != unix.S_IFDIR || int(st.Uid) != os.Getuid() || st.Mode&0o022 != 0 {
		return "", fmt.Errorf("make a place for mounts: %s belongs to somebody else; set XDG_RUNTIME_DIR", dir)
	}
	return dir, nil
}

// newMountDir makes a locked directory below dir. flock is unix.Flock.
func newMountDir(dir string, flock func(fd, how int) error) (*mountDir, error) {
	for {
		f, err := os.CreateTemp(dir, "mount-*"+lockSuffix)
		if err != nil {
			return nil, fmt.Errorf("make a place for a mount: %w", err)
		}
		err = flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err != nil && !errors.Is(err, unix.EWOULDBLOCK) {
			_ = os.Remove(f.Name())
			_ = f.Close()
			return nil, fmt.Errorf("make a place for a mount: lock %s: %w", f.Name(), err)
		}
		// A sweep may have taken the new file for a stale one: then it is gone
		// from its name, and another is made.
		if err != nil || !sameFile(f) {
			_ = f.Close()
			continue
		}
		path := strings.TrimSuffix(f.Name(), lockSuffix)
		if err := os.Mkdir(path, 0o700); err != nil {
			_ = os.Remove(f.Name())
			_ = f.Close()
			return nil, fmt.Errorf("make a place for a mount: %w", err)
		}
		return &mountDir{path, f}, nil
	}
}

func sameFile(f *os.File) bool {
	a, err1 := f.Stat()
	b, err2 := os.Lstat(f.Name())
	return err1 == nil && err2 == nil && os.SameFile(a, b)
}

// remove removes the directory, which nothing is mounted on any more. Others may have
// done so: who cleans up /tmp, or the end of the user's last login.
func (m *mountDir) remove() error {
	for _, name := range []string{m.path, m.lock.Name()} {
		if err := os.Remove(name); err != nil && !errors.Is(err, os.ErrNotExist) {
			return errors.Join(err, m.lock.Close())
		}
	}
	return m.lock.Close()
}

// guardScript lists the mount when it reads "list", which has the kernel ask for all
// that is in it, and ends at any other line. At the end of who should write lines it takes
// away what that has left; a pipe as fusecache.RemovePipe does. Of a directory that is gone
// already, which a dead mount does not look like to mkdir, the lock may be left.
const guardScript = `while read -r line; do
	[ "$line" = list ] || exit 0
	: "$0"/* "$0"/nar/*
done
fusermount3 -uz -- "$0" || fusermount -uz -- "$0" || umount -l -- "$0"
for pipe in "$0".pipe*; do
	[ ! -p "$pipe" ] || { rm -f -- "$pipe"; sleep 1 & } 3<>"$pipe"
done
{ rmdir -- "$0" || { mkdir -- "$0" && rmdir -- "$0"; }; } && rm -f -- "$0.lock"`

// guard is a process that takes a mount on a directory away, and the directory too,
// when this one ends without a call of release, as by SIGKILL.
type guard struct {
	cmd  *exec.Cmd
	line io.Writer
}

// guard starts one. path is where it finds programs. Without it, all that is left to the
// next sweep.
func (m *mountDir) guard(path string) *guard {
	cmd := exec.Command("/bin/sh", "-c", guardScript, m.path)
	cmd.Dir, cmd.Env = "/", []string{"PATH=" + path + ":/run/wrappers/bin:/usr/bin:/bin:/usr/sbin:/sbin"}
	// Signals to the group, such as a terminal's, are not for it.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	line, err := cmd.StdinPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		return nil
	}
	return &guard{cmd, line}
}

// list has the guard list what is mounted: a process that waits for its own answers cannot
// be killed.
func (g *guard) list() {
	if g != nil {
		_, _ = io.WriteString(g.line, "list\n")
	}
}

// release ends the guard, which leaves the mount alone.
func (g *guard) release() {
	if g != nil {
		_, _ = io.WriteString(g.line, "\n")
		_ = g.cmd.Wait() // closes the pipe; it has nothing to do, and so nothing to fail
	}
}

// sweep clears what processes that are gone have left behind. clear unmounts.
// It never fails: what cannot be cleared now may be cleared next time.
func sweep(dir string, clear func(string) error) {
	locks, err := filepath.Glob(filepath.Join(dir, "mount-*"+lockSuffix))
	if err != nil {
		return
	}
	for _, name := range locks {
		f, err := os.OpenFile(name, os.O_RDWR|unix.O_NOFOLLOW, 0)
		if err != nil {
			continue
		}
		// Whoever holds the lock is alive.
		if unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB) == nil {
			path := strings.TrimSuffix(name, lockSuffix)
			pipes, _ := filepath.Glob(path + pipeSuffix + "*")
			for _, pipe := range pipes {
				fusecache.RemovePipe(pipe)
			}
			if clear(path) == nil {
				if err := os.Remove(path); err == nil || errors.Is(err, os.ErrNotExist) {
					_ = os.Remove(name)
				}
			}
		}
		_ = f.Close()
	}
}
