package fusecache

import (
	"context"
	"io/fs"
	"os"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
)

const (
	// maxAhead bounds what is given to the kernel before anybody asks for it, narinfos
	// and NARs each: it takes memory of the machine until it is read.
	maxAhead = 64 << 20
	// infoAhead is up to what size a narinfo is given so.
	infoAhead = 64 << 10
	// endTime is how long whoever has mounted an import has to end its reader.
	endTime = 5 * time.Second
)

// In the mount of an import the kernel is given what Nix will ask for, so that Nix
// does not have to wait until this process has woken, answered and woken it. Who lists
// a directory has the kernel know all files in it. Their bytes go into its page
// cache, and what is in there it opens and reads by itself.

// unopened reports whether the kernel opens files by itself, which it does for good once
// it is told ENOSYS. Those that are no links are small then, and do not change.
func (s *fileSystem) unopened() bool {
	return s.pipes != nil && s.server.KernelSettings().Flags64()&fuse.CAP_NO_OPEN_SUPPORT != 0
}

// readUnopened answers a read of a file that the kernel has opened by itself. When one
// fails the kernel asks again, and once more, and each could wait for as long. Nix may
// have mapped the file (2.29 and later do), and a page that does not come is a
// SIGBUS: whoever has mounted it learns from the View that it is time to end Nix.
func (s *fileSystem) readUnopened(cancel <-chan struct{}, in *fuse.ReadIn) (fuse.ReadResult, fuse.Status) {
	s.mu.RLock()
	n, known := s.nodes[in.NodeId]
	fails := !known || n.failed || s.closed
	s.mu.RUnlock()
	if fails {
		return nil, fuse.EIO
	}
	f, err := s.view.OpenFile(interrupted{context.Background(), cancel}, n.name)
	if err == nil {
		defer f.Close()
		var r *spanResult
		if r, err = borrow(f, cancel, in); err == nil {
			return r, fuse.OK
		}
	}
	failure := status(err)
	if failure != fuse.EINTR {
		s.mu.Lock()
		n.failed = true
		s.mu.Unlock()
		select {
		case <-s.pipes.ctx.Done():
		case <-cancel:
		case <-time.After(endTime):
		}
	}
	return nil, failure
}

// ReadDirPlus implements [fuse.RawFileSystem].
func (s *fileSystem) ReadDirPlus(cancel <-chan struct{}, in *fuse.ReadIn, out *fuse.DirEntryList) fuse.Status {
	s.mu.RLock()
	list := s.dirs[in.Fh]
	room := maxNodes/2 - len(s.nodes)
	s.mu.RUnlock()
	rest := list[min(in.Offset, uint64(len(list))):]
	for _, e := range rest {
		entry := out.AddDirLookupEntry(fuse.DirEntry{Name: e.Name()})
		if entry == nil {
			return fuse.OK
		}
		if room <= 0 || s.Lookup(cancel, &in.InHeader, e.Name(), entry) != fuse.OK {
			*entry = fuse.EntryOut{} // only the name is told
			continue
		}
		room--
		out.FixMode(entry.Mode)
	}
	if len(rest) > 0 {
		return fuse.OK
	}
	switch n, _ := s.node(in.NodeId); n.name {
	case ".":
		s.pipes.begin(func(ctx context.Context) { s.giveInfos(ctx, list) })
	case "nar":
		s.pipes.begin(func(ctx context.Context) { s.view.Ahead(ctx, s.wanted(MinPiped-1), s.give) })
	}
	return fuse.OK
}

// giveInfos gives the kernel the files of a list.
func (s *fileSystem) giveInfos(ctx context.Context, list []fs.DirEntry) {
	wanted := s.wanted(infoAhead)
	for _, e := range list {
		if ctx.Err() != nil {
			return
		}
		if e.IsDir() {
			continue
		}
		f, err := s.view.OpenFile(ctx, e.Name())
		if err != nil {
			return
		}
		if wanted(e.Name(), f.Size()) {
			s.give(e.Name(), f.Whole(infoAhead))
		}
		f.Close()
	}
}

// wanted returns what chooses the files to give: the kernel knows them, they have at
// most so many bytes, and they are not too many.
func (s *fileSystem) wanted(most int64) func(name string, size int64) bool {
	left, page := int64(maxAhead), int64(os.Getpagesize())
	return func(name string, size int64) bool {
		s.mu.RLock()
		_, known := s.ids[name]
		s.mu.RUnlock()
		pages := (size + page - 1) / page * page
		if !known || size > most || pages > left {
			return false
		}
		left -= pages
		return true
	}
}

// give gives the kernel a file.
func (s *fileSystem) give(name string, data []byte) {
	s.mu.RLock()
	id, known := s.ids[name]
	s.mu.RUnlock()
	if known {
		s.store(id, data)
	}
}
