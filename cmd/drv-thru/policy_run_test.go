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

// A flag that cannot be meant is wrong usage, not a policy that failed.
func TestPolicyFlagsAreUsage(t *testing.T) {
	for _, c := range []string{
		"policy run limits --event begin", "policy run limits --settings {", "policy bench limits --settings {", "ticket create --policy-settings {",
	} {
		var stdout, stderr bytes.Buffer
		code := run(t.Context(), strings.Fields(c), strings.NewReader(""), &stdout, &stderr, nil)
		if code != wire.ExitUsage || stdout.Len() > 0 || !strings.Contains(stderr.String(), "\nhint: ") {
			t.Errorf("%s: exit code %d, %q, %q", c, code, &stdout, &stderr)
		}
	}
}
