package builder

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"syscall"

	"github.com/zeebo/blake3"

	"github.com/drv-thru/drv-thru/core/chunk"
	"github.com/drv-thru/drv-thru/core/wire"
)

// prepare makes the intake's files, or goes on with those of an earlier one.
// fresh is the file with the manifest. The intake is busy.
func (a *intake) prepare(fresh string) error {
	size := a.info.NarSize
	known := a.knownManifest()
	// It is on the disk twice until it is added. What came before is there already.
	space := 2 * size
	if known {
		space -= min(uint64(diskUse(a.spool())), size)
	}
	var err error
	if a.space, err = a.in.reserve(space); wire.CodeOf(err) == wire.CodeDisk {
		// What nobody is sending now makes room for what somebody is.
		a.in.dropIdle()
		a.space, err = a.in.reserve(space)
	}
	if err != nil {
		return err
	}
	a.in.disk.Lock()
	defer a.in.disk.Unlock()
	if err := a.in.makeRoom(a.from, a.name, size); err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(a.name), 0o700); err != nil {
		return a.failed(err)
	}
	if !known {
		if err := a.remove(); err != nil {
			return err
		}
	}
	f, err := os.OpenFile(a.spool(), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return a.failed(err)
	}
	if err := errors.Join(f.Truncate(int64(size)), f.Close()); err != nil {
		return a.failed(err)
	}
	if err := os.Rename(fresh, a.manifest()); err != nil {
		return a.failed(err)
	}
	a.touch()
	return nil
}

// knownManifest tells whether the manifest on the disk is this one.
func (a *intake) knownManifest() bool {
	f, err := os.Open(a.manifest())
	if err != nil {
		return false
	}
	defer f.Close()
	r := bufio.NewReader(f)
	head, err := r.ReadString('\n')
	if err != nil || head != a.head() {
		return false
	}
	sum := blake3.New()
	if _, err := io.Copy(sum, r); err != nil {
		return false
	}
	return [32]byte(sum.Sum(nil)) == a.sum
}

// failed says what the disk did not let be done.
func (a *intake) failed(err error) error {
	if errors.Is(err, syscall.ENOSPC) {
		return fmt.Errorf("%w: %w", wire.Errorf(wire.CodeDisk, "there is no room for %s", a.info.Path), err)
	}
	return fmt.Errorf("hold %s: %w", a.info.Path, err)
}

// touch notes on the disk when the input was last of use. The mark is lost with
// the file's time, which costs no more than having to send again.
func (a *intake) touch() {
	now := a.in.now()
	_ = os.Chtimes(a.manifest(), now, now)
}

// remove removes all that is on the disk of its intake.
func (a *intake) remove() error { return removeAll(a.manifest(), a.spool(), a.journal()) }

func removeAll(names ...string) error {
	var failed error
	for _, name := range names {
		if err := os.Remove(name); err != nil && !errors.Is(err, os.ErrNotExist) {
			failed = errors.Join(failed, err)
		}
	}
	return failed
}

// resume takes the chunks that were written before, as far as they are whole.
func (a *intake) resume(ctx context.Context) error {
	data, err := os.ReadFile(a.journal())
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return a.failed(err)
	}
	spool, err := os.Open(a.spool())
	if err != nil {
		return a.failed(err)
	}
	defer spool.Close()
	buf := chunkBuffers.Get().(*chunkBuffer)
	defer chunkBuffers.Put(buf)
	for ; len(data) >= ordinalSize; data = data[ordinalSize:] {
		if err := ctx.Err(); err != nil {
			return err
		}
		i := int(binary.BigEndian.Uint32(data))
		if i >= len(a.list.ids) || a.has(i) {
			continue
		}
		off, size := a.list.span(i)
		p := buf[:size]
		if _, err := spool.ReadAt(p, off); err != nil {
			return a.failed(err)
		}
		chunk.Mask(p, off, a.list.substs)
		if chunk.Sum(p) == a.list.ids[i] {
			a.got(uint32(i))
		}
	}
	return nil
}

const ordinalSize = 4

type chunkBuffer [chunk.MaxSize]byte

var chunkBuffers = sync.Pool{New: func() any { return new(chunkBuffer) }}

func (a *intake) has(i int) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.have[i/64]&(1<<(i%64)) != 0
}

