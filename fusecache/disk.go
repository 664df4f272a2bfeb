package fusecache

import (
	"cmp"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/drv-thru/drv-thru/core/chunk/pack"
	"github.com/drv-thru/drv-thru/core/nix"
	"github.com/drv-thru/drv-thru/core/wire"
)

// Disk keeps what a long-lived mount has shown, for when the builder cannot be
// reached and for the kernel to cache: narinfos, and NARs that were read whole.
// A NAR is shown only when its hash has been checked, by each process anew. When
// there is more than a number of bytes, what was not used for longest goes, and
// nothing takes what has to stay free of the file system ([pack.Reserve]). Nothing of
// it is precious: an error on writing costs a fetch later.
//
// The directory belongs to one Disk at a time. Below it are info/<hash>.narinfo,
// nar/<NAR hash>.nar and tmp/ for NARs that are not complete.
type Disk struct {
	dir  string
	most int64
	log  *slog.Logger
	lock *os.File
	wg   sync.WaitGroup

	// free is pack.FileSystemSpace, except in tests.
	free func(dir string) (free, total uint64, err error)

	mu      sync.Mutex
	closed  bool
	bytes   int64
	coming  int64 // sizes of the NARs that are being written
	clock   int64
	entries map[string]*diskEntry // by name below dir
	spools  map[string]*spool     // by hash of the NAR that is being written
	told    bool                  // that it cannot be written
}

type diskEntry struct {
	size int64
	used int64
	// checked: this process has compared a NAR with its hash.
	checked bool
}

const (
	diskInfos = "info"
	diskNars  = "nar"
	diskTmp   = "tmp"
	// diskEmptying is the file that EmptyDisk holds, as well as the lock.
	diskEmptying = "emptying"
	// entryCost is what a file costs besides its bytes.
	entryCost = 4096
)

// ErrDiskInUse is returned when another process has the directory.
var ErrDiskInUse = errors.New("another process uses it")

// OpenDisk opens or makes the directory, which may take most bytes. Nil for
// logger discards messages.
func OpenDisk(dir string, most int64, logger *slog.Logger) (*Disk, error) {
	if logger == nil {
		logger = slog.New(slog.DiscardHandler)
	}
	d := &Disk{dir: dir, most: most, log: logger, free: pack.FileSystemSpace, entries: make(map[string]*diskEntry), spools: make(map[string]*spool)}
	if err := d.makeDirs(); err != nil {
		return nil, fmt.Errorf("open cache %s: %w", dir, err)
	}
	lock, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open cache: %w", err)
	}
	err = lockFile(lock)
	if errors.Is(err, ErrDiskInUse) {
		// Perhaps by somebody who empties it, for a moment; a mount stays for months.
		if err = awaitEmptied(dir); err == nil {
			err = lockFile(lock)
		}
	}
	if err != nil {
		lock.Close()
		return nil, fmt.Errorf("open cache %s: %w", dir, err)
	}
	d.lock = lock
	if err := d.scan(); err != nil {
		lock.Close()
		return nil, fmt.Errorf("open cache: %w", err)
	}
	return d, nil
}

// makeDirs makes what is missing of the directory.
func (d *Disk) makeDirs() error {
	for _, sub := range []string{diskInfos, diskNars, diskTmp} {
		if err := os.MkdirAll(filepath.Join(d.dir, sub), 0o700); err != nil {
			return err
		}
	}
	return checkDisk(d.dir)
}

// createTemp makes a file in tmp.
func (d *Disk) createTemp(pattern string) (*os.File, error) {
	tmp := filepath.Join(d.dir, diskTmp)
	f, err := os.CreateTemp(tmp, pattern)
	if !errors.Is(err, fs.ErrNotExist) {
		return f, err
	}
	// A mount lasts for months, and caches are removed by hand.
	if err := d.makeDirs(); err != nil {
		return nil, err
	}
	return os.CreateTemp(tmp, pattern)
}

// checkDisk makes sure that the directory is one that no other user has prepared: files
// are removed in it, which must not be those of somewhere else.
func checkDisk(dir string) error {
	info, err := os.Stat(dir)
	if err == nil {
		err = ownedBySelf(info)
	}
	for _, sub := range []string{diskInfos, diskNars, diskTmp} {
		if err != nil {
			return err
		}
		info, err = os.Lstat(filepath.Join(dir, sub))
		switch {
		case errors.Is(err, fs.ErrNotExist):
			err = nil
		case err == nil && !info.IsDir():
			err = fmt.Errorf("%s is no directory", sub)
		}
	}
	return err
}

