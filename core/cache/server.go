package cache

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/drv-thru/drv-thru/core/chunk"
	"github.com/drv-thru/drv-thru/core/nix"
	"github.com/drv-thru/drv-thru/core/wire"
)

// Infos tells what a store knows of its paths.
type Infos interface {
	// PathInfos returns the infos of those paths that are valid.
	PathInfos(ctx context.Context, paths []nix.Path) (map[nix.Path]nix.PathInfo, error)
}

// NarOpener produces NARs from a store's files.
type NarOpener interface {
	OpenNar(ctx context.Context, path nix.Path) (Nar, error)
	// RestoreNar makes what OpenNar made before, from its Skeleton.
	RestoreNar(ctx context.Context, path nix.Path, skeleton []byte) (Nar, error)
}

// Nar is the archive of one store path; *nar.Layout is one. Safe for concurrent
// use but for Close.
type Nar interface {
	io.ReaderAt
	Size() int64
	// Skeleton is what RestoreNar needs.
	Skeleton() []byte
	Close() error
}

// ServerConfig makes a Server.
type ServerConfig struct {
	Infos Infos
	Nars  NarOpener
	Key   nix.SecretKey
	// Index keeps what was found out about NARs; nil keeps it in memory only.
	Index *Index
	Now   func() time.Time
	Log   *slog.Logger // default: none
	// Scans is how many NARs are opened and cut at once for requests, default 4:
	// opening one walks its whole tree.
	Scans int
}

const defaultScans = 4

// Server is the builder's side of the cache: it finds closures, signs narinfos
// and sends the chunks of NARs. Who may read what is decided before it is
// called. Nothing is copied: infos come from the Nix daemon, bytes from the
// store's files, and the Index says only where they are.
type Server struct {
	cfg        ServerConfig
	sigs       Recent[signedNar, string]
	entries    entries
	suspects   suspects
	background background
	paces      Recent[string, *chunk.Pace] // of the links to clients
	busy       atomic.Int64                // requests that are being answered
	scans      chan struct{}               // holds one for each NAR that is cut for a request

	ctx    context.Context // ends with Close
	stop   context.CancelFunc
	mu     sync.Mutex
	closed bool
	wg     sync.WaitGroup
}

// NewServer makes a Server.
func NewServer(cfg ServerConfig) *Server {
	if cfg.Scans <= 0 {
		cfg.Scans = defaultScans
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	s := &Server{
		cfg:   cfg,
		sigs:  Recent[signedNar, string]{Most: maxSignatures},
		paces: Recent[string, *chunk.Pace]{Most: maxPaces},
		scans: make(chan struct{}, cfg.Scans),
	}
	s.ctx, s.stop = context.WithCancel(context.Background())
	return s
}

// Close ends what runs in the background and closes what is kept open for later
// requests.
func (s *Server) Close() {
	s.mu.Lock()
	s.closed = true
	s.mu.Unlock()
	s.stop()
	s.wg.Wait()
	s.entries.close()
}

// Closure returns the infos of everything that can be reached from the roots,
// references before referrers. It fails when any of it is not valid or it has
// more than wire.MaxClosurePaths paths.
func (s *Server) Closure(ctx context.Context, roots []nix.Path) ([]nix.PathInfo, error) {
	infos := make(map[nix.Path]nix.PathInfo)
	next := nix.SortedPaths(roots)
	for len(next) > 0 {
		if len(infos)+len(next) > wire.MaxClosurePaths {
			return nil, wire.Errorf(wire.CodeTooLarge, "the closure has more than %d paths", wire.MaxClosurePaths)
		}
		got, err := s.cfg.Infos.PathInfos(ctx, next)
		if err != nil {
			return nil, err
		}
		for _, p := range next {
			info, ok := got[p]
			if !ok {
				return nil, fmt.Errorf("%s is not valid", p)
			}
			infos[p] = info
		}
		var more []nix.Path
		seen := make(map[nix.Path]bool)
		for _, p := range next {
			for _, ref := range infos[p].References {
				if _, ok := infos[ref]; !ok && !seen[ref] {
					seen[ref] = true
					more = append(more, ref)
				}
			}
		}
		next = more
	}
	order := make([]nix.PathInfo, 0, len(infos))
	references := func(p nix.Path) []nix.Path { return infos[p].References }
	for _, p := range importOrder(slices.Collect(maps.Keys(infos)), references) {
		order = append(order, infos[p])
	}
	return order, nil
}
