package nix

import (
	"slices"
	"strings"
	"testing"
)

// Tops are what nothing else refers to; what refers to itself is no exception.
func TestTops(t *testing.T) {
	path := func(name string) Path { return Path("/nix/store/" + strings.Repeat("a", 32) + "-" + name) }
	closure := []PathInfo{
		{Path: path("lib")},
		{Path: path("self"), References: []Path{path("self")}},
		{Path: path("dev"), References: []Path{path("dev"), path("lib")}},
		{Path: path("out"), References: []Path{path("dev")}},
	}
	if got, want := Tops(closure), []Path{path("self"), path("out")}; !slices.Equal(got, want) {
		t.Errorf("%s, want %s", got, want)
	}
	if closure[0].Path != path("lib") {
		t.Error("what was asked about has changed")
	}
}
