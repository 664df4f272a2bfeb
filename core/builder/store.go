package builder

import (
	"context"
	"io"
	"time"

	"github.com/drv-thru/drv-thru/core/cache"
	"github.com/drv-thru/drv-thru/core/nix"
	"github.com/drv-thru/drv-thru/core/nix/daemon"
)

// Store is the builder's Nix store.
type Store interface {
	Queries
	Files
	// Session opens a connection of its own to the daemon.
	Session(ctx context.Context) (Session, error)
}

// Queries asks the Nix daemon. Implementations pool connections and are safe
// for concurrent use.
type Queries interface {
	// PathInfos returns what is known of those paths that are valid, in one
	// pipelined exchange.
	PathInfos(ctx context.Context, paths []nix.Path) (map[nix.Path]nix.PathInfo, error)
	// ValidPaths returns those paths that are valid, after fetching what the
	// daemon's substituters have when substitute is set.
	ValidPaths(ctx context.Context, paths []nix.Path, substitute bool) ([]nix.Path, error)
	// Missing tells what building the targets would take.
	Missing(ctx context.Context, targets []daemon.DerivedPath) (daemon.Missing, error)
	// PathOfHash returns the valid path with this hash part, "" for none.
	PathOfHash(ctx context.Context, hash string) (nix.Path, error)
}

// Files reads the store's files, without the daemon.
type Files interface {
	cache.NarOpener
	// ReadFile returns the contents of a store path that is a regular file of
	// at most limit bytes.
	ReadFile(path nix.Path, limit int64) ([]byte, error)
	// BuildLog opens the daemon's log of a derivation, decompressed;
	// fs.ErrNotExist when there is none.
	BuildLog(drv nix.Path) (io.ReadCloser, error)
}

// Session is one connection to the daemon. Not safe for concurrent use, except
// for Close, which cancels what is running.
type Session interface {
	// AddTempRoots keeps the paths from being collected until Close, valid or not.
	AddTempRoots(ctx context.Context, paths []nix.Path) error
	// AddRoots registers the symbolic links at the absolute paths links, which
	// exist, as indirect roots.
	AddRoots(ctx context.Context, links []string) error
	// Import adds paths, references before referrers. When reading a NAR fails
	// the connection is broken off, so that this path never becomes valid, and
	// the reader's error is returned.
	Import(ctx context.Context, items []ImportItem) error
	// Build builds the targets and reports to sink meanwhile. An error is the
	// daemon's or the connection's; a build that failed is in the results.
	Build(ctx context.Context, targets []daemon.DerivedPath, opts BuildOptions, sink daemon.Sink) ([]daemon.BuildResult, error)
	Close() error
}

// ImportItem is one path for Session.Import. Nar gives Info.NarSize bytes.
type ImportItem struct {
	Info nix.PathInfo
	Nar  io.Reader
}

// BuildOptions are settings of one build.
type BuildOptions struct {
	// Check builds again what is valid already, and compares.
	Check bool
	// KeepDiffering has Check keep what differs, beside what it differs from and
	// until the next garbage collection, and name the files. Nix then also leaves
	// the directory of that build behind, which only root can remove.
	KeepDiffering bool
	KeepGoing     bool
	// MaxSilentTime is 0 for no limit.
	MaxSilentTime time.Duration
	// Cores is what builders see as NIX_BUILD_CORES; 0 leaves it to the daemon.
	Cores int
}