// scan takes in what an earlier process has left.
func (d *Disk) scan() error {
	tmp, err := os.ReadDir(filepath.Join(d.dir, diskTmp))
	if err != nil {
		return err
	}
	for _, e := range tmp {
		if err := os.Remove(filepath.Join(d.dir, diskTmp, e.Name())); err != nil {
			return err
		}
	}
	type found struct {
		name string
		size int64
		at   time.Time
	}
	var all []found
	now := time.Now()
	for _, sub := range []string{diskInfos, diskNars} {
		files, err := os.ReadDir(filepath.Join(d.dir, sub))
		if err != nil {
			return err
		}
		for _, e := range files {
			info, err := e.Info()
			if err != nil || !info.Mode().IsRegular() {
				continue
			}
			at := info.ModTime()
			if at.After(now) {
				at = time.Time{} // by a clock that was wrong: it would stay for longest
			}
			all = append(all, found{sub + "/" + e.Name(), info.Size(), at})
		}
	}
	slices.SortFunc(all, func(a, b found) int { return cmp.Or(a.at.Compare(b.at), strings.Compare(a.name, b.name)) })
	for _, f := range all {
		d.enter(f.name, f.size)
	}
	d.shrink()
	return nil
}

// EmptyDisk removes what is kept in a directory that no Disk has open, and returns how
// many bytes that is; with dryRun it only counts. It fails with [ErrDiskInUse].
func EmptyDisk(dir string, dryRun bool) (removed int64, err error) {
	// The lock stays: who opens the directory meanwhile finds it in use.
	lock, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_RDWR, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil // not made by a Disk
	}
	if err != nil {
		return 0, fmt.Errorf("empty cache: %w", err)
	}
	defer lock.Close()
	if err := checkDisk(dir); err != nil {
		return 0, fmt.Errorf("empty cache %s: %w", dir, err)
	}
	emptying, err := os.OpenFile(filepath.Join(dir, diskEmptying), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return 0, fmt.Errorf("empty cache: %w", err)
	}
	defer func() {
		lock.Close() // first: who waits for the other takes it then
		emptying.Close()
	}()
	if err := errors.Join(lockFile(emptying), lockFile(lock)); err != nil {
		return 0, fmt.Errorf("empty cache %s: %w", dir, err)
	}
	var failed []error
	for _, sub := range []string{diskInfos, diskNars, diskTmp} {
		files, err := os.ReadDir(filepath.Join(dir, sub))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			failed = append(failed, err)
		}
		for _, f := range files {
			info, err := f.Info()
			if err != nil || !info.Mode().IsRegular() {
				continue
			}
			if !dryRun {
				if err := os.Remove(filepath.Join(dir, sub, f.Name())); err != nil {
					failed = append(failed, err)
					continue
				}
			}
			removed += info.Size()
		}
	}
	return removed, errors.Join(failed...)
}

// awaitEmptied waits until nobody empties the directory.
func awaitEmptied(dir string) error {
	f, err := os.OpenFile(filepath.Join(dir, diskEmptying), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	return awaitLock(f)
}

// Close gives up what is not complete and waits until the rest is written.
func (d *Disk) Close() error {
	d.mu.Lock()
	d.closed = true
	open := slices.Collect(maps.Values(d.spools))
	d.mu.Unlock()
	for _, s := range open {
		s.close()
	}
	d.wg.Wait()
	return d.lock.Close()
}

// enter notes a file as the one used last; d.mu is held, but for scan.
func (d *Disk) enter(name string, size int64) {
	if old := d.entries[name]; old != nil {
		d.bytes -= old.size + entryCost
	}
	d.clock++
	d.entries[name] = &diskEntry{size: size, used: d.clock}
	d.bytes += size + entryCost
}

// use notes that a file is used, for this process and the next; false when it is not there.
func (d *Disk) use(name string) bool {
	e := d.entries[name]
	if e == nil {
		return false
	}
	d.clock++
	e.used = d.clock
	now := time.Now()
	if err := os.Chtimes(filepath.Join(d.dir, name), now, now); errors.Is(err, fs.ErrNotExist) {
		d.remove(name)
		return false
	}
	return true
}

// shrink removes files until the rest fits beside what is coming, an eighth more than
// it must; d.mu is held. Who has one open can read on.
func (d *Disk) shrink() {
	if d.bytes+d.coming <= d.most {
		return
	}
	names := slices.SortedFunc(maps.Keys(d.entries), func(a, b string) int { return cmp.Compare(d.entries[a].used, d.entries[b].used) })
	for _, name := range names {
		if d.bytes+d.coming <= d.most-d.most/8 {
			return
		}
		d.remove(name)
	}
}

func (d *Disk) remove(name string) {
	if e := d.entries[name]; e != nil {
		d.bytes -= e.size + entryCost
		delete(d.entries, name)
		_ = os.Remove(filepath.Join(d.dir, name)) // the next scan finds it
	}
}

// failed tells once that nothing can be kept.
func (d *Disk) failed(err error) {
	d.mu.Lock()
	told := d.told
	d.told = true
	d.mu.Unlock()
	if !told {
		d.log.Warn("cannot keep what was read", "dir", d.dir, "err", err)
	}
}

// PutNarInfo keeps the narinfo of a path, by its hash part.
func (d *Disk) PutNarInfo(hash, text string) {
	name := diskInfos + "/" + hash + ".narinfo"
	if strings.ContainsAny(hash, "/.") || len(text) > wire.MaxNarInfo {
		return
	}
	tmp, err := d.createTemp("info-*")
	if err != nil {
		d.failed(err)
		return
	}
	_, err = tmp.WriteString(text)
	if err = errors.Join(err, tmp.Close()); err == nil {
		err = os.Rename(tmp.Name(), filepath.Join(d.dir, name))
	}
	if err != nil {
		_ = os.Remove(tmp.Name())
		d.failed(err)
		return
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.enter(name, int64(len(text)))
	d.shrink()
}

// UseNarInfo reports whether a narinfo is kept, as one that is in use.
func (d *Disk) UseNarInfo(hash string) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.use(diskInfos + "/" + hash + ".narinfo")
}

// NarInfo returns a narinfo that was kept.
func (d *Disk) NarInfo(hash string) (string, bool) {
	if !d.UseNarInfo(hash) {
		return "", false
	}
	f, err := pack.OpenFile(filepath.Join(d.dir, diskInfos, hash+".narinfo"), os.O_RDONLY)
	if err != nil {
		return "", false
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, wire.MaxNarInfo))
	return string(text), err == nil
}

