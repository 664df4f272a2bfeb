package nixstore

import (
	"context"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/drv-thru/drv-thru/core/nix"
)

// names is the store directory by hash part, read again when it has changed.
// (The daemon has an operation for this too; it asks its database and, for a
// hash that it lacks, every substituter in turn.)
type names struct {
	mu     sync.Mutex
	read   time.Time // the directory's own time when it was read
	byHash map[string]nix.Path
}

// PathOfHash implements builder.Queries. The path may be on disk without being
// valid yet; the question for its info tells.
func (s *Store) PathOfHash(_ context.Context, hash string) (nix.Path, error) {
	dir := s.cfg.Root + nix.StoreDir
	info, err := os.Stat(dir)
	if err != nil {
		return "", err
	}
	n := &s.names
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.byHash == nil || !info.ModTime().Equal(n.read) {
		f, err := os.Open(filepath.Clean(dir))
		if err != nil {
			return "", err
		}
		defer f.Close()
		all, err := f.Readdirnames(-1)
		if err != nil {
			return "", err
		}
		n.byHash = make(map[string]nix.Path, len(all))
		for _, name := range all {
			p, err := nix.ParseBase(name)
			if err != nil {
				continue
			}
			// Locks, and other results of a build, have its path's name and an ending.
			if other, ok := n.byHash[p.Hash()]; !ok || len(p) < len(other) {
				n.byHash[p.Hash()] = p
			}
		}
		n.read = info.ModTime()
	}
	return n.byHash[hash], nil
}
