package client

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/drv-thru/drv-thru/core/nix"
	"github.com/drv-thru/drv-thru/core/wire"
)

func TestCollect(t *testing.T) {
	s := newStore()
	large := s.source("large", make([]byte, 2*wire.ChunkedInput))
	small := s.source("small", []byte("x"))
	withRef := s.source("with-ref", []byte("refers to "+string(small)))
	s.refs[withRef] = nix.SortedPaths([]nix.Path{small, withRef}) // and to itself
	low := s.drv("low", nil, withRef)
	var mids []nix.Path
	for i := range 40 {
		mids = append(mids, s.drv(fmt.Sprint("mid", i), []nix.Path{low}, large))
	}
	top := s.drv("top", mids, small)
	in, err := Collect(t.Context(), s, s, []nix.Path{top, top, low})
	if err != nil {
		t.Fatal(err)
	}
	if len(in.Paths) != 3+1+40+1 {
		t.Fatalf("%d paths", len(in.Paths))
	}
	if in.Paths[0] != large {
		t.Errorf("the large source is not first: what is small would be split")
	}
	position := make(map[nix.Path]int)
	for i, p := range in.Paths {
		position[p] = i
		w := in.Wire[i]
		if w.Path != string(p) || w.CA == "" || w.NarSize == 0 || !slices.IsSorted(w.References) {
			t.Errorf("%s: %+v", p, w)
		}
		for _, r := range w.References {
			if r > i {
				t.Errorf("%s comes before its reference %s", p, in.Paths[r])
			}
		}
	}
	if w := in.Wire[position[withRef]]; !slices.Equal(w.References, []int{position[small], position[withRef]}) {
		t.Errorf("references of a path that refers to itself: %v", w.References)
	}
	if got := in.batches([]int{0, 1, 2, 3}); len(got) != 2 || !got[0].large || got[1].large {
		t.Errorf("batches %+v", got)
	}
	again, err := Collect(t.Context(), s, s, []nix.Path{top, low})
	if err != nil || !slices.Equal(again.Paths, in.Paths) {
		t.Errorf("another order the second time: %v", err)
	}
}

func TestCollectDeepChain(t *testing.T) {
	s := newStore()
	last := s.drv("d0", nil)
	for i := range 3000 {
		last = s.drv(fmt.Sprint("d", i+1), []nix.Path{last})
	}
	in, err := Collect(t.Context(), s, s, []nix.Path{last})
	if err != nil || len(in.Paths) != 3001 || in.Paths[3000] != last {
		t.Fatalf("%v", err)
	}
}

func TestCollectFails(t *testing.T) {
	s := newStore()
	src := s.source("src", []byte("x"))
	drv := s.drv("d", nil, src)
	t.Run("source gone", func(t *testing.T) {
		contents := s.files[src]
		delete(s.files, src)
		defer func() { s.files[src] = contents }()
		if _, err := Collect(t.Context(), s, s, []nix.Path{drv}); err == nil || !strings.Contains(err.Error(), "not valid") {
			t.Errorf("error %v", err)
		}
	})
	t.Run("derivation damaged", func(t *testing.T) {
		contents := s.files[drv]
		s.files[drv] = []byte(strings.Replace(string(contents), "x86_64", "x86_65", 1))
		defer func() { s.files[drv] = contents }()
		if _, err := Collect(t.Context(), s, s, []nix.Path{drv}); err == nil || !strings.Contains(err.Error(), "is damaged") {
			t.Errorf("error %v", err)
		}
	})
	t.Run("references in a circle", func(t *testing.T) {
		a, b := s.source("a", []byte("a")), s.source("b", []byte("b"))
		s.refs[a], s.refs[b] = []nix.Path{b}, []nix.Path{a}
		top := s.drv("top", nil, a)
		if _, err := Collect(t.Context(), s, s, []nix.Path{top}); err == nil {
			t.Error("no error")
		}
	})
	t.Run("cancelled", func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if _, err := Collect(ctx, s, s, []nix.Path{drv}); !errors.Is(err, context.Canceled) {
			t.Errorf("error %v", err)
		}
	})
}

