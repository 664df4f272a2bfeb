package main

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"

	"github.com/drv-thru/drv-thru/core/wire"
)

// A service that is stopped while it starts has not failed.
func TestServeStoppedEarly(t *testing.T) {
	dir := t.TempDir()
	nix := filepath.Join(dir, "nix")
	if err := os.WriteFile(nix, []byte("#!/bin/sh\nkill -TERM $PPID\nexec sleep 60\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
	var out, shown bytes.Buffer
	args := []string{"serve", "--listen", "none", "--relay", "http://127.0.0.1:1", "--data-dir", filepath.Join(dir, "state")}
	code := run(t.Context(), args, nil, &out, &shown, os.Environ())
	if code != wire.ExitOK || out.Len()+shown.Len() > 0 {
		t.Errorf("exit code %d, printed %q, %q", code, &out, &shown)
	}
}
