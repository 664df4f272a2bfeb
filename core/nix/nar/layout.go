package nar

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"
	"sort"
	"syscall"
)

// maxLiteral bounds the bytes of a layout that are not file contents (about
// 220 for each entry), so that a build output of countless empty files cannot
// take the memory of whoever scans it. Enough for two million files.
const maxLiteral = 512 << 20

// Layout is the archive of a tree on disk, addressable by offset without being
// produced: what is not file contents is held in memory, the contents are read
// from the files when asked for. Safe for concurrent use.
type Layout struct {
	size int64
	// literal is everything that is not file contents, in order.
	literal []byte
	// files are the regular files that are not empty, in order.
	files []file
	dirs  []string
	tree  tree
	open  fdCache
}

// file is where one file's contents lie. The name is kept as a range of the
// literal bytes, where it stands anyway.
type file struct {
	off     int64 // in the archive
	size    int64
	lit     uint32 // how many literal bytes come before off
	dir     uint32 // index into dirs
	name    uint32 // offset in literal
	nameLen uint8  // 0 for a root that is a file
}

// Scan walks the tree at fsRoot, which may be a file, a symlink or a directory,
// and returns its archive's layout. Symlinks are never followed. It fails with
// ErrUnsupported, ErrTooLarge, ErrChanged or an error of the file system.
func Scan(ctx context.Context, fsRoot string) (*Layout, error) {
	t, err := openTree(fsRoot)
	if err != nil {
		return nil, fmt.Errorf("scan %s: %w", fsRoot, err)
	}
	s := scanner{ctx: ctx, l: &Layout{tree: t}}
	if err = s.root(); err != nil {
		_ = t.close()
		return nil, fmt.Errorf("scan %s: %w", fsRoot, err)
	}
	s.l.literal = slices.Concat(append(s.blocks, s.block)...)
	s.l.files = slices.Clip(s.l.files)
	s.l.size = int64(len(s.l.literal)) + s.contents
	return s.l, nil
}

// stat is what the archive needs to know of a file.
type stat struct {
	name       string
	mode       fs.FileMode // type bits only
	executable bool
	size       int64
	target     string
}

type scanner struct {
	ctx      context.Context
	l        *Layout
	contents int64 // bytes of file contents so far
	// The literal bytes so far: blocks that are full, of before bytes in all, and the one
	// under way. A slice that grows in one piece is copied so often that it leaves five
	// times its size behind.
	blocks [][]byte
	before int
	block  []byte
}

const (
	// firstBlock and lastBlock bound a block's size; between them it is what all before
	// it are.
	firstBlock = 4 << 10
	lastBlock  = 1 << 20
	// maxEntry is more than one entry adds at once, besides those below it.
	maxEntry = MaxNameLen + MaxTargetLen + 1<<10
)

// literal is how many literal bytes there are so far.
func (s *scanner) literal() int { return s.before + len(s.block) }

// room makes room for an entry.
func (s *scanner) room() {
	if cap(s.block)-len(s.block) >= maxEntry {
		return
	}
	if len(s.block) > 0 {
		s.blocks, s.before = append(s.blocks, s.block), s.literal()
	}
	s.block = make([]byte, 0, maxEntry+min(max(s.before, firstBlock), lastBlock))
}

func (s *scanner) root() error {
	st, err := s.l.tree.statRoot()
	if err != nil {
		return err
	}
	s.room()
	s.block = appendString(s.block, magic)
	return s.node(st, "", 0, 0, 0)
}

// node appends one node. path is the node's own when it is a directory; dir and
// name say where a file's name is found again.
func (s *scanner) node(st stat, path string, dir, name uint32, depth int) error {
	switch st.mode {
	case 0:
		s.block = appendFileHead(s.block, uint64(st.size), st.executable)
		if st.size > 0 {
			s.l.files = append(s.l.files, file{
				off: int64(s.literal()) + s.contents, size: st.size,
				lit: uint32(s.literal()), dir: dir, name: name, nameLen: uint8(len(st.name)),
			})
			s.contents += st.size
		}
		s.block = append(s.block, zeros[:padding(uint64(st.size))]...)
		s.block = appendString(s.block, wordClose)
		return nil
	case fs.ModeSymlink:
		s.block = appendStrings(s.block, wordOpen, wordType, wordLink, wordTarget, st.target, wordClose)
		return nil
	case fs.ModeDir:
		return s.directory(path, depth)
	}
	return fmt.Errorf("%w: %s is a %s", ErrUnsupported, path, st.mode)
}

