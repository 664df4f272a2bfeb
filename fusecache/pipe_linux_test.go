package fusecache

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"github.com/drv-thru/drv-thru/core/cache"
	"github.com/drv-thru/drv-thru/core/nix"
)

func pipedNar(t *testing.T, b *zeroBuilder) (*fileSystem, *fuse.EntryOut) {
	t.Helper()
	return pipedView(t, b.size, cache.ViewConfig{Fetcher: b})
}

// pipedView is the file system of a View with one NAR, and the node of that.
func pipedView(t *testing.T, size uint64, cfg cache.ViewConfig) (s *fileSystem, nar *fuse.EntryOut) {
	t.Helper()
	view, info := narView(t, size, cfg)
	s = newFileSystem(view, Options{})
	var err error
	if s.pipes, err = newPipes(view, filepath.Join(t.TempDir(), "pipe")); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.close)
	var dir, file fuse.EntryOut
	if status := s.Lookup(nil, &fuse.InHeader{NodeId: fuse.FUSE_ROOT_ID}, "nar", &dir); status != fuse.OK {
		t.Fatal(status)
	}
	if status := s.Lookup(nil, &fuse.InHeader{NodeId: dir.NodeId}, filepath.Base(nix.NarURL(info.NarHash)), &file); status != fuse.OK {
		t.Fatal(status)
	}
	return s, &file
}

func readlink(t *testing.T, s *fileSystem, nar *fuse.EntryOut) string {
	t.Helper()
	path, status := s.Readlink(nil, &fuse.InHeader{NodeId: nar.NodeId})
	if status != fuse.OK {
		t.Fatal(status)
	}
	return string(path)
}

// bytesBuilder sends NARs of its bytes.
type bytesBuilder struct {
	zeroBuilder
	data []byte
}

type bytesStream struct {
	cache.Stream
	b    *bytesBuilder
	left uint64
}

func (b *bytesBuilder) Fetch(ctx context.Context, ranges []cache.NarRange) (cache.Stream, error) {
	s, err := b.zeroBuilder.Fetch(ctx, ranges)
	return &bytesStream{Stream: s, b: b}, err
}

func (s *bytesStream) Next() (cache.Frame, error) {
	f, err := s.Stream.Next()
	s.left = f.Size
	return f, err
}

func (s *bytesStream) Read(p []byte) (int, error) {
	n, err := s.Stream.Read(p)
	copy(p[:n], s.b.data[uint64(len(s.b.data))-s.left:])
	s.left -= uint64(n)
	return n, err
}

