// Package pack keeps chunks on disk between sessions: a bounded cache, whose
// loss costs a transfer and nothing else.
//
// # Files
//
// A store is a directory of packs, NAME.pack, each with an index beside it,
// NAME.index. A pack is a sequence of records: a 44-byte entry, then the masked
// bytes of one chunk. The index repeats the entries alone. An entry is
//
//	32 bytes  ID of the chunk; all zero when the chunk was found damaged
//	 4 bytes  offset of the record in the pack, big-endian
//	 4 bytes  size of the chunk
//	 4 bytes  CRC-32C of the 40 bytes before
//
// Both files only grow at their end, the pack before the index. What follows
// the last whole record after a crash is ignored and overwritten; what the index
// lacks is read from the pack.
//
// # Promises
//
// Any number of processes may use a store at once: each appends to a pack of
// its own, which it holds by flock(2), and reads them all. Nothing is ever
// synced to disk: Get compares each chunk with its ID, so that what a crash or
// a bad disk left behind is a chunk that is missing. Who reads a file that Locate
// names has to find that out otherwise. Whole packs are removed, those first that
// were not read for the longest time.
package pack

import (
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/drv-thru/drv-thru/core/chunk"
)

const (
	// gather is how much Put collects before it writes.
	gather = 256 << 10
	// packShare is the part of the store that one pack makes up at most; in a large
	// one it is less.
	packShare = 32
	// morePacks is how many there may be beyond those that a full store has: some
	// are small.
	morePacks = 8
	// minBytes is the smallest store that is worth keeping.
	minBytes = 16 << 20
	// stale is how old the knowledge about other processes' packs may be.
	stale = 10 * time.Second
	// usedEvery is how precisely a pack's last use is recorded.
	usedEvery = time.Hour
	// pause is how long nothing is stored after an error.
	pause = time.Minute
)

// ErrNoSpace is Put's error when storing more would leave the file system with
// less than its reserve.
var ErrNoSpace = errors.New("not enough free space for the chunk store")

// Config says how a Store behaves.
type Config struct {
	// MaxBytes bounds the files together; processes that write at the same time
	// may exceed it by 16 MiB each. Below 16 MiB nothing is stored.
	MaxBytes int64
	// Now tells the time, which the order of removal follows.
	Now func() time.Time
	// Rand names new packs.
	Rand io.Reader
	// Free tells how many bytes the file system of a directory has left and
	// has in all. FileSystemSpace does.
	Free func(dir string) (free, total uint64, err error)
}

// Store is a directory of packs.
type Store struct {
	dir string
	cfg Config
	// writeAt is (*os.File).WriteAt, except in tests.
	writeAt func(f *os.File, p []byte, off int64) (int, error)
	// lock is lock, except in tests: that of a new pack.
	lock func(path string) (*os.File, error)

	refreshed  atomic.Int64 // when, by cfg.Now in nanoseconds
	refreshing sync.Mutex
	scratch    []entry // used while refreshing

	// mu guards what lookups need; it is never held while anything waits for
	// the disk.
	mu    sync.RWMutex
	index table
	packs []*pack // by slot; nil when gone
	own   *pack   // the one that Put appends to
	buf   []byte  // what follows own.end

	// writing guards the rest, and changes of own and buf.
	writing sync.Mutex
	entries []byte    // of buf
	indexed int64     // length of own's index
	room    int64     // bytes that may be written before makeRoom
	stopped bool      // nothing more is stored
	failed  time.Time // when storing failed last
}

// Open opens the store in dir, which is made when there is something to store.
// It reads nothing yet.
func Open(dir string, cfg Config) (*Store, error) {
	if dir == "" || cfg.Now == nil || cfg.Rand == nil || cfg.Free == nil {
		return nil, errors.New("open chunk store: incomplete configuration")
	}
	return &Store{
		dir: dir, cfg: cfg,
		writeAt: (*os.File).WriteAt,
		lock:    lock,
		stopped: cfg.MaxBytes < minBytes,
	}, nil
}

// Has tells whether the store has a chunk, as far as is known without reading
// it.
func (s *Store) Has(id chunk.ID) bool {
	s.refresh()
	s.mu.RLock()
	defer s.mu.RUnlock()
	_, ok := s.index.get(id)
	return ok
}

// Get appends a chunk's masked bytes to dst if the store has it. They have been
// compared with the ID; a chunk that is damaged is missing from then on.
func (s *Store) Get(id chunk.ID, dst []byte) ([]byte, bool) {
	s.refresh()
	s.mu.RLock()
	at, ok := s.index.get(id)
	if !ok {
		s.mu.RUnlock()
		return dst, false
	}
	p, n := s.packs[at.pack], len(dst)
	if s.gathered(at) {
		dst = append(dst, s.buf[int64(at.off)-p.end:][:at.size]...)
		s.mu.RUnlock()
		return dst, true
	}
	s.mu.RUnlock()
	dst = slices.Grow(dst, int(at.size))[:n+int(at.size)]
	if _, err := p.file.ReadAt(dst[n:], int64(at.off)); err != nil || chunk.Sum(dst[n:]) != id {
		s.forget(id, at, p)
		return dst[:n], false
	}
	s.use(p)
	return dst, true
}

// Locate tells which file has a chunk's masked bytes, if they are size and have been
// written, and where. The chunk may be damaged, and the file closed at any time, as when
// its pack is removed.
func (s *Store) Locate(id chunk.ID, size int) (file *os.File, off int64) {
	s.refresh()
	p, at := s.locate(id)
	if p == nil || int(at.size) != size {
		return nil, 0
	}
	s.use(p)
	return p.file, int64(at.off)
}

