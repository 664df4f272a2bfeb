//go:build linux

package lab

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// The programs under test.
var programs = []string{"drv-thru", "drv-thru-relay"}

// binDir is the directory that every host shows as /usr/local/bin:
// DRV_THRU_LAB_BIN, with the programs in it, or an empty one of this process
// that [Programs] fills, in DRV_THRU_LAB_RUN when whoever started this process
// cleans up after it.
var binDir = sync.OnceValues(func() (string, error) {
	if dir := os.Getenv("DRV_THRU_LAB_BIN"); dir != "" {
		return filepath.Abs(dir)
	}
	parent := os.Getenv("DRV_THRU_LAB_RUN")
	if parent == "" {
		parent = Dir()
	}
	return runDir(filepath.Join(parent, "bin"))
})

// Programs makes the programs under test available in every host, also those
// that run already: built once for this process from the module that the
// working directory is in, unless DRV_THRU_LAB_BIN says where they are.
func Programs(t T) {
	t.Helper()
	if err := programsBuilt(); err != nil {
		t.Fatalf("lab: %v", err)
	}
}

var programsBuilt = sync.OnceValue(func() error {
	dir, err := binDir()
	if err != nil || os.Getenv("DRV_THRU_LAB_BIN") != "" {
		return err
	}
	module, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}").Output()
	if err != nil {
		return fmt.Errorf("find the module to build: %w", err)
	}
	return build(strings.TrimSpace(string(module)), dir)
})

// build compiles the programs without cgo, so that one file runs in every root,
// and as a release does, whose compiled packages it then shares.
func build(module, dir string) error {
	for _, name := range programs {
		cmd := exec.Command("go", "build", "-trimpath", "-o", filepath.Join(dir, name), "./cmd/"+name)
		cmd.Dir = module
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("build %s: %w\n%s", name, err, out)
		}
	}
	return nil
}

// runDir makes a directory in parent that lives as long as this process: it is
// locked, and those whose lock is free, left by processes that were killed,
// are removed.
func runDir(parent string) (string, error) {
	if err := os.MkdirAll(parent, 0o755); err != nil {
		return "", err
	}
	lock, err := lockDir(parent, unix.LOCK_EX)
	if err != nil {
		return "", err
	}
	defer unix.Close(lock)
	entries, err := os.ReadDir(parent)
	if err != nil {
		return "", err
	}
	for _, e := range entries {
		dir := filepath.Join(parent, e.Name())
		if fd, err := lockDir(dir, unix.LOCK_EX|unix.LOCK_NB); err == nil {
			os.RemoveAll(dir)
			unix.Close(fd)
		}
	}
	dir, err := os.MkdirTemp(parent, "run-")
	if err != nil {
		return "", err
	}
	// The descriptor stays open, and so the lock held, until the process ends.
	if _, err := lockDir(dir, unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return "", err
	}
	cleanups = append(cleanups, func() { os.RemoveAll(dir) })
	return dir, os.Chmod(dir, 0o755)
}

func lockDir(dir string, how int) (int, error) {
	fd, err := unix.Open(dir, unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, err
	}
	if err := unix.Flock(fd, how); err != nil {
		unix.Close(fd)
		return -1, err
	}
	return fd, nil
}

// cleanups are what [Cleanup] runs.
var cleanups []func()

// Cleanup removes what the lab wrote for this process. The end of a test binary
// or of the demo calls it; after a process that was killed, the next one does.
func Cleanup() {
	for _, f := range cleanups {
		f()
	}
	cleanups = nil
}
