package fusecache

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path"
	"sync"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"

	"github.com/drv-thru/drv-thru/core/cache"
)

// cacheTime is how long the kernel may keep names and attributes: a View never
// changes what it has shown.
const cacheTime = time.Hour

// fileSystem answers the kernel's requests from a View. The tree is flat and
// its nodes live as long as the mount, so it needs nothing of go-fuse's node
// bookkeeping.
type fileSystem struct {
	fuse.RawFileSystem
	view     *cache.View
	uid, gid uint32

	mu      sync.RWMutex
	closed  bool
	nodes   []node            // the node with ID n is nodes[n-1]
	ids     map[string]uint64 // by name
	handles map[uint64]*cache.File
	dirs    map[uint64][]fs.DirEntry
	next    uint64 // handle
}

type node struct {
	name string // in the View
	dir  bool
	size uint64
}

func newFileSystem(view *cache.View) *fileSystem {
	return &fileSystem{
		RawFileSystem: fuse.NewDefaultRawFileSystem(),
		view:          view,
		uid:           uint32(os.Getuid()),
		gid:           uint32(os.Getgid()),
		nodes:         []node{{name: ".", dir: true}},
		ids:           map[string]uint64{".": fuse.FUSE_ROOT_ID},
		handles:       make(map[uint64]*cache.File),
		dirs:          make(map[uint64][]fs.DirEntry),
	}
}

// close fails all reads, those that wait and those to come.
func (s *fileSystem) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	for fh, f := range s.handles {
		f.Close()
		delete(s.handles, fh)
	}
}

func (s *fileSystem) String() string { return fsName }

func (s *fileSystem) node(id uint64) (node, bool) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if id == 0 || id > uint64(len(s.nodes)) {
		return node{}, false
	}
	return s.nodes[id-1], true
}

func (s *fileSystem) attr(id uint64, n node, out *fuse.Attr) {
	out.Ino = id
	out.Size = n.size
	out.Blocks = (n.size + 511) / 512
	out.Blksize = 64 << 10
	out.Atime, out.Mtime, out.Ctime = 1, 1, 1
	out.Owner = fuse.Owner{Uid: s.uid, Gid: s.gid}
	out.Nlink = 1
	out.Mode = fuse.S_IFREG | 0o444
	if n.dir {
		out.Mode = fuse.S_IFDIR | 0o555
	}
}

// Lookup implements [fuse.RawFileSystem]. An error makes no negative entry.
func (s *fileSystem) Lookup(cancel <-chan struct{}, header *fuse.InHeader, name string, out *fuse.EntryOut) fuse.Status {
	parent, ok := s.node(header.NodeId)
	if !ok || !parent.dir {
		return fuse.ENOENT
	}
	name = path.Join(parent.name, name)
	info, err := s.view.StatContext(interrupted{context.Background(), cancel}, name)
	if err != nil {
		return status(err)
	}
	n := node{name: name, dir: info.IsDir(), size: uint64(info.Size())}
	s.mu.Lock()
	id, ok := s.ids[name]
	if !ok {
		s.nodes = append(s.nodes, n)
		id = uint64(len(s.nodes))
		s.ids[name] = id
	}
	s.mu.Unlock()
	out.NodeId = id
	out.SetEntryTimeout(cacheTime)
	out.SetAttrTimeout(cacheTime)
	s.attr(id, n, &out.Attr)
	return fuse.OK
}

// GetAttr implements [fuse.RawFileSystem].
func (s *fileSystem) GetAttr(_ <-chan struct{}, in *fuse.GetAttrIn, out *fuse.AttrOut) fuse.Status {
	n, ok := s.node(in.NodeId)
	if !ok {
		return fuse.ENOENT
	}
	out.SetTimeout(cacheTime)
	s.attr(in.NodeId, n, &out.Attr)
	return fuse.OK
}