// locate finds a chunk that has been written to a pack.
func (s *Store) locate(id chunk.ID) (*pack, place) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	at, ok := s.index.get(id)
	if !ok {
		return nil, at
	}
	if s.gathered(at) {
		return nil, at
	}
	return s.packs[at.pack], at
}

// gathered reports whether a chunk is only in buf so far; mu is held.
func (s *Store) gathered(at place) bool {
	p := s.packs[at.pack]
	return p == s.own && int64(at.off) >= p.end
}

// use records that a pack was of use.
func (s *Store) use(p *pack) {
	now := s.cfg.Now()
	last := p.used.Load()
	if time.Duration(now.UnixNano()-last).Abs() < usedEvery || !p.used.CompareAndSwap(last, now.UnixNano()) {
		return
	}
	// If it fails, the pack is removed earlier than it would be.
	_ = os.Chtimes(p.path, now, now)
}

// forget drops a damaged chunk from memory and strikes it out on disk.
func (s *Store) forget(id chunk.ID, at place, p *pack) {
	s.mu.Lock()
	s.index.forget(id, at)
	s.mu.Unlock()
	p.strike(id, at)
}

// Put stores a chunk that the store does not have. It keeps no reference to
// masked. After an error, of a full disk as a rule, nothing is stored for a minute:
// calls do nothing meanwhile.
func (s *Store) Put(id chunk.ID, masked []byte) error {
	if s.Has(id) {
		return nil
	}
	s.writing.Lock()
	defer s.writing.Unlock()
	if s.stopped || s.pausing() || len(masked) == 0 || len(masked) > chunk.MaxSize {
		return nil
	}
	if err := s.put(id, masked); err != nil {
		s.fail()
		return fmt.Errorf("store chunk: %w", err)
	}
	return nil
}

// pausing reports whether storing has failed a moment ago. Writing is held.
func (s *Store) pausing() bool {
	return !s.failed.IsZero() && s.cfg.Now().Sub(s.failed).Abs() < pause
}

func (s *Store) put(id chunk.ID, masked []byte) error {
	if s.own == nil {
		if err := s.begin(); err != nil {
			return err
		}
	}
	s.mu.Lock()
	if _, ok := s.index.get(id); ok {
		s.mu.Unlock()
		return nil
	}
	off := s.own.end + int64(len(s.buf))
	e := entry{id: id, off: uint32(off), size: uint32(len(masked))}
	n := len(s.entries)
	s.entries = e.append(s.entries)
	s.buf = append(append(s.buf, s.entries[n:]...), masked...)
	s.index.set(id, s.own.place(e))
	s.own.entries++
	s.mu.Unlock()
	if len(s.buf) < gather {
		return nil
	}
	if err := s.flush(); err != nil {
		return err
	}
	if s.own.end >= s.packSize() || int64(s.own.entries) >= s.packSize()/chunk.MinSize {
		s.release()
	}
	return nil
}

// packSize is where a pack is full.
func (s *Store) packSize() int64 {
	return min(1<<30, max(1<<20, s.cfg.MaxBytes/packShare))
}

// maxPacks bounds the packs, and with them the entries in memory.
func (s *Store) maxPacks() int {
	full := max(packShare, s.cfg.MaxBytes/s.packSize())
	return int(min(full, maxSlots-morePacks)) + morePacks
}

// flush writes what Put has collected.
func (s *Store) flush() error {
	if s.own == nil || len(s.buf) == 0 {
		return nil
	}
	need := int64(len(s.buf) + len(s.entries))
	if s.room < need {
		if err := s.makeRoom(); err != nil {
			return err
		}
	}
	s.room -= need
	if _, err := s.writeAt(s.own.locked, s.buf, s.own.end); err != nil {
		return err
	}
	s.mu.Lock()
	s.own.end += int64(len(s.buf))
	s.buf = s.buf[:0]
	s.mu.Unlock()
	if _, err := s.writeAt(s.own.index, s.entries, s.indexed); err != nil {
		return err
	}
	s.indexed += int64(len(s.entries))
	s.entries = s.entries[:0]
	return nil
}

// fail pauses storing after an error. What was not written is forgotten.
func (s *Store) fail() {
	s.failed = s.cfg.Now()
	if s.own == nil {
		return
	}
	s.mu.Lock()
	s.index.remove(s.gathered)
	s.buf = s.buf[:0]
	s.mu.Unlock()
	s.entries = s.entries[:0]
	_ = s.own.locked.Truncate(s.own.end) // gives back what a full disk took
	s.release()
}

// release ends appending to the own pack, which stays readable.
func (s *Store) release() {
	s.mu.Lock()
	p := s.own
	s.own = nil
	s.mu.Unlock()
	now := s.cfg.Now()
	_ = os.Chtimes(p.path, now, now)
	_ = p.index.Close()
	_ = p.locked.Close() // and unlocks
	p.index, p.locked = nil, nil
}

// Close writes what is not yet written and closes the files. Nothing else may
// be called at the same time or later.
func (s *Store) Close() error {
	s.writing.Lock()
	defer s.writing.Unlock()
	err := s.flush()
	if err != nil {
		s.fail()
		err = fmt.Errorf("close chunk store: %w", err)
	}
	if s.own != nil {
		s.release()
	}
	s.stopped = true
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, p := range s.packs {
		if p != nil {
			_ = p.file.Close()
		}
	}
	s.index = table{}
	s.packs = nil
	return err
}
