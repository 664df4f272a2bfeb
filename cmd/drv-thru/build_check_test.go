package main

import (
	"strings"
	"testing"

	"github.com/drv-thru/drv-thru/core/nix"
)

// A Nix whose store is a directory of the user's evaluates into that.
func TestStoreElsewhere(t *testing.T) {
	_, err := collect(t.Context(), nil, []nix.Path{"/nix/store/8gh93dl6vyzng6xalmvqywqdfq8i56hi-nowhere.drv"})
	if err == nil || !strings.Contains(hintOf(err), "NIX_REMOTE") {
		t.Errorf("%v, hint %q", err, hintOf(err))
	}
}
