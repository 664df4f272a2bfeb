package main

import (
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/drv-thru/drv-thru/fusecache"
)

func TestSweep(t *testing.T) {
	dir := t.TempDir()
	alive, err := newMountDir(dir, unix.Flock)
	if err != nil {
		t.Fatal(err)
	}
	var gone, stuck string
	for _, p := range []*string{&gone, &stuck} {
		m, err := newMountDir(dir, unix.Flock)
		if err != nil {
			t.Fatal(err)
		}
		*p = m.path
		_ = m.lock.Close() // as when its process is killed
	}
	for _, path := range []string{alive.path, gone} {
		if err := unix.Mkfifo(path+pipeSuffix+"7", 0o600); err != nil {
			t.Fatal(err)
		}
	}
	opened := opens(gone + pipeSuffix + "7")
	var cleared []string
	sweep(dir, func(path string) error {
		cleared = append(cleared, path)
		if path == stuck {
			return errors.New("busy")
		}
		return nil
	})
	slices.Sort(cleared)
	want := []string{gone, stuck}
	slices.Sort(want)
	if !slices.Equal(cleared, want) {
		t.Errorf("cleared %q", cleared)
	}
	for path, there := range map[string]bool{alive.path: true, gone: false, stuck: true} {
		for _, p := range []string{path, path + lockSuffix} {
			if _, err := os.Lstat(p); (err == nil) != there {
				t.Errorf("%s: %v", p, err)
			}
		}
	}
	for path, there := range map[string]bool{alive.path: true, gone: false} {
		if _, err := os.Lstat(path + pipeSuffix + "7"); (err == nil) != there {
			t.Errorf("pipe of %s: %v", path, err)
		}
	}
	if err := <-opened; err != nil {
		t.Error(err)
	}
	if err := alive.remove(); err != nil {
		t.Error(err)
	}
	if _, err := os.Lstat(alive.path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("still there: %v", err)
	}
}

// opens reads a pipe, as an orphaned Nix does, which waits in open(2) for who writes to it.
func opens(path string) <-chan error {
	opened := make(chan error, 1)
	go func() {
		_, err := os.ReadFile(path)
		if errors.Is(err, os.ErrNotExist) {
			err = nil // it came too late
		}
		opened <- err
	}()
	return opened
}

// A mount is taken away after the process that has made it was killed, and left to
// that process otherwise.
func TestGuard(t *testing.T) {
	const path = "DRV_THRU_TEST_GUARDED"
	if dir := os.Getenv(path); dir != "" {
		guard := (&mountDir{path: dir}).guard(os.Getenv("PATH"))
		guard.list()
		if _, err := io.Copy(io.Discard, os.Stdin); err != nil {
			t.Fatal(err)
		}
		guard.release()
		return
	}
	for _, removing := range []bool{false, true} {
		testGuard(t, path, true, removing)
	}
	testGuard(t, path, false, false)
}

