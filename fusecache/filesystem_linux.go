package fusecache

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"

	"github.com/drv-thru/drv-thru/core/cache"
)

const (
	// cacheTime is how long the kernel may keep names and attributes: a View
	// never changes what it has shown, but for narinfos that it looks up, and logs.
	cacheTime = time.Hour
	// givenWhole is up to what size a file whose bytes are here is given to the
	// kernel when it is opened.
	givenWhole = 32 << 10
	// maxNodes is how many names the kernel may know before it is asked to
	// forget some: a mount lives for months.
	maxNodes = 64 << 10
)

// fileSystem answers the kernel's requests from a View. The tree is two levels
// deep, and a node lives for as long as the kernel knows its name.
type fileSystem struct {
	fuse.RawFileSystem
	view     *cache.View
	disk     *Disk  // may be nil
	pipes    *pipes // may be nil
	live     bool
	uid, gid uint32
	server   *fuse.Server
	// store gives the kernel bytes of a node from its beginning on. Without them, it asks
	// as usual.
	store func(id uint64, data []byte)

	mu       sync.RWMutex
	closed   bool
	nodes    map[uint64]*node // by ID
	ids      map[string]uint64
	lastID   uint64
	trimming bool
	handles  map[uint64]*handle
	dirs     map[uint64][]fs.DirEntry
	next     uint64 // handle
}

// node is a name. Guarded by fileSystem.mu, but for name and dir.
type node struct {
	name string // in the View
	dir  bool
	size uint64
	// failed tells that a read has, of a file that is read without being opened.
	failed bool
	// lookups is how often the kernel was told of it since it forgot it.
	lookups uint64
}

// handle is an open file.
type handle struct {
	file  *cache.File
	spool *spool // takes what is read; may be nil
	data  []byte // the whole file, where the kernel has it already
	// whole is the NAR, complete on this machine's disk, instead of the above.
	whole *os.File
}

func (h *handle) close() {
	if h.spool != nil {
		h.spool.close()
	}
	if h.file != nil {
		h.file.Close()
	}
	if h.whole != nil {
		h.whole.Close()
	}
}

func newFileSystem(view *cache.View, o Options) *fileSystem {
	return &fileSystem{
		RawFileSystem: fuse.NewDefaultRawFileSystem(),
		view:          view,
		disk:          o.Disk,
		live:          o.Live,
		uid:           uint32(os.Getuid()),
		gid:           uint32(os.Getgid()),
		nodes:         map[uint64]*node{fuse.FUSE_ROOT_ID: {name: ".", dir: true}},
		ids:           map[string]uint64{".": fuse.FUSE_ROOT_ID},
		lastID:        fuse.FUSE_ROOT_ID,
		handles:       make(map[uint64]*handle),
		dirs:          make(map[uint64][]fs.DirEntry),
	}
}

// Init implements [fuse.RawFileSystem].
func (s *fileSystem) Init(server *fuse.Server) {
	s.server = server
	s.store = func(id uint64, data []byte) { _ = server.InodeNotifyStoreCache(id, 0, data) }
}

// close fails all reads, those that wait and those to come.
func (s *fileSystem) close() {
	if s.pipes != nil {
		s.pipes.close()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	for fh, h := range s.handles {
		// The kernel may still be reading from a descriptor: that one goes
		// with its handle, or with the process.
		if h.whole == nil {
			h.close()
			delete(s.handles, fh)
		}
	}
}

// OnUnmount implements [fuse.RawFileSystem]: nobody asks for anything any more.
func (s *fileSystem) OnUnmount() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	for fh, h := range s.handles {
		h.close()
		delete(s.handles, fh)
	}
}

func (s *fileSystem) String() string { return fsName }

// node returns a copy of a node.
func (s *fileSystem) node(id uint64) (node, bool) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	n, ok := s.nodes[id]
	if !ok {
		return node{}, false
	}
	return *n, true
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
	switch {
	case n.dir:
		out.Mode = fuse.S_IFDIR | 0o555
	case s.piped(n):
		out.Mode, out.Size, out.Blocks = fuse.S_IFLNK|0o777, 0, 0
	}
}

// piped reports whether a file is a link to a pipe.
func (s *fileSystem) piped(n node) bool {
	_, isNar := narHash(n.name)
	return s.pipes != nil && isNar && n.size >= MinPiped
}

// changes reports whether what a name stands for may change. The log of a build that
// goes on does, and of one that is repeated.
func (s *fileSystem) changes(name string) bool {
	if path.Dir(name) == "log" {
		return true
	}
	return s.live && path.Dir(name) == "." && strings.HasSuffix(name, ".narinfo")
}

// timeout is how long the kernel may keep a name and its attributes.
func (s *fileSystem) timeout(name string) time.Duration {
	if s.changes(name) {
		return 0
	}
	return cacheTime
}

