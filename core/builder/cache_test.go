package builder_test

import (
	"context"
	"fmt"
	"net/http"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/drv-thru/drv-thru/core/builder"
	bt "github.com/drv-thru/drv-thru/core/builder/buildertest"
	"github.com/drv-thru/drv-thru/core/key"
	"github.com/drv-thru/drv-thru/core/nix"
	"github.com/drv-thru/drv-thru/core/wire"
)

// askedStore knows what it was asked for.
type askedStore struct {
	builder.Store
	asked func(paths []nix.Path)
}

func (s *askedStore) PathInfos(ctx context.Context, paths []nix.Path) (map[nix.Path]nix.PathInfo, error) {
	s.asked(paths)
	return s.Store.PathInfos(ctx, paths)
}

// Who has built much and asks for what is not in it has all of it looked through, but
// not at once: the closures of many builds do not fit into memory.
func TestLookingThroughManyBuilds(t *testing.T) {
	const builds, paths = 150, 2000
	var queries atomic.Int64
	var last nix.Path // the output of the build that is looked at last
	var heap uint64
	store := &askedStore{asked: func(asked []nix.Path) {
		queries.Add(1)
		if last != "" && slices.Contains(asked, last) {
			heap = heapInUse()
		}
	}}
	e := start(t, func(cfg *builder.Config) { store.Store, cfg.Store = cfg.Store, store })
	c := e.holder(1)
	var refs []nix.Path
	for i := range paths {
		o := bt.Source(fmt.Sprintf("dep%d", i), "x")
		e.store.Add(o)
		refs = append(refs, o.Info.Path)
	}
	refs = nix.SortedPaths(refs)
	for i := range builds {
		drv, outputs := bt.Derivation(bt.Drv{Name: "top", Text: fmt.Sprint(i)})
		for id := range 2 { // the second has the same outputs
			if r := e.build(c, uint32(2*i+id), drv); r.Error != nil {
				t.Fatal(r.Error)
			}
		}
		out := bt.Source("top", fmt.Sprint(i))
		out.Info.Path, out.Info.References = outputs["out"], refs
		e.store.Add(out)
		if i == 0 {
			last = outputs["out"]
		}
		e.advance(1)
	}
	e.stop() // what was indexed of outputs without references is gone
	e.run()
	c.Server = e.server
	before := heapInUse()
	queries.Store(0)
	_, err := c.Do(http.MethodGet, "/v1/cache/narinfo/"+strings.Repeat("0", nix.HashPartLen), nil)
	wantCode(t, err, wire.CodeNotFound)
	if heap == 0 {
		t.Fatal("the oldest build was not looked at")
	}
	if grown := int64(heap) - int64(before); grown > 80<<20 {
		t.Errorf("%d MiB are held of the closures of %d builds", grown>>20, builds)
	}
	// An output, then what it refers to.
	if n := queries.Load(); n > 2*builds {
		t.Errorf("%d queries for %d closures", n, builds)
	}
	// Nix asks for every path that it is to have whether it is here.
	queries.Store(0)
	_, err = c.Do(http.MethodGet, "/v1/cache/narinfo/"+strings.Repeat("1", nix.HashPartLen), nil)
	wantCode(t, err, wire.CodeNotFound)
	if m := manifestsOf(t, c, map[string]int64{nix.Hash{1}.Nix32(): 1}); len(m) > 0 {
		t.Error("a NAR of nobody has a manifest")
	}
	if n := queries.Load(); n > 0 {
		t.Errorf("%d queries to find again what is in no closure", n)
	}
	// What is in one is found, also in those that were forgotten.
	fetch(t, c, http.MethodGet, "/v1/cache/narinfo/"+last.Hash(), nil)
	if n := queries.Load(); n > 2 {
		t.Errorf("%d queries for the closure of one build", n)
	}
}

// What builds have in common is looked through once for a log.
func TestLogAmongManyBuilds(t *testing.T) {
	const builds, paths = 20, 50
	var asked atomic.Int64
	store := &askedStore{asked: func(paths []nix.Path) { asked.Add(int64(len(paths))) }}
	e := start(t, func(cfg *builder.Config) { store.Store, cfg.Store = cfg.Store, store })
	c := e.holder(1)
	var common []bt.Object
	var inputs []nix.Path
	for i := range paths {
		o, _ := bt.Derivation(bt.Drv{Name: "dep", Text: fmt.Sprint(i)})
		common, inputs = append(common, o), append(inputs, o.Info.Path)
	}
	for i := range uint32(builds) {
		top, _ := bt.Derivation(bt.Drv{Name: "top", Text: fmt.Sprint(i), Inputs: inputs})
		if r := e.build(c, i, append(slices.Clone(common), top)...); r.Error != nil {
			t.Fatal(r.Error)
		}
	}
	other, _ := bt.Derivation(bt.Drv{Name: "other"})
	e.store.Add(other)
	e.store.SetLog(other.Info.Path, "another's\n")
	e.store.SetLog(inputs[0], "it was built\n")
	asked.Store(0)
	_, err := c.Do(http.MethodGet, "/v1/cache/log/"+other.Info.Path.Base(), nil)
	wantCode(t, err, wire.CodeNotFound)
	if n := asked.Load(); n > builds+paths {
		t.Errorf("the daemon was asked for %d paths, there are %d", n, builds+paths)
	}
	if got := fetch(t, c, http.MethodGet, "/v1/cache/log/"+inputs[0].Base(), nil); string(got) != "it was built\n" {
		t.Errorf("got %q", got)
	}
}

func heapInUse() uint64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

// What is in a build's outputs is found out once, however many ask at once.
func TestClosureIsFoundOutOnce(t *testing.T) {
	const askers = 8
	var queries, arrived atomic.Int64
	begun, proceed := make(chan struct{}, askers), make(chan struct{})
	blocks := false
	store := &askedStore{asked: func([]nix.Path) {
		if blocks {
			queries.Add(1)
			begun <- struct{}{}
			<-proceed
		}
	}}
	e := start(t, func(cfg *builder.Config) {
		store.Store, cfg.Store = cfg.Store, store
		cfg.Peer = func(r *http.Request) (key.ID, error) {
			arrived.Add(1)
			return bt.Peer(r)
		}
	})
	c := e.holder(1)
	drv, outputs := bt.Derivation(bt.Drv{Name: "top"})
	if r := e.build(c, 1, drv); r.Error != nil {
		t.Fatal(r.Error)
	}
	out := bt.Source("top", "x")
	out.Info.Path = outputs["out"]
	e.store.Add(out)
	e.stop() // what was found out at the end of the build is gone
	e.run()
	c.Server = e.server
	blocks = true
	arrived.Store(0)
	got := make(chan error, askers)
	for range askers {
		go func() {
			_, err := c.Do(http.MethodGet, "/v1/cache/closure?build="+string(bt.ID(1)), nil)
			got <- err
		}()
	}
	<-begun
	eventually(t, "all ask", func() bool { return arrived.Load() == askers })
	close(proceed)
	for range askers {
		if err := <-got; err != nil {
			t.Error(err)
		}
	}
	if n := queries.Load(); n != 1 {
		t.Errorf("%d queries", n)
	}
}
