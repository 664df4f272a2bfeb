package cache

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	"github.com/nix-community/go-nix/pkg/narinfo/signature"

	"github.com/drv-thru/drv-thru/core/nix"
)

// memStore is a store of NARs in memory.
type memStore struct {
	infos map[nix.Path]nix.PathInfo
	nars  map[nix.Path][]byte

	mu     sync.Mutex
	opened int
	open   int
}

func (s *memStore) PathInfos(_ context.Context, paths []nix.Path) (map[nix.Path]nix.PathInfo, error) {
	got := make(map[nix.Path]nix.PathInfo)
	for _, p := range paths {
		if info, ok := s.infos[p]; ok {
			got[p] = info
		}
	}
	return got, nil
}

func (s *memStore) OpenNar(_ context.Context, p nix.Path) (Nar, error) {
	data, ok := s.nars[p]
	if !ok {
		return nil, fs.ErrNotExist
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.opened++
	s.open++
	return &memStoreNar{bytes.NewReader(data), s, data}, nil
}

func (s *memStore) RestoreNar(ctx context.Context, p nix.Path, _ []byte) (Nar, error) {
	return s.OpenNar(ctx, p)
}

type memStoreNar struct {
	*bytes.Reader
	s    *memStore
	data []byte
}

func (n *memStoreNar) Skeleton() []byte { return nil }
func (n *memStoreNar) CopyRange(w io.Writer, off, length int64) (int64, error) {
	k, err := w.Write(n.data[off : off+length])
	return int64(k), err
}

func (n *memStoreNar) Close() error {
	n.s.mu.Lock()
	defer n.s.mu.Unlock()
	n.s.open--
	return nil
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
	s.infos[info.Path], s.nars[info.Path] = info, data
	return info
}

func newServer(t *testing.T) (*Server, *memStore, nix.PublicKey) {
	t.Helper()
	store := &memStore{infos: make(map[nix.Path]nix.PathInfo), nars: make(map[nix.Path][]byte)}
	secret, public, err := signature.GenerateKeypair("test-1", strings.NewReader(strings.Repeat("k", 64)))
	if err != nil {
		t.Fatal(err)
	}
	s := NewServer(ServerConfig{Infos: store, Nars: store, Key: secret})
	t.Cleanup(func() {
		s.Close()
		if store.open != 0 {
			t.Errorf("%d NARs left open", store.open)
		}
	})
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

func TestServeNarRanges(t *testing.T) {
	s, store, _ := newServer(t)
	info := store.add(1, 0)
	data := []byte("0123456789")
	info.NarSize, store.nars[info.Path] = 10, data
	for header, want := range map[string]string{
		"": "0123456789", "bytes=0-": "0123456789", "bytes=3-": "3456789", "bytes=3-5": "345", "bytes=9-9": "9",
		"bytes=3-100": "3456789", "bytes=-4": "6789", "bytes=-40": "0123456789",
		"bytes=10-": "416", "bytes=5-3": "416", "bytes=-0": "416", "bytes=a-b": "416", "bytes=0-1,3-4": "416", "lines=1-2": "416", "bytes=": "416",
		"bytes=18446744073709551615-": "416", "bytes=0-18446744073709551615": "416",
	} {
		w := httptest.NewRecorder()
		r := httptest.NewRequest(http.MethodGet, "/", nil)
		if header != "" {
			r.Header.Set("Range", header)
		}
		if err := s.ServeNar(w, r, info); err != nil {
			t.Errorf("%q: %v", header, err)
			continue
		}
		if want == "416" {
			if w.Code != http.StatusRequestedRangeNotSatisfiable {
				t.Errorf("%q: status %d", header, w.Code)
			}
			continue
		}
		if got := w.Body.String(); got != want || (w.Code == http.StatusPartialContent) != (header != "") {
			t.Errorf("%q: %d %q, want %q", header, w.Code, got, want)
		}
	}
	info.NarSize = 11
	err := s.ServeNar(httptest.NewRecorder(), httptest.NewRequest(http.MethodGet, "/", nil), info)
	if err == nil || errors.Is(err, ErrAborted) {
		t.Errorf("a damaged store: %v", err)
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

func TestServeNarsGathers(t *testing.T) {
	s, store, _ := newServer(t)
	var items []NarItem
	for i := range 300 {
		info := store.add(i, 500+i)
		items = append(items, NarItem{Info: &info})
	}
	large := store.add(1000, 5<<20)
	items = append(items, NarItem{Info: &large, Offset: 1 << 20}, NarItem{})
	beyond := NarItem{Info: &large, Offset: 6 << 20}
	gone := nix.PathInfo{Path: storePath(77777), NarSize: 5}
	items = append(items, beyond, NarItem{Info: &gone}, NarItem{Info: &large, Offset: 5 << 20})
	rec := httptest.NewRecorder()
	w := &counting{ResponseWriter: rec}
	if err := s.ServeNars(t.Context(), w, items); err != nil {
		t.Fatal(err)
	}
	if w.writes > 10 {
		t.Errorf("%d writes", w.writes)
	}
	r := newFrameReader(rec.Body, len(items))
	for i, item := range items {
		f, err := r.Next()
		if err != nil {
			t.Fatalf("%d: %v", i, err)
		}
		if unavailable := item.Info == nil || item.Offset > item.Info.NarSize || item.Info == &gone; unavailable {
			if !f.Unavailable {
				t.Errorf("%d: available", i)
			}
			continue
		}
		data, err := io.ReadAll(io.LimitReader(r, int64(item.Info.NarSize-item.Offset)))
		if err != nil || !bytes.Equal(data, store.nars[item.Info.Path][item.Offset:]) {
			t.Errorf("%d: %d bytes, %v", i, len(data), err)
		}
	}
	if store.opened != 301 {
		t.Errorf("%d NARs were opened", store.opened) // the large one once
	}
	w.fail = true
	if err := s.ServeNars(t.Context(), w, items); !errors.Is(err, ErrAborted) {
		t.Errorf("got %v", err)
	}
}

func TestServerKeepsFewNarsOpen(t *testing.T) {
	s, store, _ := newServer(t)
	for i := range 3 * keepNars {
		info := store.add(i, keepFrom)
		if err := s.ServeNars(t.Context(), httptest.NewRecorder(), []NarItem{{Info: &info, Offset: keepFrom}}); err != nil {
			t.Fatal(err)
		}
	}
	if store.open != keepNars {
		t.Errorf("%d are open, want %d", store.open, keepNars)
	}
}
