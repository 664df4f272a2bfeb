package nixstore

import (
	"context"
	"io"
	"time"

	"github.com/drv-thru/drv-thru/core/builder"
	"github.com/drv-thru/drv-thru/core/nix"
	"github.com/drv-thru/drv-thru/core/nix/daemon"
)

// verbosity is what Nix's own clients ask of the daemon: activities and what a
// user sees without -v.
const verbosity = daemon.LevelInfo

type session struct {
	c          *daemon.Conn
	maxJobs    uint
	substitute bool
}

// Session implements builder.Store.
func (s *Store) Session(ctx context.Context) (builder.Session, error) {
	c, err := s.pool.Conn(ctx)
	if err != nil {
		return nil, err
	}
	return &session{c, s.cfg.MaxJobs, !s.cfg.NoSubstitutes}, nil
}

func (s *session) AddTempRoots(ctx context.Context, paths []nix.Path) error {
	return s.c.AddTempRoots(ctx, paths)
}

func (s *session) AddRoots(ctx context.Context, links []string) error {
	return s.c.AddIndirectRoots(ctx, links...)
}

// Import relies on the connection's promise to hold a NAR's last bytes back
// until its reader has ended without an error.
func (s *session) Import(ctx context.Context, items []builder.ImportItem) error {
	return s.c.AddMultipleToStore(ctx, len(items), func() (nix.PathInfo, io.Reader, error) {
		if len(items) == 0 {
			return nix.PathInfo{}, nil, io.EOF
		}
		item := items[0]
		items = items[1:]
		return item.Info, item.Nar, nil
	})
}

func (s *session) Build(ctx context.Context, targets []daemon.DerivedPath, opts builder.BuildOptions, sink daemon.Sink) ([]daemon.BuildResult, error) {
	err := s.c.SetOptions(ctx, daemon.Options{
		KeepFailed:     opts.KeepDiffering,
		KeepGoing:      opts.KeepGoing,
		Verbosity:      verbosity,
		MaxJobs:        s.maxJobs,
		MaxSilentTime:  uint64(opts.MaxSilentTime / time.Second),
		BuildCores:     uint(max(0, opts.Cores)),
		UseSubstitutes: s.substitute,
	})
	if err != nil {
		return nil, err
	}
	if err := s.c.SetSink(sink); err != nil {
		return nil, err
	}
	mode := daemon.BuildNormal
	if opts.Check {
		mode = daemon.BuildCheck
	}
	results, err := s.c.BuildPathsWithResults(ctx, targets, mode)
	for i := range results {
		if results[i].Status == daemon.NotDeterministic {
			results[i].ErrorMsg += differences(ctx, results[i].ErrorMsg)
		}
	}
	return results, err
}

func (s *session) Close() error { return s.c.Close() }
