package main

import (
	"bytes"
	"strings"
	"testing"

	"github.com/drv-thru/drv-thru/core/wire"
	"github.com/drv-thru/drv-thru/policy"
)

// What is too long is not taken for what was cut off.
func TestPolicyRunLongInput(t *testing.T) {
	var stdout, stderr bytes.Buffer
	request := `{"settings": "` + strings.Repeat("x", policy.MaxStdin) + `"}`
	code := run(t.Context(), []string{"policy", "run", "limits", "-i", "-"}, strings.NewReader(request), &stdout, &stderr, nil)
	const want = "error: read request: standard input has more than 1048576 bytes\n"
	if code != wire.ExitFailed || stderr.String() != want {
		t.Errorf("exit code %d, %q; want %d, %q", code, &stderr, wire.ExitFailed, want)
	}
}
