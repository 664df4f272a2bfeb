package main

import (
	"bytes"
	"context"
	"io"
	"log"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/drv-thru/drv-thru/core/nix"
	"github.com/drv-thru/drv-thru/core/wire"
)

const someHash = "/nix/store/00000000000000000000000000000000-"

// A store path that is here is nothing to build, and no reason to build nothing.
func TestStorePathBesideDerivation(t *testing.T) {
	r := &buildRun{here: map[nix.Path]bool{someHash + "here": true}, targets: []target{
		{installable: someHash + "here", outputs: []output{{"", someHash + "here"}}},
		{installable: "a", drv: someHash + "a.drv", outputs: []output{{"out", someHash + "a"}}},
	}}
	roots, err := r.wireRoots()
	if err != nil || len(roots) != 1 || roots[0].Drv != someHash+"a.drv" {
		t.Fatalf("%+v, %v", roots, err)
	}
	built := &wire.Result{Outputs: []wire.Output{{Drv: someHash + "a.drv", Name: "out", Path: someHash + "a"}}}
	targets, err := r.resolve(roots, built)
	if err != nil || len(targets) != 2 || targets[0].outputs[0].path != someHash+"here" {
		t.Errorf("%+v, %v", targets, err)
	}
	if wanted := builtPaths(targets); len(wanted) != 1 || wanted[0] != someHash+"a" {
		t.Errorf("wanted are %q", wanted)
	}
	r.targets = r.targets[:1]
	if _, err := r.wireRoots(); err == nil {
		t.Error("a store path is built again")
	}
	r.here = nil
	if _, err := r.wireRoots(); err == nil {
		t.Error("a store path that is nowhere is built")
	}
}

// What failed takes nobody's link.
func TestLinksOfTheRest(t *testing.T) {
	r := &buildRun{targets: []target{
		{installable: "a", drv: someHash + "a.drv", outputs: []output{{"out", someHash + "a"}}},
		{installable: "b", drv: someHash + "b.drv", outputs: []output{{"out", someHash + "b"}}},
	}}
	roots, err := r.wireRoots()
	if err != nil {
		t.Fatal(err)
	}
	built := &wire.Result{Error: wire.CodeBuildFailed.Err(), Outputs: []wire.Output{{Drv: someHash + "b.drv", Name: "out", Path: someHash + "b"}}}
	targets, err := r.resolve(roots, built)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	var made []string
	err = eachLink(filepath.Join(dir, "result"), targets, func(link string, target nix.Path) error {
		made = append(made, filepath.Base(link))
		return os.Symlink(string(target), link)
	})
	if err != nil || len(made) != 1 || made[0] != "result-1" {
		t.Errorf("%q, %v", made, err)
	}
}

// A builder's owner reads what installables are called.
func TestLabel(t *testing.T) {
	for installable, want := range map[string]string{
		".#hello": ".#hello",
		"git+https://alice:token@example.org/a?ref=main#x": "git+https://…@example.org/a?ref=main#x",
		"https://token@example.org/a.tar.gz#x@y":           "https://…@example.org/a.tar.gz#x@y",
		"git+https://example.org/a?ref=b@c#x":              "git+https://example.org/a?ref=b@c#x",
		"git+ssh://git@example.org/a#x":                    "git+ssh://git@example.org/a#x",
		strings.Repeat("é", wire.MaxLabel):                 strings.Repeat("é", wire.MaxLabel/2),
	} {
		if got := label(installable); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}

// What net/http says of a builder is for --verbose, and safe for a terminal.
func TestNetHTTPIsNotHeard(t *testing.T) {
	var past bytes.Buffer
	defer log.SetOutput(log.Writer())
	log.SetOutput(&past)
	for _, verbose := range []bool{false, true} {
		var shown bytes.Buffer
		a := &app{stderr: &shown, environ: []string{"HOME=" + t.TempDir()}}
		err := a.watch(t.Context(), &buildFlags{verbose: verbose}, "", func(context.Context, *buildRun) error {
			log.Print("unasked\x1b[2J")
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(shown.String(), "unasked") != verbose || strings.Contains(shown.String(), "\x1b") {
			t.Errorf("verbose %t: %q", verbose, &shown)
		}
	}
	log.Print("later")
	if text := past.String(); strings.Contains(text, "unasked") || !strings.Contains(text, "later") {
		t.Errorf("past the rows: %q", text)
	}
}

// Who presses Ctrl-C while a relay does not answer has no use for hints about networks.
func TestInterruptedHasNoHint(t *testing.T) {
	a := &app{stderr: io.Discard}
	err := a.watch(t.Context(), &buildFlags{}, "leaving", func(ctx context.Context, _ *buildRun) error {
		if err := syscall.Kill(os.Getpid(), syscall.SIGINT); err != nil {
			return err
		}
		<-ctx.Done()
		return &hintError{context.Cause(ctx), "check the network"}
	})
	if err == nil || err.Error() != "interrupted" || exitCode(err) != exitInterrupted || hintOf(err) != "" {
		t.Errorf("%v, exit code %d, hint %q", err, exitCode(err), hintOf(err))
	}
}
