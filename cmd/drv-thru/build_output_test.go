package main

import (
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/drv-thru/drv-thru/cmd/drv-thru/internal/term"
	"github.com/drv-thru/drv-thru/core/client"
	"github.com/drv-thru/drv-thru/core/nix"
	"github.com/drv-thru/drv-thru/core/wire"
)

func TestDryRun(t *testing.T) {
	in := &client.Inputs{Paths: []nix.Path{"/nix/store/0-source", "/nix/store/1-a.drv"}, Bytes: 3 << 20}
	for name, c := range map[string]struct {
		plan       wire.Plan
		text, json string
	}{
		"inputs are missing": {
			wire.Plan{Wanted: []int{0}, UploadBytes: 2 << 20},
			`would send    1 path, 2.0 MiB of 3.0 MiB
would build   unknown until the builder has the inputs
would import  unknown until it is built
`, `{"send":["/nix/store/0-source"],"send_bytes":2097152,"input_paths":2,"input_bytes":3145728,"built":false,"build":null,"fetch":null,"fetch_bytes":null,"unpack_bytes":null,"receive_paths":null,"receive_bytes":null}
`,
		},
		"to be built": {
			wire.Plan{WillBuild: []string{"/nix/store/1-a.drv", "/nix/store/2-\x1b[2J\nb.drv"}, WillSubstitute: []string{"/nix/store/3-gcc"}, DownloadBytes: 1 << 20, UnpackBytes: 5 << 20},
			`would send    0 paths, 0 B of 3.0 MiB
would build   2 derivations
  /nix/store/1-a.drv
  /nix/store/2-b.drv
would fetch   1 path there, 1.0 MiB (5.0 MiB unpacked)
would import  unknown until it is built
`, `{"send":[],"send_bytes":0,"input_paths":2,"input_bytes":3145728,"built":false,"build":["/nix/store/1-a.drv","/nix/store/2-\u001b[2J\nb.drv"],"fetch":["/nix/store/3-gcc"],"fetch_bytes":1048576,"unpack_bytes":5242880,"receive_paths":null,"receive_bytes":null}
`,
		},
		"built": {
			wire.Plan{Built: true, OutputPaths: 4, OutputBytes: 1 << 63},
			`would send    0 paths, 0 B of 3.0 MiB
would build   nothing: it is built there already
would import  4 paths at most, 8.0 EiB unpacked
`, `{"send":[],"send_bytes":0,"input_paths":2,"input_bytes":3145728,"built":true,"build":[],"fetch":[],"fetch_bytes":0,"unpack_bytes":0,"receive_paths":4,"receive_bytes":9223372036854775808}
`,
		},
	} {
		for _, asJSON := range []bool{false, true} {
			var out bytes.Buffer
			p := term.New(io.Discard, func(string) string { return "" })
			r := &buildRun{app: &app{stdout: &out}, flags: &buildFlags{json: asJSON}, printer: p, view: term.NewProgress(p, term.Config{})}
			if err := r.printPlan(&c.plan, in); err != nil {
				t.Fatal(err)
			}
			want := c.text
			if asJSON {
				want = c.json
			}
			if got := out.String(); got != want {
				t.Errorf("%s:\n%s\nwant\n%s", name, got, want)
			}
			if strings.Contains(out.String(), "\x1b") {
				t.Errorf("%s: %q", name, out.String())
			}
		}
	}
}

// Where everything is here already, --dry-run --json prints what it prints elsewhere.
func TestDryRunOfNothing(t *testing.T) {
	var out bytes.Buffer
	p := term.New(io.Discard, func(string) string { return "" })
	r := &buildRun{
		app: &app{stdout: &out}, flags: &buildFlags{json: true, dryRun: true, noLink: true}, printer: p, view: term.NewProgress(p, term.Config{}),
		targets: []target{{installable: "a", drv: someHash + "a.drv", outputs: []output{{"out", someHash + "a"}}}},
	}
	if err := r.finish(t.Context(), r.targets, nil); err != nil {
		t.Fatal(err)
	}
	const want = `{"send":[],"send_bytes":0,"input_paths":0,"input_bytes":0,"built":true,"build":[],"fetch":[],"fetch_bytes":0,"unpack_bytes":0,"receive_paths":0,"receive_bytes":0}` + "\n"
	if out.String() != want {
		t.Errorf("got %swant %s", out.String(), want)
	}
}

// Who cannot have a link where it was to be is told where the outputs are.
func TestOutputsWithoutLink(t *testing.T) {
	var out, shown bytes.Buffer
	p := term.New(&shown, func(string) string { return "" })
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	r := &buildRun{
		app: &app{stdout: &out}, flags: &buildFlags{printPaths: true, outLink: filepath.Join(file, "result")}, printer: p, view: term.NewProgress(p, term.Config{}),
		targets: []target{{installable: "a", drv: someHash + "a.drv", outputs: []output{{"out", someHash + "a"}}}},
		store:   &localStore{},
	}
	sum := &summary{result: &wire.Result{}, path: func() string { return "" }}
	if err := r.finish(t.Context(), r.targets, sum); !errors.Is(err, syscall.ENOTDIR) {
		t.Errorf("got %v", err)
	}
	if out.String() != someHash+"a\n" || !strings.Contains(shown.String(), "output       out  "+someHash+"a") {
		t.Errorf("printed %q, and %q", &out, &shown)
	}
}

// What is built there already is what --rebuild builds.
func TestDryRunOfRebuild(t *testing.T) {
	var out bytes.Buffer
	p := term.New(io.Discard, func(string) string { return "" })
	r := &buildRun{app: &app{stdout: &out}, flags: &buildFlags{rebuild: true}, printer: p, view: term.NewProgress(p, term.Config{})}
	if err := r.printPlan(&wire.Plan{Built: true, OutputPaths: 1, OutputBytes: 1}, &client.Inputs{}); err != nil {
		t.Fatal(err)
	}
	if got := out.String(); strings.Contains(got, "nothing") || !strings.Contains(got, "would build   again what is built there already") {
		t.Errorf("%s", got)
	}
}

func TestSummaryOfInputs(t *testing.T) {
	for _, c := range []struct {
		sum  summary
		want string
	}{
		{summary{inputs: 1200, sent: 117_760, result: &wire.Result{UploadBytes: 129 << 20}}, "inputs sent  115 KiB of 1200 paths, 129 MiB unpacked\n"},
		{summary{inputs: 5, result: &wire.Result{}}, "inputs sent  0 B of 5 paths, 0 B unpacked\n"},
		{summary{result: &wire.Result{UploadBytes: 1 << 63}}, "inputs sent  8.0 EiB unpacked\n"}, // attached to
	} {
		var out bytes.Buffer
		p := term.New(&out, func(string) string { return "" })
		c.sum.path = func() string { return "" }
		(&buildRun{printer: p}).summarise(nil, &c.sum)
		p.Flush()
		if !strings.HasPrefix(out.String(), c.want) {
			t.Errorf("%s, want %s", out.String(), c.want)
		}
	}
}
