// Command drv-thru builds Nix derivations on other people's machines, and lets
// other people build on this one.
package main

import (
	"context"
	"os"
)

func main() {
	// quic-go tells on standard error that a system's limit for UDP buffers is
	// low, which is no user's concern: throughput is measured anyway.
	_ = os.Setenv("QUIC_GO_DISABLE_RECEIVE_BUFFER_WARNING", "true")
	os.Exit(run(context.Background(), os.Args[1:], os.Stdin, os.Stdout, os.Stderr, os.Environ()))
}
