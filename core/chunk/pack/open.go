package pack

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/drv-thru/drv-thru/core/chunk"
)

// errInUse tells that another process appends to a pack, or removed it.
var errInUse = errors.New("pack in use")

// found is a pack file as it was seen in the directory.
type found struct {
	path string
	info os.FileInfo
}

// list returns the packs, those first that were used last.
func (s *Store) list() ([]found, error) {
	entries, err := os.ReadDir(s.dir)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var packs []found
	for _, e := range entries {
		if !strings.HasSuffix(e.Name(), packSuffix) {
			continue
		}
		// One that is gone by now is none.
		if info, err := e.Info(); err == nil && info.Mode().IsRegular() {
			packs = append(packs, found{filepath.Join(s.dir, e.Name()), info})
		}
	}
	// What a clock that was wrong has put into the future would be the last to go for good.
	now := s.cfg.Now().Add(usedEvery)
	used := func(f found) time.Time {
		if at := f.info.ModTime(); !at.After(now) {
			return at
		}
		return time.Time{}
	}
	slices.SortStableFunc(packs, func(a, b found) int { return used(b).Compare(used(a)) })
	return packs, nil
}

// refresh reads what other processes have stored or removed, at most once in a
// while.
func (s *Store) refresh() {
	now, last := max(1, s.cfg.Now().UnixNano()), s.refreshed.Load()
	if last != 0 && time.Duration(now-last).Abs() < stale {
		return
	}
	if last == 0 {
		s.refreshing.Lock()
	} else if !s.refreshing.TryLock() {
		return
	}
	defer s.refreshing.Unlock()
	if s.refreshed.Load() == last {
		s.scan()
		s.refreshed.Store(now)
	}
}

// scan brings packs and index up to date; refreshing is held. Whatever cannot
// be read is not there.
func (s *Store) scan() {
	listed, err := s.list()
	if err != nil {
		return
	}
	known := map[string]*pack{}
	s.mu.RLock()
	for _, p := range s.packs {
		if p != nil {
			known[p.path] = p
		}
	}
	own := s.own
	s.mu.RUnlock()
	if len(known) == 0 {
		s.expect(listed)
	}
	defer func() { s.scratch = nil }()
	// From the oldest on, so that of two copies the newer counts.
	for _, f := range slices.Backward(listed) {
		p := known[f.path]
		delete(known, f.path)
		switch {
		case p == nil:
			s.add(f)
		case p != own:
			s.extend(p, f.info.Size())
		}
	}
	for _, p := range known {
		if p != own {
			s.drop(p)
		}
	}
}

