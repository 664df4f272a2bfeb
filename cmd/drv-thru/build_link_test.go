package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// What is in the place of a result link is told before anything is built, and is left
// alone.
func TestLinksAreCheckedFirst(t *testing.T) {
	dir := t.TempDir()
	if err := os.Symlink("/nix/store/8gh93dl6vyzng6xalmvqywqdfq8i56hi-a", filepath.Join(dir, "old")); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(dir, filepath.Join(dir, "other")); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "file-dev"), []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{
		"new": "", "old": "", "other": "is not in the store", "file": "exists and is not a link", "new/dir/result": "",
	} {
		for _, left := range []buildFlags{{}, {noLink: true}, {detach: true}, {dryRun: true}} {
			left.outLink = filepath.Join(dir, name)
			r := &buildRun{flags: &left, targets: []target{{outputs: []output{{name: "out"}, {name: "dev"}}}}}
			err := r.checkLinks()
			switch {
			case want == "" || left.noLink || left.detach || left.dryRun:
				if err != nil {
					t.Errorf("%s: %v", name, err)
				}
			case err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(hintOf(err), "--no-link"):
				t.Errorf("%s: %v, want %s", name, err, want)
			}
		}
	}
}

// nix build makes the directory of its result link.
func TestLinkInNewDirectory(t *testing.T) {
	const target = "/nix/store/8gh93dl6vyzng6xalmvqywqdfq8i56hi-a"
	link := filepath.Join(t.TempDir(), "new", "dir", "result")
	if err := replaceLink(link, target); err != nil {
		t.Fatal(err)
	}
	if got, err := os.Readlink(link); err != nil || got != target {
		t.Errorf("links to %q, %v", got, err)
	}
}
