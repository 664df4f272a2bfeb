//go:build e2e

// Package e2e tests drv-thru end to end: real Nix, real FUSE, real sockets, in
// the hosts of package lab.
package e2e

import (
	"os"
	"testing"

	"github.com/drv-thru/drv-thru/e2e/lab"
)

func TestMain(m *testing.M) {
	if os.Getenv(holdEnv) != "" {
		hold()
	}
	lab.Main(m.Run)
}
