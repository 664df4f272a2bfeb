package nixstore

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// tree makes files; a name that ends in "*" can be run, a text that begins with
// "->" is a link.
func tree(t *testing.T, files map[string]string) string {
	t.Helper()
	root := t.TempDir()
	for name, text := range files {
		mode := os.FileMode(0o444)
		name, run := strings.CutSuffix(name, "*")
		if run {
			mode = 0o555
		}
		path := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		var err error
		if to, link := strings.CutPrefix(text, "->"); link {
			err = os.Symlink(to, path)
		} else {
			err = os.WriteFile(path, []byte(text), mode)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return root
}

func TestCompare(t *testing.T) {
	big := strings.Repeat("x", 3*compareUnit)
	for _, c := range []struct {
		first, second map[string]string
		want          string
	}{
		{map[string]string{"a": "1", "b/c*": big, "l": "->a"}, map[string]string{"a": "1", "b/c*": big, "l": "->a"}, ""},
		{map[string]string{"a": "1", "b/c": "2"}, map[string]string{"a": "1", "b/c": "3"}, "b/c"},
		{map[string]string{"b": big + "1"}, map[string]string{"b": big + "2"}, "b"},
		{map[string]string{"a": "1"}, map[string]string{"a*": "1"}, "a"},
		{map[string]string{"a": "->b"}, map[string]string{"a": "->c"}, "a"},
		{map[string]string{"a": "->b"}, map[string]string{"a": "b"}, "a"},
		{map[string]string{"a/x": "1", "a/y": "1"}, map[string]string{"a": "1"}, "a"},
		{map[string]string{"a/x": "1", "a/y": "1", "z": ""}, map[string]string{"z": "", "n": "1"}, "a (only in the first), n (only in the second)"},
	} {
		got := compare(t.Context(), tree(t, c.first), tree(t, c.second))
		if want := c.want; want != "" && got != "\nthe two results differ in: "+want || want == "" && got != "" {
			t.Errorf("%v, %v: %q", c.first, c.second, got)
		}
	}

	one, other := t.TempDir(), t.TempDir()
	for i := range maxDiffering + 3 {
		if err := os.WriteFile(filepath.Join(one, strings.Repeat("n", i+1)), nil, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if got := compare(t.Context(), one, other); !strings.HasSuffix(got, " and 3 more") {
		t.Errorf("many: %q", got)
	}

	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if got := compare(ctx, one, other); !strings.Contains(got, "could not be found out") {
		t.Errorf("ended: %q", got)
	}
}

// Only what Nix has put beside the output is looked at, however it says so.
func TestKeptResults(t *testing.T) {
	const path = "/nix/store/00000000000000000000000000000000-a"
	for message, want := range map[string]bool{
		"output '" + path + "' differs from '" + path + ".check'": true,
		`output "` + path + `" differs from "` + path + `.check"`: true,
		"error: derivation '\x1b[35;1m" + path + ".drv\x1b[0m' may not be deterministic: output '\x1b[35;1m" + path +
			"\x1b[0m' differs from '\x1b[35;1m" + path + ".check\x1b[0m'": true,
		"":                              false,
		"output '" + path + "' differs": false,
		"output '/etc' differs from '/etc.check'":          false,
		"output '" + path + "' differs from '/etc/passwd'": false,
	} {
		first, second, ok := keptResults(message)
		if ok != want || ok && (first != path || second != path+".check") {
			t.Errorf("%q: %q, %q, %v", message, first, second, ok)
		}
	}
}
