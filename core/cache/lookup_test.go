package cache

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"sync"
	"testing"

	"github.com/drv-thru/drv-thru/core/nix"
)

// shelf answers lookups.
type shelf struct {
	mu    sync.Mutex
	texts map[string]string
	err   error
	asked int
}

func (s *shelf) put(paths ...fakePath) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, p := range paths {
		s.texts[p.info.Path.Hash()] = string(p.info.MarshalNarInfo())
	}
}

func (s *shelf) lookup(_ context.Context, hash string) (string, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.asked++
	if s.err != nil {
		return "", s.err
	}
	if text, ok := s.texts[hash]; ok {
		return text, nil
	}
	return "", fs.ErrNotExist
}

func lookupView(t *testing.T, s *shelf, cfg ViewConfig, fixed ...string) *View {
	t.Helper()
	cfg.Lookup, cfg.Fetcher = s.lookup, noFetcher{}
	v, err := NewView(fixed, cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { v.Close() })
	return v
}

// noFetcher has nothing.
type noFetcher struct{ Fetcher }

func TestLookup(t *testing.T) {
	s := &shelf{texts: map[string]string{}}
	fixed, late := newPath(1, 10), newPath(2, 20)
	v := lookupView(t, s, ViewConfig{}, string(fixed.info.MarshalNarInfo()))
	name := nix.NarInfoURL(late.info.Path)
	for range 2 {
		if _, err := v.Stat(name); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("before it is there: %v", err)
		}
	}
	if s.asked != 2 {
		t.Errorf("asked %d times: what is missing must not be remembered", s.asked)
	}
	s.put(late)
	if text, err := fs.ReadFile(v, name); err != nil || string(text) != string(late.info.MarshalNarInfo()) {
		t.Errorf("%q, %v", text, err)
	}
	if info, err := v.Stat(late.narName()); err != nil || info.Size() != 20 {
		t.Errorf("its NAR: %v, %v", info, err)
	}
	// Other signatures are shown, and what is gone is gone.
	late.info.Sigs = []string{"other-1:" + strings.Repeat("A", 86) + "=="}
	s.put(late)
	if text, err := fs.ReadFile(v, name); err != nil || !strings.Contains(string(text), "other-1:") {
		t.Errorf("%q, %v", text, err)
	}
	delete(s.texts, late.info.Path.Hash())
	if _, err := v.Stat(name); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("after it has gone: %v", err)
	}
	// What was added needs nobody to answer.
	s.err = errors.New("no connection")
	if _, err := v.Stat(nix.NarInfoURL(fixed.info.Path)); err != nil {
		t.Error(err)
	}
	if _, err := v.Stat(name); !errors.Is(err, s.err) {
		t.Errorf("an error is not told: %v", err)
	}
	if infos := v.Infos(); len(infos) != 1 || infos[0].Path != fixed.info.Path {
		t.Errorf("infos: %v", infos)
	}
	// Names that no path can have are not asked for.
	asked := s.asked
	for _, name := range []string{
		"x.narinfo", ".narinfo", strings.Repeat("0", 33) + ".narinfo", newPath(2, 20).info.Path.Base() + ".narinfo", strings.Repeat("E", 32) + ".narinfo", strings.Repeat("?", 32) + ".narinfo",
		"realisations/" + strings.Repeat("0", 32-len("realisations/")) + ".narinfo",
	} {
		if _, err := v.Stat(name); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if s.asked != asked {
		t.Error("asked for a name that no path has")
	}
}

// An answer about another path is none.
func TestLookupOfAnother(t *testing.T) {
	a, b := newPath(1, 10), newPath(2, 20)
	s := &shelf{texts: map[string]string{a.info.Path.Hash(): string(b.info.MarshalNarInfo())}}
	v := lookupView(t, s, ViewConfig{})
	if _, err := v.Stat(nix.NarInfoURL(a.info.Path)); !errors.Is(err, ErrNarInfo) {
		t.Errorf("%v", err)
	}
	s.texts[a.info.Path.Hash()] = "StorePath: nonsense\n"
	if _, err := v.Stat(nix.NarInfoURL(a.info.Path)); !errors.Is(err, ErrNarInfo) {
		t.Errorf("%v", err)
	}
}

// What was looked up has to be signed like what was added.
func TestLookupOfUnsigned(t *testing.T) {
	secret, err := nix.ParseSecretKey(secretKey("builder-1", 1))
	if err != nil {
		t.Fatal(err)
	}
	other, err := nix.ParseSecretKey(secretKey("builder-1", 2))
	if err != nil {
		t.Fatal(err)
	}
	p := newPath(1, 10)
	s := &shelf{texts: map[string]string{}}
	v := lookupView(t, s, ViewConfig{SigningKey: secret.ToPublicKey().String()})
	for _, tt := range []struct {
		sigs []string
		want error
	}{{nil, ErrSignature}, {[]string{p.info.Sign(other)}, ErrSignature}, {[]string{p.info.Sign(secret)}, nil}} {
		p.info.Sigs = tt.sigs
		s.put(p)
		if _, err := v.Stat(nix.NarInfoURL(p.info.Path)); !errors.Is(err, tt.want) {
			t.Errorf("signed %q: %v", tt.sigs, err)
		}
	}
}

