package nixstore

import (
	"compress/bzip2"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/drv-thru/drv-thru/core/builder"
	"github.com/drv-thru/drv-thru/core/cache"
	"github.com/drv-thru/drv-thru/core/nix"
	"github.com/drv-thru/drv-thru/core/nix/daemon"
	"github.com/drv-thru/drv-thru/core/nix/nar"
)

// DefaultLogDir is where nix-daemon keeps build logs (log-dir of Nix's
// compile-time settings).
const DefaultLogDir = "/nix/var/log/nix"

// askers is how many questions to the daemon run at once, and how many to its
// substituters.
const askers = 8

// Config makes a Store.
type Config struct {
	Dial daemon.Config
	// Root is put before store paths when files are read: where the store is
	// mounted if not at /nix/store.
	Root string
	// LogDir is DefaultLogDir if empty.
	LogDir string
	// MaxJobs is how many derivations of one build the daemon builds at a time
	// on this machine: whoever sets options of a connection sets this one too. 0
	// leaves every build to the daemon's own remote builders.
	MaxJobs uint
	// NoSubstitutes has builds fetch nothing, as substitute = false does.
	NoSubstitutes bool
}

// Store is a builder.Store over nix-daemon.
type Store struct {
	cfg  Config
	pool *daemon.Pool
	// slow is for what the daemon asks its substituters: with much of that, or a
	// substituter that does not answer, it takes minutes.
	slow *daemon.Pool
}

var _ builder.Store = (*Store)(nil)

// New makes a Store. It connects when it is first asked something.
func New(cfg Config) *Store {
	if cfg.LogDir == "" {
		cfg.LogDir = DefaultLogDir
	}
	return &Store{cfg: cfg, pool: daemon.NewPool(cfg.Dial, askers), slow: daemon.NewPool(cfg.Dial, askers)}
}

// Close closes idle connections.
func (s *Store) Close() error { return errors.Join(s.pool.Close(), s.slow.Close()) }

// Info returns what the daemon says of itself, and whether it trusts us.
func (s *Store) Info(ctx context.Context) (info daemon.Info, err error) {
	err = s.pool.Do(ctx, func(c *daemon.Conn) error {
		info = c.Info()
		return nil
	})
	if err == nil {
		info.Trust, err = daemon.ProbeTrust(ctx, s.cfg.Dial)
	}
	return info, err
}

// PathInfos implements builder.Queries.
func (s *Store) PathInfos(ctx context.Context, paths []nix.Path) (map[nix.Path]nix.PathInfo, error) {
	infos := make(map[nix.Path]nix.PathInfo, len(paths))
	err := s.pool.Do(ctx, func(c *daemon.Conn) error {
		got, err := c.QueryPathInfos(ctx, paths)
		for _, info := range got {
			if info != nil {
				infos[info.Path] = *info
			}
		}
		return err
	})
	return infos, err
}

// ValidPaths implements builder.Queries.
func (s *Store) ValidPaths(ctx context.Context, paths []nix.Path, substitute bool) (valid []nix.Path, err error) {
	if substitute {
		// This takes as long as the download: it must keep no question waiting.
		c, err := s.pool.Conn(ctx)
		if err != nil {
			return nil, err
		}
		defer c.Close()
		return c.QueryValidPaths(ctx, paths, true)
	}
	err = s.pool.Do(ctx, func(c *daemon.Conn) error {
		valid, err = c.QueryValidPaths(ctx, paths, false)
		return err
	})
	return valid, err
}

// PathOfHash implements builder.Queries.
func (s *Store) PathOfHash(ctx context.Context, hash string) (p nix.Path, err error) {
	err = s.pool.Do(ctx, func(c *daemon.Conn) error {
		p, err = c.QueryPathFromHashPart(ctx, hash)
		return err
	})
	return p, err
}

// Missing implements builder.Queries.
func (s *Store) Missing(ctx context.Context, targets []daemon.DerivedPath) (m daemon.Missing, err error) {
	err = s.slow.Do(ctx, func(c *daemon.Conn) error {
		m, err = c.QueryMissing(ctx, targets)
		return err
	})
	return m, err
}

// ReadFile implements builder.Files.
func (s *Store) ReadFile(path nix.Path, limit int64) ([]byte, error) {
	// A store path never changes what it is, so this is no race; a link must not
	// lead out of the store.
	info, err := os.Lstat(s.file(path))
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() || info.Size() > limit {
		return nil, fmt.Errorf("%s is no regular file of at most %d bytes", path, limit)
	}
	f, err := os.Open(s.file(path))
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data := make([]byte, info.Size())
	if _, err := io.ReadFull(f, data); err != nil {
		return nil, fmt.Errorf("read %s: %w", path, err)
	}
	return data, nil
}

func (s *Store) file(path nix.Path) string { return s.cfg.Root + string(path) }

// OpenNar implements cache.NarOpener.
func (s *Store) OpenNar(ctx context.Context, path nix.Path) (cache.Nar, error) {
	l, err := nar.Scan(ctx, s.file(path))
	if err != nil {
		return nil, err // not a nil *Layout in an interface
	}
	return l, nil
}

// RestoreNar implements cache.NarOpener.
func (s *Store) RestoreNar(_ context.Context, path nix.Path, skeleton []byte) (cache.Nar, error) {
	l, err := nar.Restore(s.file(path), skeleton)
	if err != nil {
		return nil, err
	}
	return l, nil
}

// BuildLog implements builder.Files. Nix keeps a log below the first two
// characters of the derivation's base name, compressed unless configured
// otherwise (libstore/local-fs-store.cc).
func (s *Store) BuildLog(drv nix.Path) (io.ReadCloser, error) {
	base := drv.Base()
	name := filepath.Join(s.cfg.LogDir, "drvs", base[:2], base[2:])
	f, err := os.Open(name)
	if err == nil || !errors.Is(err, fs.ErrNotExist) {
		return f, err
	}
	f, err = os.Open(name + ".bz2")
	if err != nil {
		return nil, err
	}
	return struct {
		io.Reader
		io.Closer
	}{bzip2.NewReader(f), f}, nil
}
