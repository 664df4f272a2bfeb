package builder

import (
	"slices"
	"strings"
	"testing"

	"github.com/drv-thru/drv-thru/core/nix"
)

// Roots are made of what nothing else refers to; what refers to itself is no exception.
func TestTops(t *testing.T) {
	path := func(name string) nix.Path { return nix.Path("/nix/store/" + strings.Repeat("a", 32) + "-" + name) }
	closure := []nix.PathInfo{
		{Path: path("lib")},
		{Path: path("self"), References: []nix.Path{path("self")}},
		{Path: path("dev"), References: []nix.Path{path("dev"), path("lib")}},
		{Path: path("out"), References: []nix.Path{path("dev")}},
	}
	outputs := []nix.Path{path("dev"), path("lib"), path("out"), path("self")}
	if got, want := tops(closure, outputs), []nix.Path{path("out"), path("self")}; !slices.Equal(got, want) {
		t.Errorf("%s, want %s", got, want)
	}
	if len(outputs) != 4 || outputs[0] != path("dev") {
		t.Error("what was asked about has changed")
	}
}
