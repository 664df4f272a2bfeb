package cache

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/nix-community/go-nix/pkg/narinfo/signature"

	"github.com/drv-thru/drv-thru/core/nix"
	"github.com/drv-thru/drv-thru/core/wire"
)

// memStore are the infos of a store.
type memStore struct{ infos map[nix.Path]nix.PathInfo }

func (s *memStore) PathInfos(_ context.Context, paths []nix.Path) (map[nix.Path]nix.PathInfo, error) {
	got := make(map[nix.Path]nix.PathInfo)
	for _, p := range paths {
		if info, ok := s.infos[p]; ok {
			got[p] = info
		}
	}
	return got, nil
}

func storePath(i int) nix.Path {
	return nix.Path(fmt.Sprintf("/nix/store/%032d-p%d", i, i))
}

// add makes path i with references and a NAR of size bytes.
func (s *memStore) add(i, size int, refs ...int) nix.PathInfo {
	data := bytes.Repeat([]byte{byte(i)}, size)
	info := nix.PathInfo{Path: storePath(i), NarHash: nix.SumHash(data), NarSize: uint64(size)}
	for _, r := range refs {
		info.References = append(info.References, storePath(r))
	}
	info.References = nix.SortedPaths(info.References)
	s.infos[info.Path] = info
	return info
}

func newServer(t *testing.T) (*Server, *memStore, nix.PublicKey) {
	t.Helper()
	store := &memStore{infos: make(map[nix.Path]nix.PathInfo)}
	secret, public, err := signature.GenerateKeypair("test-1", strings.NewReader(strings.Repeat("k", 64)))
	if err != nil {
		t.Fatal(err)
	}
	s := NewServer(ServerConfig{Infos: store, Key: secret, Now: time.Now})
	t.Cleanup(s.Close)
	return s, store, public
}

func TestServerClosureOrder(t *testing.T) {
	s, store, _ := newServer(t)
	store.add(1, 10)
	store.add(2, 10, 1, 2) // refers to itself
	store.add(3, 10, 1, 2)
	store.add(4, 10, 3, 1)
	store.add(9, 10) // of nobody
	infos, err := s.Closure(t.Context(), []nix.Path{storePath(4), storePath(2), storePath(4)})
	if err != nil {
		t.Fatal(err)
	}
	seen := make(map[nix.Path]bool)
	for _, info := range infos {
		for _, ref := range info.References {
			if !seen[ref] && ref != info.Path {
				t.Errorf("%s before %s", info.Path, ref)
			}
		}
		seen[info.Path] = true
	}
	if len(infos) != 4 || seen[storePath(9)] {
		t.Errorf("got %d paths", len(infos))
	}
	delete(store.infos, storePath(1))
	if _, err := s.Closure(t.Context(), []nix.Path{storePath(4)}); err == nil || !strings.Contains(err.Error(), string(storePath(1))) {
		t.Errorf("a closure with a hole: %v", err)
	}
}

func TestServerDeepClosure(t *testing.T) {
	s, store, _ := newServer(t)
	store.add(0, 1)
	const deep = 3000
	for i := 1; i < deep; i++ {
		store.add(i, 1, i-1)
	}
	infos, err := s.Closure(t.Context(), []nix.Path{storePath(deep - 1)})
	if err != nil || len(infos) != deep || infos[0].Path != storePath(0) {
		t.Errorf("got %d, %v", len(infos), err)
	}
}

// A closure of any size would take all memory: no more is asked for than it may have.
func TestServerClosureIsBounded(t *testing.T) {
	s, store, _ := newServer(t)
	root := store.add(0, 1)
	for i := range wire.MaxClosurePaths {
		root.References = append(root.References, storePath(i+1))
	}
	for _, tt := range []struct {
		refs int
		code wire.Code
	}{{wire.MaxClosurePaths, wire.CodeTooLarge}, {wire.MaxClosurePaths - 1, ""}} { // which are not valid
		few := root
		few.References = root.References[:tt.refs]
		store.infos[root.Path] = few
		if _, err := s.Closure(t.Context(), []nix.Path{root.Path}); err == nil || wire.CodeOf(err) != tt.code {
			t.Errorf("%d references: %v", tt.refs, err)
		}
	}
}

func TestServerSigns(t *testing.T) {
	s, store, public := newServer(t)
	info := store.add(1, 10)
	info.Sigs = []string{"other-1:AAAA"}
	for range 2 {
		parsed, err := nix.ParseNarInfo(s.NarInfo(info))
		if err != nil {
			t.Fatal(err)
		}
		if _, ok := parsed.VerifySig([]nix.PublicKey{public}); !ok || len(parsed.Sigs) != 2 {
			t.Errorf("signatures %v", parsed.Sigs)
		}
	}
	// Built again with other contents: the old signature would be wrong.
	info.NarHash = nix.SumHash([]byte("other"))
	parsed, err := nix.ParseNarInfo(s.NarInfo(info))
	if err != nil {
		t.Fatal(err)
	}
	if _, ok := parsed.VerifySig([]nix.PublicKey{public}); !ok {
		t.Error("an old signature")
	}
}

// counting notes how it is written to.
type counting struct {
	http.ResponseWriter
	writes int
	fail   bool
}

func (c *counting) Write(p []byte) (int, error) {
	c.writes++
	if c.fail {
		return 0, io.ErrClosedPipe
	}
	return c.ResponseWriter.Write(p)
}
