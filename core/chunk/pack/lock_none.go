//go:build !(linux || darwin || freebsd || netbsd || openbsd || dragonfly)

package pack

import "os"

// flock does nothing where a store has one process only, as in a browser.
func flock(*os.File) error { return nil }
