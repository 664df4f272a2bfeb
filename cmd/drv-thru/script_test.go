package main

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){
		"drv-thru": func() {
			os.Exit(run(context.Background(), os.Args[1:], os.Stdin, os.Stdout, os.Stderr, os.Environ()))
		},
		"fake-builder": fakeBuilder,
	})
}

// TestScripts runs the command line as users do. No script needs Nix or a
// network; what does is in e2e.
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:  "testdata/script",
		Cmds: map[string]func(*testscript.TestScript, bool, []string){"waitfor": waitFor, "shape": shape},
		Setup: func(e *testscript.Env) error {
			e.Setenv("HOME", e.WorkDir+"/home")
			e.Setenv("XDG_CONFIG_HOME", "")
			// Nothing listens there, and no nix is found.
			e.Setenv("NIX_DAEMON_SOCKET_PATH", e.WorkDir+"/no-daemon")
			e.Setenv("NO_COLOR", "1")
			// A script that starts a fake-builder puts its socket here.
			e.Setenv("DRV_THRU_ADMIN_SOCKET", e.WorkDir+"/admin.sock")
			return nil
		},
	})
}

// waitFor waits until somebody answers at a Unix socket: waitfor PATH.
func waitFor(ts *testscript.TestScript, _ bool, args []string) {
	deadline := time.Now().Add(20 * time.Second)
	for tick := time.Tick(10 * time.Millisecond); ; <-tick {
		c, err := net.Dial("unix", args[0])
		if err == nil {
			c.Close()
			return
		}
		if time.Now().After(deadline) {
			ts.Fatalf("waitfor: %v", err)
		}
	}
}

// shape makes sure that the JSON on standard output has what scripts rely on:
// shape FIELD:TYPE…, where FIELD is written as in "active[].id", and "" is the
// whole. Further fields may come; an empty array has none.
func shape(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) == 0 {
		ts.Fatalf("usage: shape FIELD:TYPE…")
	}
	found := make(map[string]string)
	dec := json.NewDecoder(strings.NewReader(ts.ReadFile("stdout")))
	for {
		var v any
		if err := dec.Decode(&v); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			ts.Fatalf("standard output is not JSON: %v", err)
		}
		fields("", v, found)
	}
	for _, arg := range args {
		i := strings.LastIndexByte(arg, ':')
		if got := found[arg[:i]]; got != arg[i+1:] {
			ts.Fatalf("%s is of type %q, not %s; there are: %v", arg[:i], got, arg[i+1:], found)
		}
	}
}

// fields notes the types of all that is in v.
func fields(path string, v any, found map[string]string) {
	switch v := v.(type) {
	case map[string]any:
		found[path] = "object"
		for name, member := range v {
			fields(strings.TrimPrefix(path+"."+name, "."), member, found)
		}
	case []any:
		found[path] = "array"
		for _, member := range v {
			fields(path+"[]", member, found)
		}
	case string:
		found[path] = "string"
	case float64:
		found[path] = "number"
	case bool:
		found[path] = "bool"
	case nil:
		found[path] = "null"
	}
}
