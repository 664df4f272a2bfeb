package main

import (
	"context"
	"net"
	"os"
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
		Cmds: map[string]func(*testscript.TestScript, bool, []string){"waitfor": waitFor},
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
