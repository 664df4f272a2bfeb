package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestNixThatDidNotImport(t *testing.T) {
	for script, want := range map[string]string{
		"exit 1":                             ": nix copy: exit status 1",
		"kill -9 $$":                         ": nix copy: signal: killed",
		"echo 'error: no such path'; exit 1": ". It says:\nerror: no such path",
		"echo 'copying 1 paths...' >&2; kill -9 $$": ": nix copy: signal: killed. It said:\ncopying 1 paths...",
	} {
		out, err := exec.CommandContext(t.Context(), "/bin/sh", "-c", script).CombinedOutput()
		got := (&copyError{err, strings.TrimSpace(string(out))}).Error()
		if want = "the local Nix did not import the outputs" + want; got != want {
			t.Errorf("%s: %q, want %q", script, got, want)
		}
	}
}

// Who leaves in a hurry leaves no nix copy behind, not even one that does not end when it
// is told to.
func TestHurryEndsNixCopy(t *testing.T) {
	dir := t.TempDir()
	script := "#!/bin/sh\ntrap '' TERM\necho > " + dir + "/began\nexec sleep 1000\n"
	if err := os.WriteFile(filepath.Join(dir, "nix"), []byte(script), 0o700); err != nil {
		t.Fatal(err)
	}
	path := dir + ":" + os.Getenv("PATH")
	t.Setenv("PATH", path)
	var out emergency
	i := &importer{copying: out.copying}
	ended := make(chan error, 1)
	go func() { ended <- i.nix(t.Context(), []string{"PATH=" + path}, nil) }()
	begun := func() bool {
		out.mu.Lock()
		defer out.mu.Unlock()
		_, err := os.Stat(dir + "/began")
		return err == nil && out.copy != nil
	}
	for deadline := time.Now().Add(time.Minute); !begun(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("nix copy has not begun")
		}
	}
	out.leave(hurry)
	if err := <-ended; err == nil || !strings.Contains(err.Error(), "signal: killed") {
		t.Errorf("nix copy: %v", err)
	}
	if out.copy != nil {
		t.Error("it is still known")
	}
}
