//go:build e2e

package e2e

import (
	"os"
	"testing"

	"github.com/drv-thru/drv-thru/e2e/lab"
)

// The flake cannot be evaluated without nixpkgs, so it is parsed.
func TestFlakeParses(t *testing.T) {
	flake, err := os.ReadFile("../flake.nix")
	if err != nil {
		t.Fatal(err)
	}
	forEachRoot(t, func(t *testing.T, root lab.Root) {
		h := lab.NewHost(t, root)
		h.Must(h.Command(lab.Alice, "nix-instantiate", "--parse", "-").WithStdin(string(flake)))
	})
}
