package main

import (
	"context"
	"os"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){
		"drv-thru": func() {
			os.Exit(run(context.Background(), os.Args[1:], os.Stdin, os.Stdout, os.Stderr, os.Environ()))
		},
	})
}

// TestScripts runs the command line as users do. No script needs Nix or a
// network; what does is in e2e.
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir: "testdata/script",
		Setup: func(e *testscript.Env) error {
			e.Setenv("HOME", e.WorkDir+"/home")
			e.Setenv("XDG_CONFIG_HOME", "")
			// Nothing listens there, and no nix is found.
			e.Setenv("NIX_DAEMON_SOCKET_PATH", e.WorkDir+"/no-daemon")
			e.Setenv("NO_COLOR", "1")
			return nil
		},
	})
}