func (s *scanner) directory(path string, depth int) error {
	if depth == MaxDepth {
		return fmt.Errorf("%w: directories nest deeper than %d", ErrUnsupported, MaxDepth)
	}
	if err := s.ctx.Err(); err != nil {
		return err
	}
	entries, err := s.l.tree.readDir(path)
	if err != nil {
		return err
	}
	dir := uint32(len(s.l.dirs))
	s.l.dirs = append(s.l.dirs, path)
	s.block = appendStrings(s.block, wordOpen, wordType, wordDir)
	for _, e := range entries {
		if err := checkName(e.name); err != nil {
			return fmt.Errorf("%w: %w", ErrUnsupported, err)
		}
		if s.literal() > maxLiteral {
			return ErrTooLarge
		}
		s.room()
		s.block = appendStrings(s.block, wordEntry, wordOpen, wordName)
		name := uint32(s.literal() + align)
		s.block = appendStrings(s.block, e.name, wordNode)
		below := ""
		if e.mode != 0 && e.mode != fs.ModeSymlink {
			below = join(path, e.name)
		}
		if err := s.node(e, below, dir, name, depth+1); err != nil {
			return err
		}
		s.block = appendString(s.block, wordClose)
	}
	s.block = appendString(s.block, wordClose)
	return nil
}

// join joins the slash-separated path of a directory below the root, which is
// empty for the root itself, and a name in it.
func join(dir, name string) string {
	if dir == "" {
		return name
	}
	return dir + "/" + name
}

// Size returns the archive's length in bytes: Nix's NarSize.
func (l *Layout) Size() int64 { return l.size }

// path returns the path of a file below the root.
func (l *Layout) path(f *file) string {
	if f.nameLen == 0 {
		return ""
	}
	return join(l.dirs[f.dir], string(l.literal[f.name:f.name+uint32(f.nameLen)]))
}

// ReadAt implements [io.ReaderAt] over the archive. It fails with ErrChanged
// when a file is no longer what it was.
func (l *Layout) ReadAt(p []byte, off int64) (int, error) {
	if off < 0 {
		return 0, fmt.Errorf("read NAR: negative offset %d", off)
	}
	if off >= l.size {
		return 0, io.EOF
	}
	var short error
	if int64(len(p)) > l.size-off {
		p = p[:l.size-off]
		short = io.EOF
	}
	n := 0
	// The first file that ends behind off.
	i := sort.Search(len(l.files), func(i int) bool { return l.files[i].off+l.files[i].size > off })
	for n < len(p) {
		pos := off + int64(n)
		if i == len(l.files) {
			n += copy(p[n:], l.literal[pos-(l.size-int64(len(l.literal))):])
			break
		}
		f := &l.files[i]
		if pos < f.off {
			lit := int64(f.lit) - (f.off - pos)
			n += copy(p[n:], l.literal[lit:f.lit])
			continue
		}
		want := p[n:min(int64(len(p)), int64(n)+f.off+f.size-pos)]
		if err := l.readFile(i, want, pos-f.off); err != nil {
			return n, err
		}
		n += len(want)
		i++
	}
	return n, short
}

// readFile fills p from file i, whole or not at all.
func (l *Layout) readFile(i int, p []byte, off int64) error {
	f := &l.files[i]
	// A file that is read whole is not read again soon.
	if off == 0 && int64(len(p)) == f.size {
		h, err := l.openFile(i)
		if err != nil {
			return err
		}
		defer h.Close()
		return l.readFull(f, h, p, 0)
	}
	h, err := l.open.acquire(i, l.openFile)
	if err != nil {
		return err
	}
	defer l.open.release(h)
	return l.readFull(f, h.file, p, off)
}

func (l *Layout) readFull(f *file, r io.ReaderAt, p []byte, off int64) error {
	n, err := r.ReadAt(p, off)
	switch {
	case n == len(p):
		return nil
	case err == io.EOF:
		return fmt.Errorf("%w: %q became shorter", ErrChanged, l.path(f))
	default:
		return fmt.Errorf("read %q: %w", l.path(f), err)
	}
}

// openFile opens file i and makes sure that it is still the file that was scanned.
func (l *Layout) openFile(i int) (openedFile, error) {
	f := &l.files[i]
	h, size, err := l.tree.openFile(l.path(f))
	switch {
	case err != nil && ofReader(err):
		return nil, err
	case err != nil:
		return nil, fmt.Errorf("%w: %w", ErrChanged, err)
	}
	if size != f.size {
		_ = h.Close()
		return nil, fmt.Errorf("%w: %q has %d bytes now, it had %d", ErrChanged, l.path(f), size, f.size)
	}
	return h, nil
}

// ofReader tells errors that are the reading process's or the disk's from those
// that only a tree which is no longer the same can cause.
func ofReader(err error) bool {
	for _, e := range []error{fs.ErrClosed, fs.ErrPermission, syscall.EMFILE, syscall.ENFILE, syscall.ENOMEM, syscall.EIO} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

// Close closes what is open. Reads under way may finish or fail.
func (l *Layout) Close() error {
	l.open.close()
	return l.tree.close()
}

var _ io.ReaderAt = (*Layout)(nil)
