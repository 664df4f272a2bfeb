package main

import (
	"os"
	"path/filepath"
	"testing"
)

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