// expect makes room for what these packs hold, about.
func (s *Store) expect(listed []found) {
	n := int64(0)
	for _, f := range listed {
		if info, err := os.Stat(indexOf(f.path)); err == nil {
			n += min(info.Size(), f.info.Size()) / entrySize
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.index.reserve(int(min(n, 1<<20)))
}

// add opens a pack that is new to this process.
func (s *Store) add(f found) {
	file, err := OpenFile(f.path, os.O_RDONLY)
	if err != nil {
		return
	}
	p := &pack{path: f.path, file: file}
	p.used.Store(f.info.ModTime().UnixNano())
	index := readIndex(indexOf(p.path), f.info.Size())
	entries := s.scratch[:0]
	end, indexed := load(file, index, f.info.Size(), 0, func(e entry) { entries = append(entries, e) })
	s.scratch = entries
	if len(entries)-indexed > 32 {
		// The index is damaged or lost. Unless somebody is at work there, it
		// is written anew, for later sessions.
		if locked, err := lock(f.path); err == nil {
			_ = writeIndex(indexOf(p.path), encode(entries))
			_ = locked.Close()
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.seat(p) {
		_ = file.Close()
		return
	}
	p.end = end
	s.learn(p, entries)
}

// extend reads what has been appended to a pack.
func (s *Store) extend(p *pack, size int64) {
	s.mu.RLock()
	from := p.end
	s.mu.RUnlock()
	if size <= from {
		return
	}
	var entries []entry
	end, _ := load(p.file, nil, size, from, func(e entry) { entries = append(entries, e) })
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.packs[p.slot] == p {
		p.end = end
		s.learn(p, entries)
	}
}

// learn adds entries to the index; mu is held.
func (s *Store) learn(p *pack, entries []entry) {
	s.index.reserve(len(entries))
	for _, e := range entries {
		if !e.struck() {
			s.index.set(e.id, p.place(e))
		}
	}
	p.entries += len(entries)
}

// seat gives a pack its slot, if one is free; mu is held.
func (s *Store) seat(p *pack) bool {
	slot := slices.Index(s.packs, nil)
	if slot < 0 {
		if len(s.packs) == maxSlots {
			return false
		}
		slot = len(s.packs)
		s.packs = append(s.packs, nil)
	}
	p.slot, s.packs[slot] = uint32(slot), p
	return true
}

// drop forgets a pack that was removed.
func (s *Store) drop(p *pack) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.packs[p.slot] != p {
		return
	}
	s.index.remove(func(at place) bool { return at.pack == p.slot })
	s.packs[p.slot] = nil
	_ = p.file.Close()
}

// OpenFile opens a file, and nothing else that lies in its place: a named pipe would wait
// for its other end. flag is that of [os.OpenFile].
func OpenFile(path string, flag int) (*os.File, error) {
	info, err := os.Lstat(path)
	if err == nil && !info.Mode().IsRegular() {
		err = fmt.Errorf("%s is no file", path)
	}
	if err != nil {
		return nil, err
	}
	return os.OpenFile(path, flag, 0)
}

// lock opens a pack for appending and holds it until the file is closed.
func lock(path string) (*os.File, error) {
	file, err := OpenFile(path, os.O_RDWR)
	if err != nil {
		return nil, err
	}
	err = flock(file)
	// The pack may have been removed between opening and locking it.
	if err == nil && !same(file, path) {
		err = errInUse
	}
	if err != nil {
		_ = file.Close()
		return nil, err
	}
	return file, nil
}

func same(file *os.File, path string) bool {
	a, err := file.Stat()
	if err != nil {
		return false
	}
	b, err := os.Stat(path)
	return err == nil && os.SameFile(a, b)
}

// readIndex reads the index of a pack of the given size.
func readIndex(path string, size int64) []byte {
	file, err := OpenFile(path, os.O_RDONLY)
	if err != nil {
		return nil
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return nil
	}
	// A sound index is smaller than its pack.
	index := make([]byte, min(info.Size(), size))
	n, _ := io.ReadFull(file, index)
	return index[:n]
}

func encode(entries []entry) []byte {
	p := make([]byte, 0, len(entries)*entrySize)
	for _, e := range entries {
		p = e.append(p)
	}
	return p
}

// writeIndex replaces an index; its pack is locked.
func writeIndex(path string, index []byte) error {
	name := path + ".new"
	_ = os.Remove(name) // of a process that has died
	file, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = file.Write(index)
	if err = errors.Join(err, file.Close()); err != nil {
		return err
	}
	return os.Rename(name, path)
}

// begin chooses the pack that Put appends to: one that nobody else appends to
// and that is not full, or a new one. Writing is held.
func (s *Store) begin() error {
	if err := os.MkdirAll(s.dir, 0o700); err != nil {
		return err
	}
	if err := s.makeRoom(); err != nil {
		return err
	}
	// Nobody else changes what is known of packs meanwhile.
	s.refreshing.Lock()
	defer s.refreshing.Unlock()
	s.scan()
	listed, err := s.list()
	if err != nil {
		return err
	}
	for _, f := range listed {
		if p := s.known(f.path); p != nil && p.end < s.packSize() && int64(p.entries) < s.packSize()/chunk.MinSize {
			// One that cannot be appended to must not keep the others from it.
			if s.adopt(p) == nil {
				return nil
			}
		}
	}
	return s.create()
}

// known is the pack at path, if this process has it open.
func (s *Store) known(path string) *pack {
	s.mu.RLock()
	defer s.mu.RUnlock()
	for _, p := range s.packs {
		if p != nil && p.path == path {
			return p
		}
	}
	return nil
}

// adopt takes a pack over, cuts off what a crash left at its end, and brings
// its index up to date.
func (s *Store) adopt(p *pack) error {
	locked, err := lock(p.path)
	if err != nil {
		return err
	}
	info, err := locked.Stat()
	if err != nil {
		_ = locked.Close()
		return err
	}
	index := readIndex(indexOf(p.path), info.Size())
	var entries []entry
	end, _ := load(locked, index, info.Size(), 0, func(e entry) { entries = append(entries, e) })
	whole := encode(entries)
	if !bytes.Equal(whole, index) {
		err = writeIndex(indexOf(p.path), whole)
	}
	if err == nil && end < info.Size() {
		err = locked.Truncate(end)
	}
	if err == nil {
		p.index, err = OpenFile(indexOf(p.path), os.O_RDWR)
	}
	if err != nil {
		_ = locked.Close()
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if end < p.end {
		// Who wrote it has cut it off: there is something else from now on.
		s.index.remove(func(at place) bool { return at.pack == p.slot && int64(at.off) >= end })
	}
	p.end, p.entries = end, 0
	s.learn(p, entries)
	p.locked, s.own, s.indexed = locked, p, int64(len(whole))
	return nil
}

// maxTaken is how many new packs in a row others may take before they are locked.
const maxTaken = 3

// create begins a new pack.
func (s *Store) create() error {
	p, err := s.newPack()
	// Who makes room, or looks for a pack to append to, may have been faster.
	for taken := 1; isTaken(err) && taken < maxTaken; taken++ {
		p, err = s.newPack()
	}
	if err != nil {
		return err
	}
	if p.index, err = os.OpenFile(indexOf(p.path), os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600); err != nil {
		_ = p.file.Close()
		_ = p.locked.Close()
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.seat(p) {
		_ = p.index.Close()
		_ = p.locked.Close()
		_ = p.file.Close()
		return errors.New("too many packs")
	}
	s.own, s.indexed = p, 0
	return nil
}

// newPack makes an empty pack, locked, without an index.
func (s *Store) newPack() (*pack, error) {
	var name [8]byte
	if _, err := io.ReadFull(s.cfg.Rand, name[:]); err != nil {
		return nil, fmt.Errorf("name a pack: %w", err)
	}
	path := filepath.Join(s.dir, hex.EncodeToString(name[:])+packSuffix)
	file, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return nil, err
	}
	p := &pack{path: path, file: file}
	p.used.Store(s.cfg.Now().UnixNano())
	if p.locked, err = s.lock(path); err != nil {
		_ = file.Close()
		if !isTaken(err) {
			_ = os.Remove(path)
		}
		return nil, err
	}
	return p, nil
}

// isTaken tells that another process has locked a pack, or removed it.
func isTaken(err error) bool {
	return errors.Is(err, errInUse) || errors.Is(err, os.ErrNotExist)
}
