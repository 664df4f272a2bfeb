package fusecache

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

const fuseDevice = "/dev/fuse"

// Available reports why this process cannot mount with FUSE; nil when it can.
func Available() error { return Options{}.available() }

func (o Options) available() error {
	fd, err := unix.Open(fuseDevice, unix.O_RDWR|unix.O_CLOEXEC, 0)
	switch {
	case err == nil:
		unix.Close(fd)
	case errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("%w: there is no %s (a container without it, or modprobe fuse)", ErrUnavailable, fuseDevice)
	case errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("%w: %s is not open to this user (its mode should be 0666)", ErrUnavailable, fuseDevice)
	default:
		return fmt.Errorf("%w: open %s: %w (modprobe fuse)", ErrUnavailable, fuseDevice, err)
	}
	status := procStatus()
	if len(status) == 0 {
		return fmt.Errorf("%w: there is no /proc, which lists what is mounted", ErrUnavailable)
	}
	if os.Geteuid() == 0 {
		caps, err := strconv.ParseUint(status["CapEff"], 16, 64)
		if err == nil && caps&(1<<unix.CAP_SYS_ADMIN) == 0 {
			return fmt.Errorf("%w: root has no CAP_SYS_ADMIN here (a container)", ErrUnavailable)
		}
		return nil
	}
	bin, err := fusermount()
	if err != nil {
		return err
	}
	if info, err := os.Stat(bin); err == nil && info.Mode()&fs.ModeSetuid == 0 {
		return fmt.Errorf("%w: %s is not setuid root", ErrUnavailable, bin)
	}
	if status["NoNewPrivs"] == "1" {
		return fmt.Errorf("%w: %s cannot become root under no_new_privs", ErrUnavailable, bin)
	}
	if o.AllowOther && !userAllowOther() {
		return fmt.Errorf("%w: other users are allowed in only with user_allow_other in /etc/fuse.conf", ErrUnavailable)
	}
	return nil
}

// fusermount finds the program that mounts for ordinary users.
func fusermount() (string, error) {
	for _, name := range []string{
		"fusermount3", "/run/wrappers/bin/fusermount3", "/usr/bin/fusermount3", "/bin/fusermount3",
		"fusermount", "/usr/bin/fusermount", "/bin/fusermount",
	} {
		if p, err := exec.LookPath(name); err == nil {
			return p, nil
		}
	}
	return "", fmt.Errorf("%w: there is no fusermount3 (package fuse3)", ErrUnavailable)
}

// procStatus reads /proc/self/status.
func procStatus() map[string]string {
	fields := make(map[string]string)
	text, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return fields
	}
	for line := range strings.Lines(string(text)) {
		if k, v, ok := strings.Cut(line, ":"); ok {
			fields[k] = strings.TrimSpace(v)
		}
	}
	return fields
}

// userAllowOther reports whether /etc/fuse.conf lets users share their mounts.
// A file that cannot be read leaves the decision to fusermount.
func userAllowOther() bool {
	text, err := os.ReadFile("/etc/fuse.conf")
	if err != nil {
		return !errors.Is(err, fs.ErrNotExist)
	}
	for line := range strings.Lines(string(text)) {
		if strings.TrimSpace(line) == "user_allow_other" {
			return true
		}
	}
	return false
}
