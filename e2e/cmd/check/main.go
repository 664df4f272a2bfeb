// Command check runs the project's checks one after another and counts what
// passed: every test and benchmark of "go test" by name, every other check as
// one. e2e/test runs it; see there for how.
package main

import (
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// staticcheck is pinned, so that a new release does not fail an old commit.
const staticcheck = "honnef.co/go/tools/cmd/staticcheck@v0.8.2"

// wasmTested are the packages whose unit tests also run under js/wasm.
var wasmTested = []string{"key", "ticket", "wire", "chunk", "nix", "link"}

// wasmPolicies are the tests of package policy and of the built-in module that
// also run there: by wazero's interpreter, in one thread, so without modules
// that have to be stopped.
const wasmPolicies = "^Test(Decide|AnswerInPieces|Stderr|Repeatable|Hash|Request.*|CheckSettings|Apply|Patch|Cases|Limits)$"

// A check is one word of the command line.
type check struct {
	name string
	// optional checks run only when they are named.
	optional bool
	run      func(*runner)
}

var checks = []check{
	{name: "fmt", run: (*runner).fmt},
	{name: "vet", run: (*runner).vet},
	{name: "staticcheck", run: (*runner).staticcheck},
	{name: "flake", run: (*runner).vendorHash},
	{name: "unit", run: (*runner).unit},
	{name: "wasm", run: (*runner).wasm},
	{name: "cross", run: (*runner).cross},
	{name: "packaging", run: (*runner).packaging},
	{name: "policy", run: (*runner).policies},
	{name: "e2e", run: (*runner).e2e},
	{name: "bench", optional: true, run: (*runner).bench},
}

func main() {
	flag.Usage = func() { fmt.Fprintln(os.Stderr, "usage: check [name]... [flags of go test]") }
	names, testFlags := split(os.Args[1:])
	for _, name := range names {
		if !slices.ContainsFunc(checks, func(c check) bool { return c.name == name }) {
			fmt.Fprintf(os.Stderr, "no check is called %q\n", name)
			os.Exit(2)
		}
	}
	r := &runner{testFlags: testFlags}
	for _, c := range checks {
		if slices.Contains(names, c.name) || len(names) == 0 && !c.optional {
			started := time.Now()
			c.run(r)
			fmt.Printf("--- %s took %v\n\n", c.name, time.Since(started).Round(time.Second/10))
		}
	}
	os.Exit(r.report())
}

// split takes the names of checks from the flags of go test, which begin at the
// first argument with a dash.
func split(args []string) (names, flags []string) {
	i := slices.IndexFunc(args, func(s string) bool { return strings.HasPrefix(s, "-") })
	if i < 0 {
		return args, nil
	}
	return args[:i], args[i:]
}

// A runner runs checks and keeps count.
type runner struct {
	tally
	testFlags []string
}

func (r *runner) fmt() {
	r.silent("gofmt", nil, "gofmt", "-l", ".")
}

func (r *runner) vet() {
	r.command("go vet", nil, "go", "vet", "-tags", "e2e", "./...")
	r.command("go vet, js/wasm", js, "go", "vet", "./core/...")
}

func (r *runner) staticcheck() {
	r.command("staticcheck", nil, "go", "run", staticcheck, "-tags", "e2e", "./...")
}

func (r *runner) unit() {
	// By default every process waits for a second at its end, and scripts run a
	// hundred of them.
	env := []string{"GORACE=atexit_sleep_ms=10"}
	r.goTest("", env, append([]string{"-race"}, append(r.testFlags, "./...")...)...)
}

var (
	js     = []string{"GOOS=js", "GOARCH=wasm"}
	wasip1 = []string{"GOOS=wasip1", "GOARCH=wasm"}
)

func (r *runner) wasm() {
	r.command("build core and policy, js/wasm", js, "go", "build", "./core/...", "./policy/...")
	r.command("build core and policy, wasip1", wasip1, "go", "build", "./core/...", "./policy/...")
	var packages []string
	for _, name := range wasmTested {
		if tests, _ := filepath.Glob("core/" + name + "/*_test.go"); len(tests) > 0 {
			packages = append(packages, "./core/"+name)
		}
	}
	node, err := nodeCommand()
	if err != nil {
		r.fail("js/wasm", err.Error())
		return
	}
	args := append([]string{"-exec", node}, r.testFlags...)
	r.goTest("js/wasm: ", js, append(args, packages...)...)
	r.goTest("js/wasm: ", js, append(args, "-run", wasmPolicies, "./policy", "./policy/builtin")...)
}

// nodeCommand is what runs a js/wasm binary in Node. The environment is a new
// one, because Go's runtime has room for a few kilobytes only.
func nodeCommand() (string, error) {
	node := os.Getenv("NODE")
	if node == "" {
		node = "node"
	}
	goroot, err := exec.Command("go", "env", "GOROOT").Output()
	if err != nil {
		return "", fmt.Errorf("go env GOROOT: %w", err)
	}
	script := filepath.Join(strings.TrimSpace(string(goroot)), "lib", "wasm", "wasm_exec_node.js")
	// Node 22 has a global WebSocket without being told and still takes the
	// flag, as do all from 20.10.
	return fmt.Sprintf("env -i PATH=%s HOME=%s TMPDIR=%s DRV_THRU_LAB_DIR=%s %s --experimental-websocket --stack-size=8192 %s",
		os.Getenv("PATH"), os.Getenv("HOME"), os.TempDir(), os.Getenv("DRV_THRU_LAB_DIR"), node, script), nil
}

func (r *runner) e2e() {
	args := []string{"-tags", "e2e", "-p", "1", "-count", "1", "-timeout", "60m"}
	r.goTest("", nil, append(append(args, r.testFlags...), "./e2e/...")...)
}

func (r *runner) bench() {
	args := []string{"-tags", "e2e", "-p", "1", "-run", "^$", "-bench", ".", "-benchtime", "5x", "-timeout", "60m"}
	r.goTest("", nil, append(append(args, r.testFlags...), "./e2e/...")...)
}
