package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/drv-thru/drv-thru/core/key"
)

// A service has its data where services have it, a user's builder with the user.
func TestDataDir(t *testing.T) {
	root := os.Geteuid() == 0
	if f, err := os.CreateTemp(systemDataDir, ".test-*"); err == nil {
		f.Close()
		_ = os.Remove(f.Name())
		root = true // as good as
	}
	for _, c := range []struct {
		environ []string
		want    string // of a user
	}{
		{[]string{"HOME=/home/x", "XDG_STATE_HOME=/state"}, "/state/drv-thru"},
		{[]string{"HOME=/home/x"}, "/home/x/.local/state/drv-thru"},
		{[]string{"HOME=/home/x", "XDG_STATE_HOME=relative"}, "/home/x/.local/state/drv-thru"},
		{nil, ""},
	} {
		got, err := (&app{environ: c.environ}).defaultDataDir()
		switch {
		case root:
			if got != systemDataDir || err != nil {
				t.Errorf("%v: %q, %v", c.environ, got, err)
			}
		case c.want == "":
			if err == nil || !strings.Contains(err.Error(), "--data-dir") {
				t.Errorf("%v: %q, %v", c.environ, got, err)
			}
		case got != c.want || err != nil:
			t.Errorf("%v: %q, %v; want %q", c.environ, got, err, c.want)
		}
	}
}

// Whatever keeps the directory from being made, another one is the way out.
func TestDataDirCannotBeMade(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := makeDataDir(filepath.Join(file, "state")); err == nil || !strings.Contains(hintOf(err), "--data-dir") {
		t.Errorf("got %v, hint %q", err, hintOf(err))
	}
}

// The signing key is made once; its public half is for everybody to read.
func TestSigningKey(t *testing.T) {
	dir := t.TempDir()
	first, err := signingKey(dir, key.ID{1})
	if err != nil {
		t.Fatal(err)
	}
	again, err := signingKey(dir, key.ID{1})
	if err != nil || again.ToPublicKey().String() != first.ToPublicKey().String() {
		t.Errorf("the second time: %v, %v", again.ToPublicKey(), err)
	}
	for name, mode := range map[string]os.FileMode{"signing-secret.key": 0o600, "signing-public.key": 0o644} {
		info, err := os.Stat(filepath.Join(dir, name))
		if err != nil || info.Mode() != mode {
			t.Errorf("%s: %v, %v", name, info.Mode(), err)
		}
	}
	public, err := os.ReadFile(filepath.Join(dir, "signing-public.key"))
	if err != nil || strings.TrimSpace(string(public)) != first.ToPublicKey().String() {
		t.Errorf("signing-public.key has %q, %v", public, err)
	}
	if err := os.Chmod(filepath.Join(dir, "signing-secret.key"), 0o640); err != nil {
		t.Fatal(err)
	}
	if _, err := signingKey(dir, key.ID{1}); err == nil {
		t.Error("a key that others can read is taken")
	}
}
