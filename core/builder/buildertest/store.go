package buildertest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"sync"

	"github.com/drv-thru/drv-thru/core/builder"
	"github.com/drv-thru/drv-thru/core/cache"
	"github.com/drv-thru/drv-thru/core/nix"
	"github.com/drv-thru/drv-thru/core/nix/daemon"
	"github.com/drv-thru/drv-thru/core/nix/nar"
)

// Object is a store path's info and NAR.
type Object struct {
	Info nix.PathInfo
	Nar  []byte
}

// Store is a builder.Store in memory.
type Store struct {
	// OnBuild, if set, runs for every derivation that is built, before its
	// outputs appear; an error fails the build, a [daemon.Error] all of them. Closing the session ends ctx.
	OnBuild func(ctx context.Context, drv nix.Path, sink daemon.Sink) error
	// Contents, if set, makes what is in an output, by the name of its path.
	Contents func(name string) string
	// OnImport, if set, may fail an import as the daemon would.
	OnImport func(nix.PathInfo) error

	mu       sync.Mutex
	objects  map[nix.Path]Object
	upstream map[nix.Path]Object // what substituters have
	logs     map[nix.Path]string
	roots    map[string]bool
	sessions int
	imports  int
}

var _ builder.Store = (*Store)(nil)

// NewStore makes an empty store.
func NewStore() *Store {
	return &Store{
		objects: make(map[nix.Path]Object), upstream: make(map[nix.Path]Object),
		logs: make(map[nix.Path]string), roots: make(map[string]bool),
	}
}

// Add makes objects valid.
func (s *Store) Add(objects ...Object) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, o := range objects {
		s.objects[o.Info.Path] = o
	}
}

// AddUpstream gives objects to the substituters.
func (s *Store) AddUpstream(objects ...Object) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, o := range objects {
		s.upstream[o.Info.Path] = o
	}
}

// SetLog keeps a build log.
func (s *Store) SetLog(drv nix.Path, text string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.logs[drv] = text
}

// Delete makes a path invalid.
func (s *Store) Delete(p nix.Path) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.objects, p)
}

// Has reports whether a path is valid.
func (s *Store) Has(p nix.Path) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	_, ok := s.objects[p]
	return ok
}

// Sessions returns how many are open.
func (s *Store) Sessions() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.sessions
}

// Imports returns how many import operations there were.
func (s *Store) Imports() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.imports
}

// Roots returns how many links were registered.
func (s *Store) Roots() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.roots)
}

// PathInfos implements builder.Queries.
func (s *Store) PathInfos(_ context.Context, paths []nix.Path) (map[nix.Path]nix.PathInfo, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	infos := make(map[nix.Path]nix.PathInfo)
	for _, p := range paths {
		if o, ok := s.objects[p]; ok {
			infos[p] = o.Info
		}
	}
	return infos, nil
}

// ValidPaths implements builder.Queries.
func (s *Store) ValidPaths(_ context.Context, paths []nix.Path, substitute bool) ([]nix.Path, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var valid []nix.Path
	for _, p := range paths {
		if o, ok := s.upstream[p]; ok && substitute {
			s.objects[p] = o
		}
		if _, ok := s.objects[p]; ok {
			valid = append(valid, p)
		}
	}
	return nix.SortedPaths(valid), nil
}

// PathOfHash implements builder.Queries.
func (s *Store) PathOfHash(_ context.Context, hash string) (nix.Path, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for p := range s.objects {
		if p.Hash() == hash {
			return p, nil
		}
	}
	return "", nil
}

// Missing implements builder.Queries.
func (s *Store) Missing(_ context.Context, targets []daemon.DerivedPath) (daemon.Missing, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var m daemon.Missing
	seen := make(map[nix.Path]bool)
	for _, t := range targets {
		if len(t.Outputs) == 0 {
			if _, up := s.upstream[t.Path]; up {
				m.WillSubstitute = append(m.WillSubstitute, t.Path)
			} else if _, ok := s.objects[t.Path]; !ok {
				m.Unknown = append(m.Unknown, t.Path)
			}
			continue
		}
		if err := s.missing(t.Path, t.Outputs, seen, &m); err != nil {
			return m, err
		}
	}
	m.WillBuild = nix.SortedPaths(m.WillBuild)
	return m, nil
}

func (s *Store) missing(drv nix.Path, outputs []string, seen map[nix.Path]bool, m *daemon.Missing) error {
	if seen[drv] {
		return nil
	}
	d, err := s.derivation(drv)
	if err != nil {
		return err
	}
	all := true
	for _, o := range outputs {
		p := d.Outputs[o].Path
		if _, up := s.upstream[p]; up {
			m.WillSubstitute = append(m.WillSubstitute, p)
		} else if _, ok := s.objects[p]; !ok {
			all = false
		}
	}
	if all {
		return nil
	}
	seen[drv] = true
	m.WillBuild = append(m.WillBuild, drv)
	for in, outs := range d.InputDrvs {
		if err := s.missing(in, outs, seen, m); err != nil {
			return err
		}
	}
	return nil
}

func (s *Store) derivation(drv nix.Path) (*nix.Derivation, error) {
	o, ok := s.objects[drv]
	if !ok {
		return nil, fmt.Errorf("path '%s' is not valid", drv)
	}
	text, err := contents(o.Nar)
	if err != nil {
		return nil, err
	}
	return nix.ParseDerivation(drv.Name(), text)
}

// contents returns the bytes of the only file of a NAR.
func contents(archive []byte) ([]byte, error) {
	var text []byte
	c := nar.Checker{Handler: nar.Handler{Contents: func(p []byte) error {
		text = append(text, p...)
		return nil
	}}}
	if _, err := c.Write(archive); err != nil {
		return nil, err
	}
	return text, c.Close()
}

// ReadFile implements builder.Files.
func (s *Store) ReadFile(p nix.Path, limit int64) ([]byte, error) {
	s.mu.Lock()
	o, ok := s.objects[p]
	s.mu.Unlock()
	if !ok {
		return nil, fs.ErrNotExist
	}
	text, err := contents(o.Nar)
	if err == nil && int64(len(text)) > limit {
		err = errors.New("too large")
	}
	return text, err
}

// BuildLog implements builder.Files.
func (s *Store) BuildLog(drv nix.Path) (io.ReadCloser, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	text, ok := s.logs[drv]
	if !ok {
		return nil, fs.ErrNotExist
	}
	return io.NopCloser(bytes.NewReader([]byte(text))), nil
}

// OpenNar implements cache.NarOpener.
func (s *Store) OpenNar(_ context.Context, p nix.Path) (cache.Nar, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	o, ok := s.objects[p]
	if !ok {
		return nil, fs.ErrNotExist
	}
	return memNar{bytes.NewReader(o.Nar)}, nil
}

// RestoreNar implements cache.NarOpener.
func (s *Store) RestoreNar(ctx context.Context, p nix.Path, _ []byte) (cache.Nar, error) {
	return s.OpenNar(ctx, p)
}

// memNar has no skeleton: all there is to know is the path.
type memNar struct{ *bytes.Reader }

func (m memNar) Skeleton() []byte { return nil }
func (m memNar) Close() error     { return nil }
