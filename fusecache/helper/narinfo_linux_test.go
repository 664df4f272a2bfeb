package helper

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/drv-thru/drv-thru/core/nix"
)

// What nix reads of a narinfo is the helper's own text, and nothing in the user's
// mount makes the helper read, or wait for, anything else.
func TestTakeNarInfos(t *testing.T) {
	path, err := nix.ParsePath(goodPath)
	if err != nil {
		t.Fatal(err)
	}
	info := nix.PathInfo{Path: path, NarHash: nix.SumHash([]byte("nar")), NarSize: 3, Sigs: []string{"builder-1:AAAA"}}
	good := string(info.MarshalNarInfo())
	write := func(text string) func(string) error {
		return func(name string) error { return os.WriteFile(name, []byte(text), 0o600) }
	}
	url := func(to string) func(string) error { return write(strings.Replace(good, "URL: nar/", "URL: "+to, 1)) }
	secret := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(secret, []byte(good), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		serve func(name string) error
		fails bool
	}{
		"good":              {write(good), false},
		"with more":         {write(good + "Future: " + secret + "\n"), false},
		"out of the mount":  {url("../../../../root/"), true},
		"out of its folder": {url("nar/../../"), true},
		"from the root":     {url("/root/"), true},
		"file":              {url("file:///root/"), true},
		"elsewhere":         {url("http://169.254.169.254/"), true},
		"compressed":        {write(strings.Replace(good, "Compression: none", "Compression: xz", 1)), true},
		"of another path":   {write(strings.Replace(good, "-hello", "-other", 1)), true},
		"no narinfo":        {write("root:x:0:0"), true},
		"missing":           {func(string) error { return nil }, true},
		"link":              {func(name string) error { return os.Symlink(secret, name) }, true},
		"pipe":              {func(name string) error { return unix.Mkfifo(name, 0o600) }, true},
		"directory":         {func(name string) error { return os.Mkdir(name, 0o700) }, true},
	} {
		t.Run(name, func(t *testing.T) {
			mount, cache := t.TempDir(), filepath.Join(t.TempDir(), "cache")
			if err := makeCache(cache, mount); err != nil {
				t.Fatal(err)
			}
			if err := c.serve(filepath.Join(mount, path.Hash()+".narinfo")); err != nil {
				t.Fatal(err)
			}
			fd, err := unix.Open(mount, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
			if err != nil {
				t.Fatal(err)
			}
			err = takeNarInfos(t.Context(), fd, cache, []string{goodPath}, time.Hour)
			if errors.As(err, new(*abandonedError)) || (err != nil) != c.fails {
				t.Errorf("%v", err)
			}
			text, err := os.ReadFile(filepath.Join(cache, path.Hash()+".narinfo"))
			if c.fails && !errors.Is(err, os.ErrNotExist) || !c.fails && string(text) != good {
				t.Errorf("nix would read %q, %v", text, err)
			}
		})
	}
}

func TestUninterrupted(t *testing.T) {
	answers := []error{unix.EINTR, unix.EINTR, unix.EIO, nil}
	err := uninterrupted(func() error {
		err := answers[0]
		answers = answers[1:]
		return err
	})
	if err != unix.EIO {
		t.Errorf("%v", err)
	}
}

// All narinfos of an import together are bounded.
func TestNarInfosAreBounded(t *testing.T) {
	mount, cache := t.TempDir(), filepath.Join(t.TempDir(), "cache")
	if err := makeCache(cache, mount); err != nil {
		t.Fatal(err)
	}
	path, err := nix.ParsePath(goodPath)
	if err != nil {
		t.Fatal(err)
	}
	info := nix.PathInfo{Path: path, NarHash: nix.SumHash(nil), NarSize: 1}
	text := info.MarshalNarInfo()
	if err := os.WriteFile(filepath.Join(mount, path.Hash()+".narinfo"), text, 0o600); err != nil {
		t.Fatal(err)
	}
	fd, err := unix.Open(mount, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	if n, err := takeNarInfo(fd, cache, goodPath, len(text)); err != nil || n != len(text) {
		t.Errorf("%d bytes, %v", n, err)
	}
	if _, err := takeNarInfo(fd, cache, goodPath, len(text)-1); !errors.Is(err, errNarInfos) {
		t.Errorf("one that is too many: %v", err)
	}
	// What is too long by itself is not blamed on the others.
	if err := os.Truncate(filepath.Join(mount, path.Hash()+".narinfo"), nix.MaxNarInfo+1); err != nil {
		t.Fatal(err)
	}
	if _, err := takeNarInfo(fd, cache, goodPath, maxNarInfos); !errors.Is(err, nix.ErrBadNarInfo) {
		t.Errorf("one that is too long: %v", err)
	}
}
