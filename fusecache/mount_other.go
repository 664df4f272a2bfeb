//go:build !linux

package fusecache

import (
	"fmt"
	"os"
	"runtime"

	"github.com/drv-thru/drv-thru/core/cache"
)

// Mounted is a View that is mounted; there are none on this system.
type Mounted struct{}

// Available reports why FUSE cannot be had.
func Available() error {
	return fmt.Errorf("%w: not supported on %s", ErrUnavailable, runtime.GOOS)
}

// Mount fails with [ErrUnavailable].
func Mount(*cache.View, string, Options) (*Mounted, error) { return nil, Available() }

// Dir returns "".
func (*Mounted) Dir() string { return "" }

// URL returns "".
func (*Mounted) URL() string { return "" }

// Done returns nil.
func (*Mounted) Done() <-chan struct{} { return nil }

// Unmount does nothing.
func (*Mounted) Unmount() error { return nil }

// RemovePipe removes a file.
func RemovePipe(path string) { _ = os.Remove(path) }

// ClearStale does nothing.
func ClearStale(string) error { return nil }