func TestFindMissing(t *testing.T) {
	s := newStore()
	info := func(name string, refs ...string) nix.PathInfo {
		i := nix.PathInfo{Path: path(name), NarSize: 100}
		for _, r := range refs {
			i.References = append(i.References, path(r))
		}
		return i
	}
	infos := []nix.PathInfo{info("libc"), info("lib", "libc"), info("tool", "tool", "lib"), info("app", "tool", "lib")}
	s.valid[path("libc")] = true
	s.subst[path("lib")] = true
	note := func(text string) { t.Log(text) }

	m, err := FindMissing(t.Context(), s, infos, nil, false, note)
	if err != nil || len(m.Fetch) != 3 || m.Bytes != 300 || m.Substituted != 0 || !slices.Equal(m.Tops, []nix.Path{path("app")}) {
		t.Errorf("without substituters: %+v, %v", m, err)
	}
	s.fail = errors.New("no network")
	m, err = FindMissing(t.Context(), s, infos, nil, true, note)
	if err != nil || len(m.Fetch) != 3 {
		t.Errorf("with substituters that fail: %+v, %v", m, err)
	}
	s.fail = nil
	m, err = FindMissing(t.Context(), s, infos, nil, true, note)
	if err != nil || len(m.Fetch) != 2 || m.Fetch[0].Path != path("tool") || m.Substituted != 1 {
		t.Errorf("with substituters: %+v, %v", m, err)
	}
	for _, i := range infos {
		s.valid[i.Path] = true
	}
	m, err = FindMissing(t.Context(), s, infos, nil, true, note)
	if err != nil || len(m.Fetch) != 0 || len(m.Tops) != 0 {
		t.Errorf("with everything here: %+v, %v", m, err)
	}
}

// What is known is not asked again, until substituters may have changed it.
func TestFindMissingKnown(t *testing.T) {
	infos := []nix.PathInfo{{Path: path("libc")}, {Path: path("lib")}, {Path: path("tool")}, {Path: path("app")}}
	known := map[nix.Path]bool{path("libc"): true, path("lib"): false, path("app"): false}
	for name, c := range map[string]struct {
		known, subst          map[nix.Path]bool
		asked, again, missing []nix.Path
	}{
		"nothing": {nil, nil, nix.PathsOf(infos), nil, []nix.Path{path("lib"), path("tool"), path("app")}},
		"some":    {known, nil, []nix.Path{path("tool")}, nil, []nix.Path{path("lib"), path("tool"), path("app")}},
		"all":     {map[nix.Path]bool{path("libc"): true, path("lib"): true, path("tool"): true, path("app"): true}, nil, nil, nil, nil},
		"brought": {known, map[nix.Path]bool{path("lib"): true}, []nix.Path{path("tool")}, []nix.Path{path("lib"), path("tool"), path("app")}, []nix.Path{path("tool"), path("app")}},
	} {
		s := newStore()
		s.valid[path("libc")], s.subst = true, c.subst
		m, err := FindMissing(t.Context(), s, infos, c.known, true, func(text string) { t.Log(text) })
		if err != nil {
			t.Fatal(err)
		}
		if want := slices.Concat(c.asked, c.again); !slices.Equal(s.asked, want) || !slices.Equal(nix.PathsOf(m.Fetch), c.missing) {
			t.Errorf("%s: asked about %v, missing %v, want %v and %v", name, s.asked, nix.PathsOf(m.Fetch), want, c.missing)
		}
	}
}

// Substituters that do not answer are named, others not.
func TestFindMissingTellsOfSlowSubstituters(t *testing.T) {
	for slow, want := range map[time.Duration]int{slowSubstituters - 1: 0, slowSubstituters + 1: 1} {
		synctest.Test(t, func(t *testing.T) {
			s := newStore()
			s.slow = slow
			var notes []string
			_, err := FindMissing(t.Context(), s, []nix.PathInfo{{Path: path("app"), NarSize: 100}}, nil, true, func(text string) { notes = append(notes, text) })
			time.Sleep(time.Minute)
			synctest.Wait()
			if err != nil || len(notes) != want {
				t.Errorf("after %v: %q, %v", slow, notes, err)
			}
		})
	}
}

func TestParseClosureRefuses(t *testing.T) {
	for name, c := range map[string]*wire.Closure{
		"junk":      {NarInfos: []string{"hello"}},
		"huge":      {NarInfos: []string{"StorePath: " + strings.Repeat("x", wire.MaxNarInfo)}},
		"too many":  {NarInfos: make([]string, wire.MaxClosurePaths+1)},
		"empty one": {NarInfos: []string{""}},
	} {
		if _, err := ParseClosure(c); !errors.Is(err, ErrProtocol) {
			t.Errorf("%s: error %v", name, err)
		}
	}
}