// testGuard has a process, which finds its directory in a variable, start a guard, and kills
// it or not, also as it has removed the directory and not yet the lock.
func testGuard(t *testing.T, variable string, killed, removing bool) {
	t.Helper()
	base := t.TempDir()
	m, err := newMountDir(base, unix.Flock)
	if err != nil {
		t.Fatal(err)
	}
	defer m.lock.Close()
	if err := unix.Mkfifo(m.path+pipeSuffix+"7", 0o600); err != nil {
		t.Fatal(err)
	}
	opened := opens(m.path + pipeSuffix + "7")
	said := filepath.Join(base, "said")
	if err := os.WriteFile(filepath.Join(base, "fusermount3"), []byte("#!/bin/sh\necho \"$@\" > "+said+"\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(os.Args[0], "-test.run=^TestGuard$")
	cmd.Env = append(os.Environ(), variable+"="+m.path, "PATH="+base)
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if killed {
		// It reads only once the guard has been started.
		if _, err := io.WriteString(stdin, strings.Repeat("x", 1<<20)); err != nil {
			t.Fatal(err)
		}
		if removing {
			if err := os.Remove(m.path); err != nil {
				t.Fatal(err)
			}
		}
		_ = cmd.Process.Kill()
	}
	_ = stdin.Close()
	if err := cmd.Wait(); (err != nil) != killed {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(time.Minute); killed; time.Sleep(time.Millisecond) {
		_, err := os.Lstat(m.lock.Name())
		if errors.Is(err, os.ErrNotExist) {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("it is still there")
		}
	}
	_, err = os.Lstat(m.path)
	text, _ := os.ReadFile(said)
	if (err != nil) != killed || killed != (string(text) == "-uz -- "+m.path+"\n") {
		t.Errorf("killed %t: %v, unmounted %q", killed, err, text)
	}
	if _, err := os.Lstat(m.path + pipeSuffix + "7"); (err != nil) != killed {
		t.Errorf("killed %t, a pipe: %v", killed, err)
	}
	if !killed {
		fusecache.RemovePipe(m.path + pipeSuffix + "7")
	}
	if err := <-opened; err != nil {
		t.Error(err)
	}
}

// Some file systems have no locks, and a sweep may hold that of a new directory.
func TestNoLock(t *testing.T) {
	dir := t.TempDir()
	locks := []error{unix.EWOULDBLOCK, unix.ENOLCK}
	_, err := newMountDir(dir, func(int, int) error {
		err := locks[0]
		locks = locks[1:]
		return err
	})
	if !errors.Is(err, unix.ENOLCK) || len(locks) > 0 {
		t.Errorf("%v, %d left", err, len(locks))
	}
	// What a sweep holds, the sweep removes.
	if left, err := os.ReadDir(dir); err != nil || len(left) != 1 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

// Whoever cleans up meanwhile takes what would be removed anyway: an import that is
// complete does not fail for it.
func TestRemovedMeanwhile(t *testing.T) {
	for name, clean := range map[string]func(m *mountDir) error{
		"lock": func(m *mountDir) error { return os.Remove(m.lock.Name()) },
		"all":  func(m *mountDir) error { return os.RemoveAll(filepath.Dir(m.path)) },
	} {
		m, err := newMountDir(t.TempDir(), unix.Flock)
		if err != nil {
			t.Fatal(err)
		}
		if err := clean(m); err != nil {
			t.Fatal(err)
		}
		if err := m.remove(); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestRuntimeDir(t *testing.T) {
	base := t.TempDir()
	a := &app{environ: []string{"XDG_RUNTIME_DIR=" + base}}
	dir, err := a.runtimeDir()
	if err != nil || dir != filepath.Join(base, "drv-thru") {
		t.Fatalf("%s, %v", dir, err)
	}
	if err := os.Chmod(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	if _, err := a.runtimeDir(); err == nil {
		t.Error("took a directory that everybody can write to")
	}
	if err := os.Remove(dir); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(t.TempDir(), dir); err != nil {
		t.Fatal(err)
	}
	if _, err := a.runtimeDir(); err == nil {
		t.Error("followed a symlink")
	}
	// su and sudo -E leave it to root, who must not take the place of the user's own.
	others := t.TempDir()
	if os.Getuid() != 0 {
		others = "/"
	} else if err := os.Chown(others, 12345, 0); err != nil {
		t.Fatal(err)
	}
	t.Setenv("TMPDIR", base)
	a = &app{environ: []string{"XDG_RUNTIME_DIR=" + others}}
	if dir, err := a.runtimeDir(); err != nil || filepath.Dir(dir) != base {
		t.Errorf("with somebody else's XDG_RUNTIME_DIR: %s, %v", dir, err)
	}
	for _, odd := range []string{"a b", "é", "a?b", "a%20b"} {
		odd = filepath.Join(base, odd)
		if err := os.Mkdir(odd, 0o700); err != nil {
			t.Fatal(err)
		}
		a := &app{environ: []string{"XDG_RUNTIME_DIR=" + odd}}
		if dir, err := a.runtimeDir(); err == nil {
			t.Errorf("%s: no Nix finds it by a file:// URL", dir)
		}
	}
}

// Root leaves no files of its own in somebody else's home, where sudo -E has it.
func TestHomeOfRoot(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("it takes root")
	}
	home := t.TempDir()
	a := &app{environ: []string{"HOME=" + home}}
	where := func() []string {
		t.Helper()
		cache, err := a.cacheDir()
		if err != nil {
			t.Fatal(err)
		}
		config, err := a.configDir()
		if err != nil {
			t.Fatal(err)
		}
		return []string{cache, config}
	}
	if got, want := where(), []string{home + "/.cache/drv-thru", home + "/.config/drv-thru"}; !slices.Equal(got, want) {
		t.Errorf("at home: %q, want %q", got, want)
	}
	if err := os.Chown(home, 1234, -1); err != nil {
		t.Fatal(err)
	}
	for _, dir := range where() {
		if strings.HasPrefix(dir, home) {
			t.Errorf("in another's home: %s", dir)
		}
	}
}