// What was put into a pipe stays as it is while the View's memory is used again.
func TestPipeBytes(t *testing.T) {
	b := &bytesBuilder{data: make([]byte, 48<<20+5)}
	rand.NewChaCha8([32]byte{}).Read(b.data)
	b.size = uint64(len(b.data))
	s, nar := pipedView(t, b.size, cache.ViewConfig{Fetcher: b, Budget: 6 << 20})
	f, err := os.Open(readlink(t, s, nar))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	buf := make([]byte, 64<<10)
	for off := 0; off < len(b.data); {
		n, err := f.Read(buf)
		if err != nil {
			t.Fatal(off, err)
		}
		if !bytes.Equal(buf[:n], b.data[off:off+n]) {
			t.Fatalf("other bytes at %d", off)
		}
		if off += n; off%7 == 0 {
			time.Sleep(time.Millisecond)
		}
	}
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

func TestPipe(t *testing.T) {
	const size = 3<<20 + 5
	s, nar := pipedNar(t, &zeroBuilder{size: size})
	if nar.Attr.Mode != fuse.S_IFLNK|0o777 {
		t.Errorf("mode %#o", nar.Attr.Mode)
	}
	first, second := readlink(t, s, nar), readlink(t, s, nar)
	for _, path := range []string{second, first} {
		data, err := os.ReadFile(path)
		if err != nil || !bytes.Equal(data, make([]byte, size)) {
			t.Errorf("%d bytes, %v", len(data), err)
		}
		if exists(path) {
			t.Error("a pipe is there after it was read")
		}
	}
}

// Nix 2.29 and later open a NAR, cannot map it, close it and open it again.
func TestPipeIsClosedUnread(t *testing.T) {
	s, nar := pipedNar(t, &zeroBuilder{size: 1 << 20})
	f, err := os.Open(readlink(t, s, nar))
	if err != nil {
		t.Fatal(err)
	}
	f.Close()
	if data, err := os.ReadFile(readlink(t, s, nar)); err != nil || len(data) != 1<<20 {
		t.Errorf("%d bytes, %v", len(data), err)
	}
}

// Whoever fills a pipe ends when its reader does, and when the mount does; then nobody
// waits for it to go on, or to begin.
func TestPipeEnds(t *testing.T) {
	s, nar := pipedNar(t, &zeroBuilder{size: 64 << 20})
	gone, stays, unopened := readlink(t, s, nar), readlink(t, s, nar), readlink(t, s, nar)
	for _, path := range []string{gone, stays} {
		f, err := os.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		if _, err := io.ReadFull(f, make([]byte, 2<<20)); err != nil {
			t.Fatal(err)
		}
		if path == gone {
			f.Close()
			continue
		}
		s.close()
		if rest, err := io.ReadAll(f); err != nil || len(rest) > pipeSize {
			t.Errorf("%d bytes after the end, %v", len(rest), err)
		}
	}
	for _, path := range []string{gone, stays, unopened} {
		if exists(path) {
			t.Errorf("%s was left", path)
		}
	}
	if _, status := s.Readlink(nil, &fuse.InHeader{NodeId: nar.NodeId}); status != fuse.EIO {
		t.Errorf("after the end: %v", status)
	}
}

// Nobody waits for ever to open a pipe that is removed, not even who has found its name
// and comes after that.
func TestRemovePipe(t *testing.T) {
	path := filepath.Join(t.TempDir(), "pipe")
	if err := unix.Mkfifo(path, 0o600); err != nil {
		t.Fatal(err)
	}
	found, err := unix.Open(path, unix.O_PATH, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(found)
	RemovePipe(path)
	if data, err := os.ReadFile(fmt.Sprintf("/proc/self/fd/%d", found)); err != nil || len(data) > 0 {
		t.Errorf("%d bytes, %v", len(data), err)
	}
	if exists(path) {
		t.Error("it is there")
	}
}

func TestPipeOfWhatBreaks(t *testing.T) {
	s, nar := pipedNar(t, &zeroBuilder{size: 3 << 20, bad: 2 << 20})
	data, err := os.ReadFile(readlink(t, s, nar))
	if err != nil || len(data) > 2<<20 {
		t.Errorf("%d bytes, %v", len(data), err)
	}
	if s.view.Err() == nil {
		t.Error("the View has no error")
	}
}

// A reader that comes late gets the NAR, and one that rests the rest of it when it goes on.
func TestPipeOfSlowReader(t *testing.T) {
	s, nar := pipedNar(t, &zeroBuilder{size: 4 << 20})
	path := readlink(t, s, nar)
	time.Sleep(50 * time.Millisecond)
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	total := 0
	for {
		n, err := f.Read(make([]byte, 512<<10))
		total += n
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(5 * time.Millisecond)
	}
	if total != 4<<20 {
		t.Errorf("%d bytes", total)
	}
}

func TestSmallNarsAreFiles(t *testing.T) {
	s, nar := pipedNar(t, &zeroBuilder{size: MinPiped - 1})
	if nar.Attr.Mode != fuse.S_IFREG|0o444 {
		t.Errorf("mode %#o", nar.Attr.Mode)
	}
	if _, status := s.Readlink(nil, &fuse.InHeader{NodeId: nar.NodeId}); status != fuse.EINVAL {
		t.Errorf("%v", status)
	}
}

func TestNoPipes(t *testing.T) {
	if _, err := newPipes(nil, filepath.Join(t.TempDir(), "missing", "pipe")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("%v", err)
	}
}

// filedBuilder has its NAR in a file, of which what is not there can be loaded.
type filedBuilder struct {
	bytesBuilder
	pieces []cache.Piece
}

func (b *filedBuilder) Pieces(string) iter.Seq[cache.Piece] { return slices.Values(b.pieces) }

// newFiledBuilder has a NAR of 64 pieces, each in the file behind a byte that is not of it.
func newFiledBuilder(t *testing.T) *filedBuilder {
	t.Helper()
	const size = 70_001
	b := &filedBuilder{bytesBuilder: bytesBuilder{data: make([]byte, 64*size)}}
	rand.NewChaCha8([32]byte{}).Read(b.data)
	b.size = uint64(len(b.data))
	file, err := os.Create(filepath.Join(t.TempDir(), "file"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { file.Close() })
	for data := range slices.Chunk(b.data, size) {
		at, _ := file.Seek(0, io.SeekEnd)
		if _, err := file.Write(append([]byte{'x'}, data...)); err != nil {
			t.Fatal(err)
		}
		b.pieces = append(b.pieces, cache.Piece{File: file, Offset: at + 1, Size: size, Load: func() ([]byte, error) { return data, nil }})
	}
	return b
}

// What a file has goes into a pipe from there, and whatever does not, because it is in none,
// the file is closed, shorter, or none that the kernel can refer to, comes loaded.
func TestPipeOfPieces(t *testing.T) {
	closed, err := os.Create(filepath.Join(t.TempDir(), "closed"))
	if err != nil {
		t.Fatal(err)
	}
	closed.Close()
	dir, err := os.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer dir.Close()
	for name, change := range map[string]func(p *cache.Piece){
		"all in a file":  func(p *cache.Piece) { p.Load = func() ([]byte, error) { return nil, errors.New("loaded") } },
		"none in a file": func(p *cache.Piece) { p.File = nil },
		"closed":         func(p *cache.Piece) { p.File = closed },
		"a directory":    func(p *cache.Piece) { p.File = dir },
		"shorter":        func(p *cache.Piece) { p.Offset = 1 << 40 },
	} {
		t.Run(name, func(t *testing.T) {
			b := newFiledBuilder(t)
			for i := range b.pieces {
				if name == "all in a file" || i%5 == 3 {
					change(&b.pieces[i])
				}
			}
			s, nar := pipedView(t, b.size, cache.ViewConfig{Fetcher: b, Filed: MinPiped})
			data, err := os.ReadFile(readlink(t, s, nar))
			if err != nil || !bytes.Equal(data, b.data) {
				t.Errorf("other bytes, %d of %d, %v", len(data), len(b.data), err)
			}
			if err := s.view.Err(); err != nil {
				t.Error(err)
			}
		})
	}
}

// A file that ends within a piece gives what it has; the rest is loaded.
func TestPipeOfShortFile(t *testing.T) {
	b := newFiledBuilder(t)
	last := &b.pieces[len(b.pieces)-1]
	if err := last.File.Truncate(last.Offset + last.Size/2); err != nil {
		t.Fatal(err)
	}
	s, nar := pipedView(t, b.size, cache.ViewConfig{Fetcher: b, Filed: MinPiped})
	data, err := os.ReadFile(readlink(t, s, nar))
	if err != nil || !bytes.Equal(data, b.data) {
		t.Errorf("other bytes, %d of %d, %v", len(data), len(b.data), err)
	}
}

// A piece that cannot be had ends the NAR, and the View says why.
func TestPipeOfMissingPiece(t *testing.T) {
	b := newFiledBuilder(t)
	gone := errors.New("it is gone")
	b.pieces[20].File, b.pieces[20].Load = nil, func() ([]byte, error) { return nil, gone }
	s, nar := pipedView(t, b.size, cache.ViewConfig{Fetcher: b, Filed: MinPiped})
	data, err := os.ReadFile(readlink(t, s, nar))
	if err != nil || int64(len(data)) != 20*b.pieces[0].Size {
		t.Errorf("%d bytes, %v", len(data), err)
	}
	if err := s.view.Err(); !errors.Is(err, gone) {
		t.Errorf("the View's error is %v", err)
	}
}

// Whoever hands a file on ends when its reader does.
func TestPipeOfPiecesEnds(t *testing.T) {
	b := newFiledBuilder(t)
	s, nar := pipedView(t, b.size, cache.ViewConfig{Fetcher: b, Filed: MinPiped})
	path := readlink(t, s, nar)
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(f, make([]byte, 100_000)); err != nil {
		t.Fatal(err)
	}
	f.Close()
	s.pipes.served.Wait()
	if err := s.view.Err(); err != nil || exists(path) {
		t.Errorf("the pipe is there: %t; %v", exists(path), err)
	}
}
