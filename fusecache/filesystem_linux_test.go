package fusecache

import (
	"context"
	"io"
	"strings"
	"testing"

	"github.com/hanwen/go-fuse/v2/fuse"

	"github.com/drv-thru/drv-thru/core/cache"
)

// growingLogs is a builder whose logs are longer each time.
type growingLogs struct {
	zeroBuilder
	lines int
}

func (g *growingLogs) Log(context.Context, string) (io.ReadCloser, error) {
	g.lines++
	return io.NopCloser(strings.NewReader(strings.Repeat("line\n", g.lines))), nil
}

// The kernel does not hold on to a log's length, nor to its bytes: that of a build
// that goes on grows.
func TestLogsGrow(t *testing.T) {
	view, err := cache.NewView(nil, cache.ViewConfig{Fetcher: &growingLogs{}})
	if err != nil {
		t.Fatal(err)
	}
	defer view.Close()
	s := newFileSystem(view, Options{Live: true})
	lookup := func(parent uint64, name string) *fuse.EntryOut {
		t.Helper()
		var out fuse.EntryOut
		if status := s.Lookup(nil, &fuse.InHeader{NodeId: parent}, name, &out); status != fuse.OK {
			t.Fatalf("%s: %v", name, status)
		}
		return &out
	}
	const digits = "00000000000000000000000000000000"
	logs := lookup(fuse.FUSE_ROOT_ID, "log")
	log := lookup(logs.NodeId, digits+"-a.drv")
	if log.Attr.Size != 5 || log.AttrTimeout() != 0 || log.EntryTimeout() != 0 {
		t.Errorf("%d bytes, for %v", log.Attr.Size, log.AttrTimeout())
	}
	// What the View remembers of it goes with others.
	lookup(logs.NodeId, digits+"-b.drv")
	lookup(logs.NodeId, digits+"-c.drv")
	var opened fuse.OpenOut
	if status := s.Open(nil, &fuse.OpenIn{InHeader: fuse.InHeader{NodeId: log.NodeId}}, &opened); status != fuse.OK {
		t.Fatal(status)
	}
	if opened.OpenFlags&fuse.FOPEN_KEEP_CACHE != 0 || opened.OpenFlags&fuse.FOPEN_DIRECT_IO == 0 {
		t.Errorf("opened with flags %#x", opened.OpenFlags)
	}
	var attr fuse.AttrOut
	if status := s.GetAttr(nil, &fuse.GetAttrIn{InHeader: fuse.InHeader{NodeId: log.NodeId}}, &attr); status != fuse.OK || attr.Size != 4*5 {
		t.Errorf("%d bytes, %v", attr.Size, status)
	}
	s.Release(nil, &fuse.ReleaseIn{Fh: opened.Fh})
	if log := lookup(logs.NodeId, digits+"-a.drv"); log.Attr.Size != 5*5 {
		t.Errorf("%d bytes the second time", log.Attr.Size)
	}
}
