package main

import (
	"bytes"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/drv-thru/drv-thru/core/nix"
)

func TestFlagsAfterOperands(t *testing.T) {
	for _, c := range []struct {
		args  string
		want  string // installables
		check func(f *buildFlags) bool
	}{
		{"a b", "a b", nil},
		{"-L a --keep-going b --no-link", "a b", func(f *buildFlags) bool { return f.logs && f.keepGoing && f.noLink }},
		{"a -o name b", "a b", func(f *buildFlags) bool { return f.outLink == "name" }},
		{"a -- -L --x", "a -L --x", func(f *buildFlags) bool { return !f.logs }},
		{"-- -L b", "-L b", func(f *buildFlags) bool { return !f.logs }},
		{"-- a --json", "a --json", func(f *buildFlags) bool { return !f.json }},
		{"a -- b -- c", "a b -- c", nil},
		{"--override-input x y a", "a", func(f *buildFlags) bool {
			return slices.Equal(f.overrides.list, [][2]string{{"x", "y"}})
		}},
		{"a --override-input x y -L --override-input z w b", "a b", func(f *buildFlags) bool {
			return f.logs && slices.Equal(f.overrides.list, [][2]string{{"x", "y"}, {"z", "w"}})
		}},
		{"--arg n 5 --argstr s text -f file a", "a", func(f *buildFlags) bool {
			return slices.Equal(f.args.list, [][2]string{{"n", "5"}}) && slices.Equal(f.argstrs.list, [][2]string{{"s", "text"}}) && f.file == "file"
		}},
		{"--arg=n=5 a", "a", func(f *buildFlags) bool { return slices.Equal(f.args.list, [][2]string{{"n", "5"}}) }},
		{"--argstr s a=b=c x", "x", func(f *buildFlags) bool { return slices.Equal(f.argstrs.list, [][2]string{{"s", "a=b=c"}}) }},
	} {
		var f buildFlags
		a := &app{stderr: &bytes.Buffer{}, args: strings.Fields(c.args)}
		fs := a.flags("build")
		f.register(fs)
		// As ffcli does: what the first parse left over.
		if err := fs.Parse(a.args); err != nil {
			t.Fatal(err)
		}
		got, err := a.operands(fs, fs.Args(), &f.args, &f.argstrs, &f.overrides)
		if err != nil || strings.Join(got, " ") != c.want || c.check != nil && !c.check(&f) {
			t.Errorf("%s: %q, %v, %+v", c.args, got, err, f)
		}
	}
}

// A variable of the environment has both words of a flag that takes two.
func TestPairsInTheEnvironment(t *testing.T) {
	for text, want := range map[string][2]string{
		"n 5": {"n", "5"}, "n a=b c": {"n", "a=b c"}, "n=a b": {"n", "a b"}, "n= b": {"n", " b"},
	} {
		var p pairs
		if err := p.Set(text); err != nil || p.complete(".#hello") || !slices.Equal(p.list, [][2]string{want}) {
			t.Errorf("%q: %v, %q", text, err, p.list)
		}
	}
}

func TestReplaceLink(t *testing.T) {
	dir := t.TempDir()
	link := filepath.Join(dir, "result")
	a := nix.Path("/nix/store/00000000000000000000000000000000-a")
	b := nix.Path("/nix/store/11111111111111111111111111111111-b")
	for _, p := range []nix.Path{a, b, b} {
		if err := replaceLink(link, p); err != nil {
			t.Fatal(err)
		}
		if got, _ := os.Readlink(link); got != string(p) {
			t.Errorf("links to %s", got)
		}
	}
	file, foreign := filepath.Join(dir, "file"), filepath.Join(dir, "foreign")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("/etc/passwd", foreign); err != nil {
		t.Fatal(err)
	}
	for name, why := range map[string]string{
		file: "exists and is not a link", dir: "exists and is not a link", foreign: "not in the store",
		filepath.Join(file, "result"): "not a directory",
	} {
		if err := replaceLink(name, a); err == nil || !strings.Contains(err.Error(), why) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if entries, _ := os.ReadDir(dir); len(entries) != 3 {
		t.Errorf("left behind: %v", entries)
	}
}

func TestPlainMessage(t *testing.T) {
	for name, c := range map[string][2]string{
		"2.8": {"\x1b[31;1merror:\x1b[0m builder for '\x1b[35;1m/nix/store/x.drv\x1b[0m' failed with exit code 7;\n       last 10 log lines:\n       > a\n       > b\n       For full logs, run '\x1b[1mnix log /nix/store/x.drv\x1b[0m'.",
			"builder for '/nix/store/x.drv' failed with exit code 7"},
		"2.26": {"error: builder for '/nix/store/x.drv' failed with exit code 7;\n       last 2 log lines:\n       > a\n       > b\n       For full logs, run:\n         nix log /nix/store/x.drv",
			"builder for '/nix/store/x.drv' failed with exit code 7"},
		"2.34":  {"Cannot build '/nix/store/x.drv'.\n       Reason: builder failed with exit code 7.\n       Last 1 log lines:\n       > a\n       For full logs, run:\n         nix log /nix/store/x.drv", "Cannot build '/nix/store/x.drv'.\n       Reason: builder failed with exit code 7."},
		"other": {"path 'x' is not valid", "path 'x' is not valid"},
		"empty": {"", ""},
	} {
		if got := plainMessage(c[0]); got != c[1] {
			t.Errorf("%s: %q", name, got)
		}
	}
}

func TestNixEnvHoldsNoTicket(t *testing.T) {
	a := &app{environ: []string{"PATH=/bin", "HOME=/h", "DRV_THRU_TICKET=secret", "AWS_SECRET=x", "NIX_REMOTE=daemon", "XDG_CACHE_HOME=/c"}}
	got := a.nixEnv()
	if want := []string{"PATH=/bin", "HOME=/h", "NIX_REMOTE=daemon", "XDG_CACHE_HOME=/c"}; !slices.Equal(got, want) {
		t.Errorf("%q", got)
	}
}