// Open implements [fuse.RawFileSystem].
func (s *fileSystem) Open(cancel <-chan struct{}, in *fuse.OpenIn, out *fuse.OpenOut) fuse.Status {
	n, ok := s.node(in.NodeId)
	switch {
	case !ok:
		return fuse.ENOENT
	case in.Flags&fuse.O_ANYWRITE != 0:
		return fuse.EROFS
	}
	f, err := s.view.OpenFile(interrupted{context.Background(), cancel}, n.name)
	if err != nil {
		return status(err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		f.Close()
		return fuse.EIO
	}
	s.next++
	s.handles[s.next] = f
	out.Fh = s.next
	out.OpenFlags = fuse.FOPEN_DIRECT_IO
	if f.Small() {
		out.OpenFlags = fuse.FOPEN_KEEP_CACHE
	}
	return fuse.OK
}

// Flush implements [fuse.RawFileSystem]. There is nothing to write, and after
// ENOSYS the kernel asks no more: an import of small files is a fifth fewer
// requests.
func (s *fileSystem) Flush(<-chan struct{}, *fuse.FlushIn) fuse.Status { return fuse.ENOSYS }

// Release implements [fuse.RawFileSystem].
func (s *fileSystem) Release(_ <-chan struct{}, in *fuse.ReleaseIn) {
	s.mu.Lock()
	f := s.handles[in.Fh]
	delete(s.handles, in.Fh)
	s.mu.Unlock()
	if f != nil {
		f.Close()
	}
}

// Read implements [fuse.RawFileSystem]. It answers with all that was asked for
// unless the file ends, as programs take a short read for its end.
func (s *fileSystem) Read(cancel <-chan struct{}, in *fuse.ReadIn, _ []byte) (fuse.ReadResult, fuse.Status) {
	s.mu.RLock()
	f := s.handles[in.Fh]
	s.mu.RUnlock()
	if f == nil {
		return nil, fuse.EIO
	}
	span, err := f.Borrow(interrupted{context.Background(), cancel}, int64(in.Offset), int(in.Size))
	if err != nil {
		return nil, status(err)
	}
	n := span.Len()
	if n == 0 {
		span.Release()
		return fuse.ReadResultData(nil), fuse.OK
	}
	return &spanResult{span, n}, fuse.OK
}

// spanResult answers a read in place; go-fuse writes the slices with writev(2)
// and then calls Done.
type spanResult struct {
	span *cache.Span
	size int
}

func (r *spanResult) Size() int                       { return r.size }
func (r *spanResult) Done()                           { r.span.Release() }
func (r *spanResult) Slices() ([][]byte, fuse.Status) { return r.span.Bufs, fuse.OK }
func (r *spanResult) Bytes([]byte) ([]byte, fuse.Status) {
	b := make([]byte, 0, r.size)
	for _, s := range r.span.Bufs {
		b = append(b, s...)
	}
	return b, fuse.OK
}

// interrupted is a context that ends when the kernel says that nobody waits for
// the answer any more. A process that is killed is gone only when its request
// is answered.
type interrupted struct {
	context.Context
	done <-chan struct{}
}

func (c interrupted) Done() <-chan struct{} { return c.done }

func (c interrupted) Err() error {
	select {
	case <-c.done:
		return context.Canceled
	default:
		return nil
	}
}

// OpenDir implements [fuse.RawFileSystem].
func (s *fileSystem) OpenDir(_ <-chan struct{}, in *fuse.OpenIn, out *fuse.OpenOut) fuse.Status {
	n, ok := s.node(in.NodeId)
	if !ok {
		return fuse.ENOENT
	}
	list, err := s.view.ReadDir(n.name)
	if err != nil {
		return status(err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.next++
	s.dirs[s.next] = list
	out.Fh = s.next
	return fuse.OK
}

// ReadDir implements [fuse.RawFileSystem].
func (s *fileSystem) ReadDir(_ <-chan struct{}, in *fuse.ReadIn, out *fuse.DirEntryList) fuse.Status {
	s.mu.RLock()
	list := s.dirs[in.Fh]
	s.mu.RUnlock()
	for _, e := range list[min(in.Offset, uint64(len(list))):] {
		mode := uint32(fuse.S_IFREG)
		if e.IsDir() {
			mode = fuse.S_IFDIR
		}
		if !out.AddDirEntry(fuse.DirEntry{Name: e.Name(), Mode: mode}) {
			break
		}
	}
	return fuse.OK
}

// ReleaseDir implements [fuse.RawFileSystem].
func (s *fileSystem) ReleaseDir(in *fuse.ReleaseIn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.dirs, in.Fh)
}

// StatFs implements [fuse.RawFileSystem].
func (s *fileSystem) StatFs(_ <-chan struct{}, _ *fuse.InHeader, out *fuse.StatfsOut) fuse.Status {
	out.Bsize, out.Frsize, out.NameLen = 4096, 4096, 255
	return fuse.OK
}

// status maps an error of a View to errno. What kept a NAR from coming is told
// by the View's Err.
func status(err error) fuse.Status {
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, fs.ErrInvalid):
		return fuse.ENOENT
	case errors.Is(err, context.Canceled):
		return fuse.EINTR
	}
	return fuse.EIO
}
