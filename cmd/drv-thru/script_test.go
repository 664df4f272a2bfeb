package main

import (
	"context"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/peterbourgon/ff/v3/ffcli"
	"github.com/rogpeppe/go-internal/testscript"

	"github.com/drv-thru/drv-thru/docs"
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
		Cmds: map[string]func(*testscript.TestScript, bool, []string){"waitfor": waitFor, "json": checkJSON},
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

// checkJSON holds standard output to what docs/json.md says that a command prints:
// json drv-thru COMMAND….
func checkJSON(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) == 0 {
		ts.Fatalf("usage: json drv-thru COMMAND…")
	}
	if err := docs.CheckJSON(strings.Join(args, " "), []byte(ts.ReadFile("stdout"))); err != nil {
		ts.Fatalf("%v", err)
	}
}

// Every command that takes --json is in docs/json.md, and what that says of each is
// tried: by a script, or with a Nix by e2e.
func TestJSONIsDocumented(t *testing.T) {
	tried := ""
	for _, pattern := range []string{"testdata/script/*.txtar", "../../e2e/*_test.go"} {
		files, err := filepath.Glob(pattern)
		if err != nil || len(files) == 0 {
			t.Fatalf("%s: %d files, %v", pattern, len(files), err)
		}
		for _, file := range files {
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			tried += string(text)
		}
	}
	told := docs.JSONCommands()
	for _, command := range told {
		if !strings.Contains(tried, "\njson "+command+"\n") && !strings.Contains(tried, `run("`+command+`"`) {
			t.Errorf("what %s prints is not tried", command)
		}
	}
	var walk func(*ffcli.Command)
	walk = func(c *ffcli.Command) {
		if c.FlagSet.Lookup("json") != nil && !slices.Contains(told, c.FlagSet.Name()) {
			t.Errorf("docs/json.md lacks %s", c.FlagSet.Name())
		}
		for _, s := range c.Subcommands {
			walk(s)
		}
	}
	walk(new(app).root())
}
