package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/drv-thru/drv-thru/core/nix/daemon"
)

// Where no daemon listens, one is run for the connection. A fixed-output derivation can
// have variables of the daemon's environment for its own (impureEnvVars).
func TestEnvironmentOfTheDaemonsCommand(t *testing.T) {
	dir := t.TempDir()
	seen := filepath.Join(dir, "env")
	script := fmt.Sprintf("#!/bin/sh\nenv > %s\nexit 1\n", seen)
	if err := os.WriteFile(filepath.Join(dir, "nix-daemon"), []byte(script), 0o700); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
	for name, value := range map[string]string{
		"NIX_REMOTE": "local", "HOME": dir, "https_proxy": "http://proxy.example",
		"DRV_THRU_TICKET": "a-ticket", "NIX_CONFIG": "access-tokens = a-token", "A_SECRET": "a-secret",
	} {
		t.Setenv(name, value)
	}
	a := &app{environ: os.Environ()}
	for name, c := range map[string]struct {
		dial    daemon.Dialer
		has, no []string
	}{
		"client": {a.storeDialer(), []string{"HOME=", "A_SECRET=", "NIX_CONFIG=", "https_proxy="}, []string{"DRV_THRU_"}},
		"serve":  {a.builderDialer(), []string{"HOME=", "NIX_REMOTE=", "https_proxy="}, []string{"DRV_THRU_", "A_SECRET=", "NIX_CONFIG="}},
	} {
		if _, err := daemon.Dial(t.Context(), daemon.Config{Dial: c.dial}); err == nil {
			t.Fatalf("%s: the command answered", name)
		}
		text, err := os.ReadFile(seen)
		if err != nil {
			t.Fatal(err)
		}
		for _, want := range c.has {
			if !strings.Contains("\n"+string(text), "\n"+want) {
				t.Errorf("%s: no %s in\n%s", name, want, text)
			}
		}
		for _, secret := range c.no {
			if strings.Contains("\n"+string(text), "\n"+secret) {
				t.Errorf("%s: %s in\n%s", name, secret, text)
			}
		}
	}
}

// One that is run because none listens may say anything, or nothing, of why it cannot.
func TestNoDaemonListens(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "nix-daemon"), []byte("#!/bin/sh\nexit 1\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
	socket, other := filepath.Join(dir, "socket"), filepath.Join(dir, "other")
	for remote, want := range map[string]string{
		"": socket + ":", "daemon": socket + ":", "unix://?max-connections=1": socket + ":",
		"unix://" + other: other + ":", "unix://" + other + "?max-connections=1": other + ":",
		"local": "NIX_REMOTE is local",
	} {
		a := &app{environ: append(os.Environ(), "NIX_DAEMON_SOCKET_PATH="+socket, "NIX_REMOTE="+remote)}
		if _, err := a.dialStore(t.Context()); !strings.Contains(hintOf(err), want) {
			t.Errorf("NIX_REMOTE=%s: %v, hint %q", remote, err, hintOf(err))
		}
	}
}
