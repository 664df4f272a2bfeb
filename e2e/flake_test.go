//go:build e2e

package e2e

import (
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/drv-thru/drv-thru/e2e/lab"
)

// flakeOutputs are what the flake offers on Linux.
var flakeOutputs = map[string][]string{
	"apps":         {"default", "drv-thru", "drv-thru-relay"},
	"checks":       {"format", "module", "package", "vm"},
	"devShells":    {"default"},
	"nixosModules": {"default", "drv-thru"},
	"overlays":     {"default"},
	"packages":     {"default", "drv-thru"},
	"templates":    {"builder", "client", "relay"},
}

// The flake evaluates with real Nix, its templates and the machines of its VM test
// are what the module takes, and its check of the module holds. nixpkgs cannot be
// had here: nixos/tests/flake.nix stands in for what the flake uses of it, and no
// machine is booted.
func TestFlake(t *testing.T) {
	forEachRoot(t, func(t *testing.T, root lab.Root) {
		n := newModule(t, root)
		type machine struct {
			Failed, Services []string
		}
		var flake struct {
			Outputs         map[string][]string
			Module, Program string
			Overlay         string
			TestScript      string
			Templates, VM   map[string]machine
		}
		n.eval(t, &flake, "--expr", "import "+n.tests+"/flake.nix { }")
		if !reflect.DeepEqual(flake.Outputs, flakeOutputs) {
			t.Errorf("the flake has the outputs %v, want %v", flake.Outputs, flakeOutputs)
		}
		if flake.Program != "/drv-thru/bin/drv-thru" || flake.Overlay != "drv-thru" || flake.Module == "" {
			t.Errorf("nix run runs %q, the overlay has %q, the check of the module makes %q", flake.Program, flake.Overlay, flake.Module)
		}
		for name, services := range map[string][]string{"builder": {"drv-thru"}, "client": {}, "relay": {"drv-thru-relay"}} {
			got := flake.Templates[name]
			if len(got.Failed) > 0 || !slices.Equal(got.Services, services) {
				t.Errorf("the template %s has the services %q, want %q, and fails %q", name, got.Services, services, got.Failed)
			}
		}
		for name, services := range map[string][]string{
			"builder": {"drv-thru"}, "relay": {"drv-thru-relay"}, "first": {"drv-thru-import-helper"}, "second": {"drv-thru-import-helper", "drv-thru-mount-attic"},
		} {
			got := flake.VM[name]
			if len(got.Failed) > 0 || !slices.Equal(got.Services, services) {
				t.Errorf("the test's machine %s has the services %q, want %q, and fails %q", name, got.Services, services, got.Failed)
			}
			if !strings.Contains(flake.TestScript, name+".") {
				t.Errorf("the test does nothing on %s", name)
			}
		}
		if len(flake.VM) != 4 || len(flake.Templates) != 3 {
			t.Errorf("there are the machines %v and the templates %v", slices.Sorted(maps.Keys(flake.VM)), slices.Sorted(maps.Keys(flake.Templates)))
		}
	})
}

// moduleFiles are the flake and what is below nixos, by their paths in the
// repository.
func moduleFiles(t *testing.T) map[string]string {
	t.Helper()
	files := make(map[string]string)
	read := func(name string) {
		text, err := os.ReadFile(filepath.Join("..", name))
		if err != nil {
			t.Fatal(err)
		}
		files[name] = string(text)
	}
	read("flake.nix")
	if err := filepath.WalkDir("../nixos", func(path string, d os.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() {
			read(strings.TrimPrefix(path, "../"))
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
	return files
}
