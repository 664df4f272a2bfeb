//go:build linux || darwin || freebsd || netbsd || openbsd || dragonfly

package pack

import (
	"os"

	"golang.org/x/sys/unix"
)

// flock locks a file until it is closed, if nobody else has.
func flock(f *os.File) error { return unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB) }