// got notes that chunks are here, and returns the bytes of those that were not.
func (a *intake) got(ordinals ...uint32) (bytes uint64) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, i := range ordinals {
		if bit := uint64(1) << (i % 64); a.have[i/64]&bit == 0 {
			a.have[i/64] |= bit
			a.left--
			_, size := a.list.span(int(i))
			bytes += uint64(size)
		}
	}
	return bytes
}

// missing returns the ranges of chunks that are to be sent.
func (a *intake) missing() [][2]int {
	a.mu.Lock()
	have := slices.Clone(a.have)
	a.mu.Unlock()
	l := a.list
	asked := -1
	for _, i := range l.order {
		switch {
		case have[i/64]&(1<<(i%64)) != 0:
		case asked >= 0 && l.ids[i] == l.ids[asked]:
			have[i/64] |= 1 << (i % 64) // comes with that one
		default:
			asked = int(i)
		}
	}
	var ranges [][2]int
	for i := range l.ids {
		if have[i/64]&(1<<(i%64)) != 0 {
			continue
		}
		if n := len(ranges); n > 0 && ranges[n-1][0]+ranges[n-1][1] == i {
			ranges[n-1][1]++
		} else {
			ranges = append(ranges, [2]int{i, 1})
		}
	}
	return ranges
}

// writer adds chunks to an intake. It is made for one request and closed.
type writer struct {
	a              *intake
	spool, journal *os.File
}

func (a *intake) writer() (*writer, error) {
	if a.isOver() {
		return nil, errIncomplete(a.info.Path)
	}
	spool, err := os.OpenFile(a.spool(), os.O_WRONLY, 0)
	if errors.Is(err, os.ErrNotExist) {
		return nil, errIncomplete(a.info.Path) // ended meanwhile
	}
	if err != nil {
		return nil, a.failed(err)
	}
	journal, err := os.OpenFile(a.journal(), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return nil, a.failed(errors.Join(err, spool.Close()))
	}
	return &writer{a, spool, journal}, nil
}

func (w *writer) Close() error { return errors.Join(w.spool.Close(), w.journal.Close()) }

// keep writes a chunk, given masked, to all the places where it belongs. Its ID
// was checked. It tells whether any was missing.
func (w *writer) keep(ctx context.Context, id chunk.ID, masked []byte) (bool, error) {
	l := w.a.list
	var note []byte
	var done []uint32
	for _, i := range l.find(id) {
		if w.a.has(int(i)) {
			continue
		}
		if err := ctx.Err(); err != nil {
			return false, context.Cause(ctx)
		}
		if err := w.put(int(i), masked); err != nil {
			return false, w.a.failed(err)
		}
		note, done = binary.BigEndian.AppendUint32(note, i), append(done, i)
	}
	if len(done) == 0 {
		return false, nil
	}
	if _, err := w.journal.Write(note); err != nil {
		return false, w.a.failed(err)
	}
	w.a.space.written(w.a.got(done...), w.a.info.NarSize)
	return true, nil
}

func (w *writer) put(i int, masked []byte) error {
	off, size := w.a.list.span(i)
	if substs := chunk.Within(w.a.list.substs, off, size); len(substs) > 0 {
		buf := chunkBuffers.Get().(*chunkBuffer)
		defer chunkBuffers.Put(buf)
		masked = append(buf[:0], masked...)
		chunk.Unmask(masked, off, w.a.list.refs, substs)
	}
	_, err := w.spool.WriteAt(masked, off)
	return err
}

// complete opens the spool for verification, when nothing is missing.
func (a *intake) complete() (*os.File, error) {
	a.mu.Lock()
	left, over := a.left, a.isDone
	a.mu.Unlock()
	if left > 0 || over {
		return nil, errIncomplete(a.info.Path)
	}
	return os.Open(a.spool())
}

// end ends the intake: what was taken leaves its manifest, so that the next
// version of it is known by its chunks, what was refused leaves nothing.
func (a *intake) end(taken bool) error {
	a.in.disk.Lock()
	defer a.in.disk.Unlock()
	defer a.over()
	if !taken {
		return a.remove()
	}
	a.touch()
	if err := os.Rename(a.manifest(), a.name+endTaken); err != nil {
		return fmt.Errorf("keep the manifest of %s: %w", a.info.Path, err)
	}
	return errors.Join(removeAll(a.spool(), a.journal()), a.in.dropOthers(a))
}