// HasNar reports whether the NAR of that hash, in Nix's base32, is kept whole.
func (d *Disk) HasNar(hash string) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.entries[diskNars+"/"+hash+".nar"] != nil
}

// narSize returns the size of a NAR that is kept whole.
func (d *Disk) narSize(hash string) (uint64, bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	e := d.entries[diskNars+"/"+hash+".nar"]
	if e == nil {
		return 0, false
	}
	return uint64(e.size), true
}

// openNar opens a NAR that is kept whole; size -1 is any.
func (d *Disk) openNar(ctx context.Context, hash string, size int64) *os.File {
	name := diskNars + "/" + hash + ".nar"
	d.mu.Lock()
	defer d.mu.Unlock()
	e := d.entries[name]
	if e == nil {
		return nil
	}
	f, err := pack.OpenFile(filepath.Join(d.dir, name), os.O_RDONLY)
	if err == nil {
		if info, statErr := f.Stat(); statErr != nil || info.Size() != e.size || size >= 0 && info.Size() != size {
			err = fs.ErrInvalid
		} else if !e.checked {
			d.mu.Unlock()
			err = checkNar(ctx, f, hash, e.size)
			d.mu.Lock()
		}
	}
	switch {
	case err == nil:
		e.checked = true
		d.use(name)
		return f
	case ctx.Err() == nil && d.entries[name] == e:
		d.log.Warn("what was kept cannot be used and was removed", "nar", hash, "err", err)
		d.remove(name)
	}
	if f != nil {
		f.Close()
	}
	return nil
}

// errNoSpace tells that the file system has not more than has to stay free.
var errNoSpace = errors.New("not enough free space")

// room makes sure that the file system has room for so many bytes more; d.mu is held.
func (d *Disk) room(n int64) error {
	free, total, err := d.free(d.dir)
	// One that does not tell is full when writing fails.
	if err == nil && free < pack.Reserve(total)+uint64(d.coming+n) {
		return errNoSpace
	}
	return nil
}

// checkNar compares a file with the hash that its narinfo says.
func checkNar(ctx context.Context, f *os.File, hash string, size int64) error {
	want, err := nix.ParseHash("sha256:" + hash)
	if err != nil {
		return err
	}
	h := sha256.New()
	n, err := io.CopyBuffer(h, whileWanted{ctx, io.NewSectionReader(f, 0, size)}, make([]byte, 256<<10))
	switch {
	case err != nil:
		return err
	case n != size || nix.Hash(h.Sum(nil)) != want:
		return fmt.Errorf("NAR %s is not what its narinfo says", hash)
	}
	return nil
}

// whileWanted reads until a context ends.
type whileWanted struct {
	ctx context.Context
	r   io.Reader
}

func (w whileWanted) Read(p []byte) (int, error) {
	if err := w.ctx.Err(); err != nil {
		return 0, err
	}
	return w.r.Read(p)
}
