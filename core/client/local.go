package client

import (
	"context"
	"fmt"
	"io"
	"os"

	"github.com/drv-thru/drv-thru/core/nix"
	"github.com/drv-thru/drv-thru/core/nix/nar"
)

// Store is what a session asks of the local Nix daemon.
type Store interface {
	// PathInfos returns what is known of those of the paths that are valid.
	PathInfos(ctx context.Context, paths []nix.Path) (map[nix.Path]nix.PathInfo, error)
	// ValidPaths returns those of the paths that are valid. From then on all of them
	// are kept from garbage collection, those that come later too.
	ValidPaths(ctx context.Context, paths []nix.Path) ([]nix.Path, error)
	// Substitutable returns those of the paths that the local Nix can have
	// from its own substituters.
	Substitutable(ctx context.Context, paths []nix.Path) ([]nix.Path, error)
	// Substitute brings paths in from there, and what they refer to.
	Substitute(ctx context.Context, paths []nix.Path) error
}

// Nar is the archive of a store path, addressable by offset.
type Nar interface {
	io.ReaderAt
	io.Closer
	Size() int64
}

// Files reads the store's contents.
type Files interface {
	// ReadDrv returns the text of a .drv file.
	ReadDrv(p nix.Path) ([]byte, error)
	// OpenNar returns a path's archive.
	OpenNar(ctx context.Context, p nix.Path) (Nar, error)
}

// StoreFiles are the files of the local store. Root stands before every store
// path: empty for the machine's own store.
type StoreFiles struct{ Root string }

// ReadDrv implements [Files].
func (s StoreFiles) ReadDrv(p nix.Path) ([]byte, error) {
	name := s.Root + string(p)
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	switch {
	case err != nil:
		return nil, err
	case !info.Mode().IsRegular():
		return nil, fmt.Errorf("%s is not a file", name)
	case info.Size() > nix.MaxDrvSize:
		return nil, fmt.Errorf("%s has %d bytes; a derivation has at most %d", name, info.Size(), int64(nix.MaxDrvSize))
	}
	data := make([]byte, info.Size())
	if _, err := io.ReadFull(f, data); err != nil {
		return nil, fmt.Errorf("read %s: %w", name, err)
	}
	return data, nil
}

// OpenNar implements [Files].
func (s StoreFiles) OpenNar(ctx context.Context, p nix.Path) (Nar, error) {
	return nar.Scan(ctx, s.Root+string(p))
}

var _ Files = StoreFiles{}
