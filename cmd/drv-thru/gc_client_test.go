package main

import (
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/drv-thru/drv-thru/fusecache"
	"github.com/drv-thru/drv-thru/policy/builtin"
)

func TestGCClient(t *testing.T) {
	home, run := t.TempDir(), t.TempDir()
	a := &app{environ: []string{"HOME=" + home, "XDG_RUNTIME_DIR=" + run}}
	chunks := filepath.Join(home, ".cache/drv-thru/chunks")
	mounts := filepath.Join(run, "drv-thru")
	outputs := filepath.Join(home, ".cache/drv-thru/outputs")
	for _, dir := range []string{chunks, outputs, filepath.Join(mounts, "mount-1")} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	write := func(path string) string {
		if err := os.WriteFile(path, make([]byte, 1000), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	for _, name := range []string{"old.pack", "old.index", "busy.index"} {
		write(filepath.Join(chunks, name))
	}
	write(filepath.Join(outputs, "0ab"))
	write(filepath.Join(mounts, "mount-1.lock"))
	busy, err := os.Open(write(filepath.Join(chunks, "busy.pack")))
	if err != nil {
		t.Fatal(err)
	}
	defer busy.Close()
	if err := unix.Flock(int(busy.Fd()), unix.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	// What two mounts have kept; one of them runs.
	var running *fusecache.Disk
	for _, builder := range []string{"left", "running"} {
		dir := filepath.Join(home, ".cache/drv-thru/mount", builder)
		if running, err = fusecache.OpenDisk(dir, 1<<20, nil); err != nil {
			t.Fatal(err)
		}
		running.PutNarInfo("abc", "text")
		if builder == "left" {
			running.Close()
		}
	}
	defer running.Close()
	m, err := a.policyHost(0).Load(t.Context(), builtin.Limits)
	if err != nil {
		t.Fatal(err)
	}
	m.Close()
	kept := func(builder string) bool {
		_, err := os.Lstat(filepath.Join(home, ".cache/drv-thru/mount", builder, "info/abc.narinfo"))
		return err == nil
	}
	for _, dry := range []bool{true, false} {
		items, err := a.gcClient(t.Context(), dry)
		if err != nil || len(items) != 6 {
			t.Errorf("dry run %v: %v, %v", dry, items, err)
		}
		for _, item := range items {
			if item.What == "policy" && item.Bytes < int64(len(builtin.Limits)) {
				t.Errorf("dry run %v: %v", dry, item)
			}
			if item.What == "mounted" {
				if kept("left") != dry || !kept("running") || item.Bytes != 4 {
					t.Errorf("dry run %v: %v", dry, item)
				}
				continue
			}
			if _, err := os.Lstat(item.Name); (err == nil) != dry {
				t.Errorf("dry run %v: %s: %v", dry, item.Name, err)
			}
		}
	}
	if items, err := a.gcClient(t.Context(), false); err != nil || len(items) != 0 {
		t.Errorf("again: %v, %v", items, err)
	}
	if _, err := os.Lstat(busy.Name()); err != nil {
		t.Error(err)
	}
}

func TestCacheSize(t *testing.T) {
	for text, want := range map[string]int64{"": defaultCacheSize, "0": 0, "500M": 500 << 20, "1T": 1 << 40, "unlimited": -1, "many": -1, "-1": -1} {
		got, err := (&app{environ: []string{"DRV_THRU_CACHE_SIZE=" + text}}).cacheSize()
		if want < 0 {
			if err == nil || exitCode(err) != 2 || hintOf(err) == "" {
				t.Errorf("%q: %d, %v", text, got, err)
			}
		} else if got != want || err != nil {
			t.Errorf("%q: %d, %v", text, got, err)
		}
	}
}

// Where HOME is another user's, as sudo may leave it, or XDG_CACHE_HOME is a place for
// all, nothing is removed through a link of theirs, and no compiled policy is theirs.
func TestCacheOfAnotherUser(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("only root can give files away")
	}
	for name, prepare := range map[string]func(dir string) error{
		"owner": func(dir string) error { return os.Chown(dir, 65534, 65534) },
		"mode":  func(dir string) error { return os.Chmod(dir, 0o777) },
	} {
		t.Run(name, func(t *testing.T) {
			home, elsewhere := t.TempDir(), t.TempDir()
			a := &app{environ: []string{"HOME=" + home, "XDG_RUNTIME_DIR=" + t.TempDir()}}
			dir, precious := filepath.Join(home, ".cache/drv-thru"), filepath.Join(elsewhere, "precious")
			if err := os.MkdirAll(dir, 0o700); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(precious, nil, 0o600); err != nil {
				t.Fatal(err)
			}
			if err := os.Symlink(elsewhere, filepath.Join(dir, chunkDir)); err != nil {
				t.Fatal(err)
			}
			if err := prepare(dir); err != nil {
				t.Fatal(err)
			}
			if items, err := a.gcClient(t.Context(), false); err != nil || len(items) != 0 {
				t.Errorf("%v, %v", items, err)
			}
			if _, err := os.Stat(precious); err != nil {
				t.Error(err)
			}
			if cache := a.policyCache(); cache != "" {
				t.Errorf("compiled policies are taken from %s", cache)
			}
		})
	}
}
