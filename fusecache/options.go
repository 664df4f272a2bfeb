package fusecache

import (
	"errors"
	"log/slog"
)

// ErrUnavailable is wrapped by errors that say why FUSE cannot be had.
var ErrUnavailable = errors.New("FUSE cannot be used")

// Options of a mount.
type Options struct {
	// AllowOther lets all users read it, not just the one who mounts.
	AllowOther bool
	// Live says that the View looks paths up: a narinfo may appear, change and
	// go while it is mounted, so the kernel asks each time.
	Live bool
	// Disk keeps NARs that were read whole, and then serves them; nil keeps
	// nothing. It must stay open until the mount has ended.
	Disk *Disk
	// Logger takes what is odd but no failure; nil discards it.
	Logger *slog.Logger
}
