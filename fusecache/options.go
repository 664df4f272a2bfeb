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
	// Logger takes what is odd but no failure; nil discards it.
	Logger *slog.Logger
}
