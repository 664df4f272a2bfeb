package fusecache

import (
	"errors"
	"log/slog"
)

// ErrUnavailable is wrapped by errors that say why FUSE cannot be had.
var ErrUnavailable = errors.New("FUSE cannot be used")

// MinPiped is the size from which NARs go through a pipe ([Options].Pipes). Up to four
// requests cost no more than to make one.
const MinPiped = 256 << 10

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
	// Pipes is what the paths of named pipes begin with, through which NARs of 256 KiB
	// and more go: in the mount they are symbolic links. It is for a mount whose only
	// reader reads each NAR from the beginning to the end, as Nix does, which takes half
	// the time so. Smaller files are given to the kernel before it asks, once another
	// process lists their directories and they are here. Empty, or where no named pipe
	// can be made, all are ordinary files.
	Pipes string
	// Logger takes what is odd but no failure; nil discards it.
	Logger *slog.Logger
}
