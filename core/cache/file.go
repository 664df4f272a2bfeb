package cache

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"path"
	"slices"
	"sync"
	"time"
)

// File is an open file of a [View]. Its methods are safe for concurrent use;
// Read and Seek share one position.
type File struct {
	view *View
	info *fileInfo
	data []byte // unless nar is set
	nar  *narState

	// Guarded by View.mu. pos is the highest offset that a read began at:
	// what lies before it has arrived at the reader. end is the highest
	// that a read ended at.
	pos, end int64
	closed   bool

	mu     sync.Mutex
	offset int64
}

var (
	_ fs.File       = (*File)(nil)
	_ io.ReadSeeker = (*File)(nil)
	_ io.ReaderAt   = (*File)(nil)
)

// Small reports whether the whole file is in memory, so that reading it neither
// waits nor fails: everything but NARs.
func (f *File) Small() bool { return f.nar == nil }

// Size returns the file's length in bytes.
func (f *File) Size() int64 { return f.info.size }

// Stat implements [fs.File].
func (f *File) Stat() (fs.FileInfo, error) { return f.info, nil }

// Borrow waits until n bytes at off are there, and returns them in place,
// pinned until the Span's Release. It returns fewer when the file ends before,
// none at the end, and when n is above 1 MiB. It fails with ctx's error, with
// fs.ErrClosed, or with what kept the bytes from coming.
func (f *File) Borrow(ctx context.Context, off int64, n int) (*Span, error) {
	if off < 0 || n < 0 {
		return nil, f.fail("read", fs.ErrInvalid)
	}
	end := min(f.info.size, off+int64(min(n, maxSpan)))
	if f.nar != nil && off < end {
		s, err := f.view.borrow(ctx, f, off, end)
		if err != nil {
			return nil, f.fail("read", err)
		}
		return s, nil
	}
	s := spans.Get().(*Span)
	if f.nar == nil && off < end {
		s.Bufs = append(s.Bufs, f.data[off:end])
	}
	return s, nil
}

// Whole returns a copy of the file if all of it is here and it has at most limit
// bytes, otherwise nil. It does not wait, and counts as having read the file.
func (f *File) Whole(limit int64) []byte {
	if f.info.size > limit {
		return nil
	}
	if f.nar == nil {
		return f.data
	}
	v, n := f.view, f.nar
	v.mu.Lock()
	defer v.mu.Unlock()
	if f.closed || v.closed || n.covered(0) < n.size {
		return nil
	}
	f.pos, f.end = n.size, n.size
	v.front = n.start + n.size
	return v.readWhole(n, make([]byte, 0, n.size))
}

// ReadAtContext is ReadAt that stops waiting when ctx is done.
func (f *File) ReadAtContext(ctx context.Context, p []byte, off int64) (int, error) {
	n := 0
	for n < len(p) {
		s, err := f.Borrow(ctx, off+int64(n), len(p)-n)
		if err != nil {
			return n, err
		}
		k := 0
		for _, b := range s.Bufs {
			k += copy(p[n+k:], b)
		}
		s.Release()
		if k == 0 {
			return n, io.EOF
		}
		n += k
	}
	return n, nil
}

// ReadAt implements [io.ReaderAt].
func (f *File) ReadAt(p []byte, off int64) (int, error) {
	return f.ReadAtContext(context.Background(), p, off)
}

// Read implements [fs.File].
func (f *File) Read(p []byte) (int, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(p) > maxSpan {
		p = p[:maxSpan]
	}
	n, err := f.ReadAt(p, f.offset)
	f.offset += int64(n)
	if n > 0 && err == io.EOF {
		err = nil
	}
	return n, err
}

// Seek implements [io.Seeker].
func (f *File) Seek(offset int64, whence int) (int64, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	switch whence {
	case io.SeekCurrent:
		offset += f.offset
	case io.SeekEnd:
		offset += f.info.size
	}
	if offset < 0 {
		return 0, f.fail("seek", fs.ErrInvalid)
	}
	f.offset = offset
	return offset, nil
}

// Close ends the use of the file; reads that wait fail with fs.ErrClosed.
func (f *File) Close() error {
	v := f.view
	v.mu.Lock()
	defer v.mu.Unlock()
	if f.closed {
		return f.fail("close", fs.ErrClosed)
	}
	f.closed = true
	n := f.nar
	if n == nil {
		return nil
	}
	delete(v.files, f)
	n.files = remove(n.files, f)
	if f.end == n.size {
		n.done = true
	}
	for _, w := range n.waiters {
		if w.file == f {
			v.detach(w)
			w.fail(fs.ErrClosed)
		}
	}
	v.trim(n)
	if len(n.files) == 0 {
		for r := range v.runs {
			if !r.ahead && r.nar == n {
				v.stop(r)
			}
		}
	}
	return nil
}

func (f *File) fail(op string, err error) error {
	return &fs.PathError{Op: op, Path: f.info.name, Err: err}
}

// fileInfo is the [fs.FileInfo] of everything in a View.
type fileInfo struct {
	name string
	size int64
	mode fs.FileMode
	data []byte
	nar  *narState
}

func dataInfo(name string, data []byte) *fileInfo {
	return &fileInfo{name: path.Base(name), size: int64(len(data)), mode: 0o444, data: data}
}

func (i *fileInfo) Name() string      { return i.name }
func (i *fileInfo) Size() int64       { return i.size }
func (i *fileInfo) Mode() fs.FileMode { return i.mode }
func (i *fileInfo) IsDir() bool       { return i.mode.IsDir() }
func (i *fileInfo) Sys() any          { return nil }

// ModTime is that of everything in a Nix store: one second after 1970 began.
func (i *fileInfo) ModTime() time.Time { return time.Unix(1, 0) }

// dirEntry is an entry of a directory; its file is looked at only for Info.
type dirEntry struct {
	view *View
	name string // in the View
	mode fs.FileMode
}

func (e dirEntry) Name() string               { return path.Base(e.name) }
func (e dirEntry) IsDir() bool                { return e.mode.IsDir() }
func (e dirEntry) Type() fs.FileMode          { return e.mode }
func (e dirEntry) Info() (fs.FileInfo, error) { return e.view.Stat(e.name) }
func (e dirEntry) String() string             { return fs.FormatDirEntry(e) }

// dir is an open directory.
type dir struct {
	info *fileInfo
	list []fs.DirEntry
}

var _ fs.ReadDirFile = (*dir)(nil)

func (d *dir) Stat() (fs.FileInfo, error) { return d.info, nil }
func (d *dir) Close() error               { return nil }

func (d *dir) Read([]byte) (int, error) {
	return 0, &fs.PathError{Op: "read", Path: d.info.name, Err: errors.New("is a directory")}
}

// ReadDir implements [fs.ReadDirFile].
func (d *dir) ReadDir(n int) ([]fs.DirEntry, error) {
	if n <= 0 {
		list := d.list
		d.list = nil
		return list, nil
	}
	if len(d.list) == 0 {
		return nil, io.EOF
	}
	n = min(n, len(d.list))
	list := d.list[:n]
	d.list = slices.Clone(d.list[n:])
	return list, nil
}
