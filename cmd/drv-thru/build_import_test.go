package main

import (
	"os/exec"
	"strings"
	"testing"
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
