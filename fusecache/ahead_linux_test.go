package fusecache

import (
	"context"
	"fmt"
	"path"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/hanwen/go-fuse/v2/fuse"

	"github.com/drv-thru/drv-thru/core/cache"
	"github.com/drv-thru/drv-thru/core/nix"
)

// sizedBuilder sends NARs of zeros.
type sizedBuilder map[string]uint64

type sizedStream struct {
	zeroStream
	sizes sizedBuilder
}

func (b sizedBuilder) Fetch(_ context.Context, ranges []cache.NarRange) (cache.Stream, error) {
	return &sizedStream{zeroStream{b: new(zeroBuilder), ranges: ranges}, b}, nil
}

func (s *sizedStream) Next() (cache.Frame, error) {
	f, err := s.zeroStream.Next()
	if err == nil {
		r := s.ranges[f.Index]
		s.left = s.sizes[r.NarHash] - r.Offset
		f.Size = s.left
	}
	return f, err
}

// list lists a directory as the kernel does, with replies of a page, and returns what
// it is told of each name.
func list(t *testing.T, s *fileSystem, dir uint64) map[string]fuse.EntryOut {
	t.Helper()
	var opened fuse.OpenOut
	if status := s.OpenDir(nil, &fuse.OpenIn{InHeader: fuse.InHeader{NodeId: dir}}, &opened); status != fuse.OK {
		t.Fatal(status)
	}
	all := make(map[string]fuse.EntryOut)
	for off := uint64(0); ; {
		out := fuse.NewDirEntryList(make([]byte, 4096), off)
		in := &fuse.ReadIn{InHeader: fuse.InHeader{NodeId: dir}, Fh: opened.Fh, Offset: off}
		if status := s.ReadDirPlus(nil, in, out); status != fuse.OK {
			t.Fatal(status)
		}
		entries, outs, err := fuse.ParseDirLookupEntries(out.Bytes())
		if err != nil {
			t.Fatal(err)
		}
		for i, e := range entries {
			all[e.Name] = outs[i]
			off = e.Off
			if outs[i].NodeId != 0 && e.Mode&^0o7777 != outs[i].Mode&^0o7777 {
				t.Errorf("%s has mode %#o and %#o", e.Name, e.Mode, outs[i].Mode)
			}
		}
		if len(entries) == 0 {
			return all
		}
	}
}

// Who lists the mount of an import has the kernel know every file, and gets it all that
// is small.
func TestAhead(t *testing.T) {
	builder := make(sizedBuilder)
	want := map[string]int{"nix-cache-info": 0}
	var texts []string
	for k := range 100 {
		p, err := nix.ParsePath(fmt.Sprintf("/nix/store/%032d-nar", k))
		if err != nil {
			t.Fatal(err)
		}
		info := nix.PathInfo{Path: p, NarHash: nix.SumHash([]byte(p)), NarSize: uint64(1000 + k)}
		if k == 7 {
			info.NarSize = 1 << 20
		} else {
			want[nix.NarURL(info.NarHash)] = 1000 + k
		}
		builder[info.NarHash.Nix32()] = info.NarSize
		text := info.MarshalNarInfo()
		texts = append(texts, string(text))
		want[nix.NarInfoURL(p)] = len(text)
	}
	view, err := cache.NewView(texts, cache.ViewConfig{Fetcher: builder})
	if err != nil {
		t.Fatal(err)
	}
	defer view.Close()
	s := newFileSystem(view, Options{})
	if s.pipes, err = newPipes(view, filepath.Join(t.TempDir(), "pipe")); err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	given := make(map[uint64]int)
	all := make(chan struct{})
	s.store = func(id uint64, data []byte) {
		mu.Lock()
		defer mu.Unlock()
		given[id] = len(data)
		if len(given) == len(want) {
			close(all)
		}
	}
	view.RunAhead(nil)
	root := list(t, s, fuse.FUSE_ROOT_ID)
	nars := list(t, s, root["nar"].NodeId)
	select {
	case <-all:
	case <-t.Context().Done():
	}
	s.close()
	told := map[string]fuse.EntryOut{}
	for name, e := range root {
		told[name] = e
	}
	for name, e := range nars {
		told[path.Join("nar", name)] = e
	}
	if len(nars) != 100 || len(root) != 100+1+4 {
		t.Errorf("%d NARs, %d names beside", len(nars), len(root))
	}
	for name, e := range told {
		size, small := want[name]
		switch {
		case e.NodeId == 0:
			t.Errorf("%s is not known", name)
		case small && size > 0 && (e.Size != uint64(size) || given[e.NodeId] != size):
			t.Errorf("%s: %d bytes, given %d, want %d", name, e.Size, given[e.NodeId], size)
		case !small && given[e.NodeId] > 0:
			t.Errorf("gave %d bytes of %s", given[e.NodeId], name)
		case !small && strings.HasSuffix(name, ".nar") && e.Mode&fuse.S_IFLNK != fuse.S_IFLNK:
			t.Errorf("%s has mode %#o", name, e.Mode)
		}
		if n, ok := s.node(e.NodeId); !ok || n.lookups == 0 {
			t.Errorf("%s is not counted", name)
		}
	}
}

// What the kernel has not been given it reads without having opened it.
func TestReadUnopened(t *testing.T) {
	s, nar := pipedNar(t, &zeroBuilder{size: 100_000})
	for _, off := range []uint64{0, 65536, 100_000} {
		result, status := s.Read(nil, &fuse.ReadIn{InHeader: fuse.InHeader{NodeId: nar.NodeId}, Offset: off, Size: 65536}, nil)
		if status != fuse.OK || result.Size() != int(min(65536, 100_000-off)) {
			t.Fatalf("at %d: %v, %v", off, result, status)
		}
		result.Done()
	}
	s.close()
	if _, status := s.Read(nil, &fuse.ReadIn{InHeader: fuse.InHeader{NodeId: nar.NodeId}, Size: 1}, nil); status != fuse.EIO {
		t.Errorf("after the end: %v", status)
	}
}

// What is given ahead is bounded.
func TestGivenEnough(t *testing.T) {
	s, _ := pipedNar(t, &zeroBuilder{size: 1})
	s.ids["some"] = 77
	wanted, n := s.wanted(200_000), 0
	for wanted("some", 190_000) {
		n++
	}
	if sum := n * 190_000; sum == 0 || sum > maxAhead || wanted("some", 190_000) {
		t.Errorf("%d bytes", sum)
	}
	wanted = s.wanted(200_000)
	if wanted("some", 200_001) || wanted("other", 1) || !wanted("some", 200_000) {
		t.Error("wants what is large or unknown, or nothing")
	}
}

// However many files there are, the kernel is told of so many that it can remember them.
func TestListingIsBounded(t *testing.T) {
	s, _ := pipedNar(t, &zeroBuilder{size: 1})
	for k := range uint64(maxNodes / 2) {
		s.nodes[1000+k] = &node{name: "some"}
	}
	for name, e := range list(t, s, fuse.FUSE_ROOT_ID) {
		if e.NodeId != 0 {
			t.Errorf("%s is told", name)
		}
	}
}