// What is remembered is bounded, and what somebody has open stays.
func TestLookupForgets(t *testing.T) {
	const most, all = 100, 1000
	s := &shelf{texts: map[string]string{}}
	v := lookupView(t, s, ViewConfig{MaxPaths: most})
	var open *File
	for k := range all {
		p := newPath(k, int64(k+1))
		s.put(p)
		if _, err := v.Stat(nix.NarInfoURL(p.info.Path)); err != nil {
			t.Fatal(err)
		}
		if k == 0 {
			var err error
			if open, err = v.OpenFile(t.Context(), p.narName()); err != nil {
				t.Fatal(err)
			}
		}
		if len(v.used) > most || len(v.infos) > most || len(v.nars) > most+1 || len(v.order) != len(v.nars) || len(v.paths) > 0 {
			t.Fatalf("after %d paths: %d infos, %d NARs, %d in order, %d paths", k+1, len(v.infos), len(v.nars), len(v.order), len(v.paths))
		}
	}
	if _, err := v.Stat(newPath(0, 1).narName()); err != nil {
		t.Errorf("what is open: %v", err)
	}
	var start int64
	for i, n := range v.order {
		if n.index != i || n.start != start {
			t.Fatalf("NAR %d has index %d and begins at %d, not %d", i, n.index, n.start, start)
		}
		start += n.size
	}
	if _, err := v.Stat(newPath(1, 2).narName()); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the oldest NAR: %v", err)
	}
	if _, err := v.Stat(nix.NarInfoURL(newPath(1, 2).info.Path)); err != nil {
		t.Errorf("what was forgotten is not found again: %v", err)
	}
	if err := open.Close(); err != nil {
		t.Error(err)
	}
}

// Long narinfos take no more memory than short ones, however many there are. The last
// is there even if it is as long as all may be.
func TestLookupOfLongNarInfos(t *testing.T) {
	const most = 20
	s := &shelf{texts: map[string]string{}}
	v := lookupView(t, s, ViewConfig{MaxPaths: most})
	for _, references := range []int{200, 2 * most * averageInfo / len(newPath(0, 1).info.Path.Base())} {
		var refs []fakePath
		for k := range references {
			refs = append(refs, newPath(1000+k, 1))
		}
		for k := range 2 * most {
			p := newPath(k, int64(k+1), refs...)
			s.put(p)
			if text, err := fs.ReadFile(v, nix.NarInfoURL(p.info.Path)); err != nil || len(text) == 0 {
				t.Fatal(err)
			}
			bytes := 0
			for _, info := range v.infos {
				bytes += len(info.MarshalNarInfo())
			}
			if bytes > most*averageInfo && len(v.infos) > 1 || bytes != v.looked || len(v.used) != len(v.infos) {
				t.Fatalf("%d bytes of %d narinfos are kept, %d of %d counted", bytes, len(v.infos), v.looked, len(v.used))
			}
		}
	}
}

// A builder that says something else of a path each time takes no more memory than
// one with many paths.
func TestLookupOfFicklePath(t *testing.T) {
	const most = 20
	s := &shelf{texts: map[string]string{}}
	v := lookupView(t, s, ViewConfig{MaxPaths: most})
	p := newPath(1, 10)
	for k := range 10 * most {
		p.info.NarHash = nix.SumHash([]byte{byte(k)})
		s.put(p)
		if _, err := v.Stat(p.info.Path.Hash() + ".narinfo"); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := v.Stat(p.narName()); err != nil {
		t.Errorf("the last NAR: %v", err)
	}
	if len(v.nars) > 2*most || len(v.order) != len(v.nars) {
		t.Errorf("%d NARs in %d places", len(v.nars), len(v.order))
	}
}

// Lookups at once, with forgetting between them.
func TestLookupConcurrent(t *testing.T) {
	s := &shelf{texts: map[string]string{}}
	for k := range 200 {
		s.put(newPath(k, int64(k+1)))
	}
	v := lookupView(t, s, ViewConfig{MaxPaths: 20})
	var wg sync.WaitGroup
	errs := make(chan error, 8)
	for g := range 8 {
		wg.Go(func() {
			for k := range 200 {
				p := newPath((k*7+g)%200, int64((k*7+g)%200+1))
				text, err := fs.ReadFile(v, nix.NarInfoURL(p.info.Path))
				if err != nil && !errors.Is(err, fs.ErrNotExist) || err == nil && string(text) != string(p.info.MarshalNarInfo()) {
					errs <- fmt.Errorf("path %d: %q, %v", k, text, err)
					return
				}
			}
		})
	}
	wg.Wait()
	close(errs)
	for err := range errs {
		t.Error(err)
	}
}