// narHash returns the hash of a NAR's name.
func narHash(name string) (string, bool) {
	hash, ok := strings.CutPrefix(name, "nar/")
	if !ok {
		return "", false
	}
	return strings.CutSuffix(hash, ".nar")
}

// Lookup implements [fuse.RawFileSystem]. An error makes no negative entry.
func (s *fileSystem) Lookup(cancel <-chan struct{}, header *fuse.InHeader, name string, out *fuse.EntryOut) fuse.Status {
	parent, ok := s.node(header.NodeId)
	if !ok || !parent.dir {
		return fuse.ENOENT
	}
	name = path.Join(parent.name, name)
	found := &node{name: name}
	info, err := s.view.StatContext(interrupted{context.Background(), cancel}, name)
	if err == nil {
		found.dir, found.size = info.IsDir(), uint64(info.Size())
	} else if found.size, ok = s.onDisk(name); !ok {
		return status(err)
	}
	s.mu.Lock()
	id, ok := s.ids[name]
	if !ok {
		s.lastID++
		id = s.lastID
		s.ids[name], s.nodes[id] = id, found
	}
	n := s.nodes[id]
	n.size = found.size
	n.lookups++
	copied := *n
	if len(s.nodes) > maxNodes && !s.trimming {
		s.trimming = true
		go s.trim(maxNodes * 3 / 4)
	}
	s.mu.Unlock()
	out.NodeId = id
	out.SetEntryTimeout(s.timeout(name))
	out.SetAttrTimeout(s.timeout(name))
	s.attr(id, copied, &out.Attr)
	return fuse.OK
}

// onDisk returns the size of a NAR that the View does not know any more but that
// is here.
func (s *fileSystem) onDisk(name string) (uint64, bool) {
	hash, ok := narHash(name)
	if !ok || s.disk == nil {
		return 0, false
	}
	return s.disk.narSize(hash)
}

// Forget implements [fuse.RawFileSystem].
func (s *fileSystem) Forget(id, lookups uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	n, ok := s.nodes[id]
	if !ok || id == fuse.FUSE_ROOT_ID {
		return
	}
	n.lookups -= min(lookups, n.lookups)
	if n.lookups == 0 {
		delete(s.nodes, id)
		delete(s.ids, n.name)
	}
}

// trim asks the kernel to forget the oldest names until no more than most are
// left; what is in use it keeps.
func (s *fileSystem) trim(most int) {
	s.mu.Lock()
	old := make([]uint64, 0, len(s.nodes))
	for id, n := range s.nodes {
		if !n.dir {
			old = append(old, id)
		}
	}
	slices.Sort(old)
	type entry struct {
		parent uint64
		name   string
	}
	entries := make([]entry, 0, len(old))
	for _, id := range old[:max(0, min(len(old), len(s.nodes)-most))] {
		name := s.nodes[id].name
		entries = append(entries, entry{s.ids[path.Dir(name)], path.Base(name)})
	}
	s.mu.Unlock()
	// The kernel answers with requests to forget, which take the lock.
	for _, e := range entries {
		if s.server.EntryNotify(e.parent, e.name) == fuse.ENODEV {
			break
		}
	}
	s.mu.Lock()
	s.trimming = false
	s.mu.Unlock()
}

// GetAttr implements [fuse.RawFileSystem].
func (s *fileSystem) GetAttr(_ <-chan struct{}, in *fuse.GetAttrIn, out *fuse.AttrOut) fuse.Status {
	n, ok := s.node(in.NodeId)
	if !ok {
		return fuse.ENOENT
	}
	out.SetTimeout(s.timeout(n.name))
	s.attr(in.NodeId, n, &out.Attr)
	return fuse.OK
}

// Readlink implements [fuse.RawFileSystem]: whoever opens a link asks anew where it
// leads, so each has a pipe of their own.
func (s *fileSystem) Readlink(_ <-chan struct{}, in *fuse.InHeader) ([]byte, fuse.Status) {
	n, ok := s.node(in.NodeId)
	if !ok || !s.piped(n) {
		return nil, fuse.EINVAL
	}
	path, err := s.pipes.open(n.name)
	if err != nil {
		return nil, status(err)
	}
	return []byte(path), fuse.OK
}

// Open implements [fuse.RawFileSystem].
func (s *fileSystem) Open(cancel <-chan struct{}, in *fuse.OpenIn, out *fuse.OpenOut) fuse.Status {
	n, ok := s.node(in.NodeId)
	switch {
	case !ok:
		return fuse.ENOENT
	case in.Flags&fuse.O_ANYWRITE != 0:
		return fuse.EROFS
	case s.unopened():
		return fuse.ENOSYS
	}
	h, err := s.open(interrupted{context.Background(), cancel}, n)
	if err != nil {
		return status(err)
	}
	if h.file != nil && !s.changes(n.name) {
		s.giveOpened(in.NodeId, h)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		h.close()
		return fuse.EIO
	}
	s.next++
	s.handles[s.next] = h
	out.Fh = s.next
	out.OpenFlags = fuse.FOPEN_DIRECT_IO
	switch {
	case h.whole != nil:
		out.OpenFlags = fuse.FOPEN_KEEP_CACHE
	case s.changes(n.name):
		if n := s.nodes[in.NodeId]; n != nil {
			n.size = uint64(h.file.Size())
		}
	case h.file.Small(), h.data != nil:
		out.OpenFlags = fuse.FOPEN_KEEP_CACHE
	}
	return fuse.OK
}

// giveOpened puts a small file that is here into the kernel's page cache: whoever opens
// it need not ask for its bytes, nor learn by another request that there are no
// more.
func (s *fileSystem) giveOpened(id uint64, h *handle) {
	if h.data = h.file.Whole(givenWhole); len(h.data) == 0 {
		return
	}
	if h.spool != nil {
		h.spool.write([][]byte{h.data}, 0, func() {})
	}
	s.store(id, h.data)
}

// open opens a NAR that is complete on this machine there, and anything else
// from the View.
func (s *fileSystem) open(ctx context.Context, n node) (*handle, error) {
	hash, isNar := narHash(n.name)
	if isNar && s.disk != nil {
		if f := s.disk.openNar(ctx, hash, int64(n.size)); f != nil {
			return &handle{whole: f}, nil
		}
	}
	f, err := s.view.OpenFile(ctx, n.name)
	if err != nil {
		return nil, err
	}
	h := &handle{file: f}
	if isNar && s.disk != nil {
		h.spool = s.disk.newSpool(hash, f.Size())
	}
	return h, nil
}

// Flush implements [fuse.RawFileSystem]. There is nothing to write, and after
// ENOSYS the kernel asks no more: an import of small files is a fifth fewer
// requests.
func (s *fileSystem) Flush(<-chan struct{}, *fuse.FlushIn) fuse.Status { return fuse.ENOSYS }

// Release implements [fuse.RawFileSystem].
func (s *fileSystem) Release(_ <-chan struct{}, in *fuse.ReleaseIn) {
	s.mu.Lock()
	h := s.handles[in.Fh]
	delete(s.handles, in.Fh)
	s.mu.Unlock()
	if h != nil {
		h.close()
	}
}

// Read implements [fuse.RawFileSystem]. It answers with all that was asked for
// unless the file ends, as programs take a short read for its end.
func (s *fileSystem) Read(cancel <-chan struct{}, in *fuse.ReadIn, _ []byte) (fuse.ReadResult, fuse.Status) {
	if in.Fh == 0 && s.pipes != nil {
		return s.readUnopened(cancel, in)
	}
	s.mu.RLock()
	h := s.handles[in.Fh]
	closed := s.closed
	s.mu.RUnlock()
	if h == nil || closed {
		return nil, fuse.EIO
	}
	if h.whole != nil {
		return fuse.ReadResultFd(h.whole.Fd(), int64(in.Offset), int(in.Size)), fuse.OK
	}
	if h.data != nil {
		from := min(in.Offset, uint64(len(h.data)))
		return fuse.ReadResultData(h.data[from:min(from+uint64(in.Size), uint64(len(h.data)))]), fuse.OK
	}
	r, err := borrow(h.file, cancel, in)
	if err != nil {
		return nil, status(err)
	}
	if h.spool != nil && r.size > 0 {
		r.users.Add(1)
		h.spool.write(r.span.Bufs, int64(in.Offset), r.Done)
	}
	return r, fuse.OK
}

// borrow reads a file of the View.
func borrow(f *cache.File, cancel <-chan struct{}, in *fuse.ReadIn) (*spanResult, error) {
	span, err := f.Borrow(interrupted{context.Background(), cancel}, int64(in.Offset), int(in.Size))
	if err != nil {
		return nil, err
	}
	r := &spanResult{span: span, size: span.Len()}
	r.users.Store(1)
	return r, nil
}

// spanResult answers a read in place; go-fuse writes the slices with writev(2)
// and then calls Done. The spool may need them for longer.
type spanResult struct {
	span  *cache.Span
	size  int
	users atomic.Int32
}

func (r *spanResult) Done() {
	if r.users.Add(-1) == 0 {
		r.span.Release()
	}
}

func (r *spanResult) Size() int                       { return r.size }
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
		switch {
		case e.IsDir():
			mode = fuse.S_IFDIR
		case s.pipes != nil:
			mode = 0 // unknown: some are links
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
