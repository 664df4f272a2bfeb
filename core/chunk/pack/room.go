package pack

import (
	"os"
	"slices"
)

// Reserve is what a file system is left with at least: 256 MiB, and a
// hundredth of it.
func Reserve(total uint64) uint64 { return max(256<<20, total/100) }

// step is how much may be written before makeRoom looks again: more than Put
// gathers.
func (s *Store) step() int64 { return min(16<<20, max(1<<20, s.packSize()/4)) }

// makeRoom removes the packs that were not used for the longest time until the
// next step fits into the store and onto the disk. Writing is held.
func (s *Store) makeRoom() error {
	listed, err := s.list()
	if err != nil {
		return err
	}
	total := int64(0)
	for _, f := range listed {
		total += onDisk(f)
	}
	fits := func() bool {
		if total+s.step() > s.cfg.MaxBytes || len(listed) >= s.maxPacks() {
			return false
		}
		// A file system that does not tell is full when writing fails.
		free, all, err := s.cfg.Free(s.dir)
		return err != nil || free >= Reserve(all)+uint64(s.step())
	}
	for !fits() {
		removed := false
		for i := len(listed) - 1; i >= 0 && !removed; i-- {
			f := listed[i]
			if remove(f.path) != nil {
				continue
			}
			if p := s.known(f.path); p != nil {
				s.drop(p)
			}
			total -= onDisk(f)
			listed = slices.Delete(listed, i, i+1)
			removed = true
		}
		if !removed {
			return ErrNoSpace
		}
	}
	s.room = s.step()
	return nil
}

// onDisk is the size of a pack and its index.
func onDisk(f found) int64 {
	size := f.info.Size()
	if info, err := os.Stat(indexOf(f.path)); err == nil {
		size += info.Size()
	}
	return size
}

// remove deletes a pack to which nobody appends. It is truncated too, because
// other processes may have it open for long, and their chunks would keep the
// space; they find them missing.
func remove(path string) error {
	locked, err := lock(path)
	if err != nil {
		return err
	}
	defer locked.Close()
	index := indexOf(path)
	_ = os.Remove(index + ".new")
	_ = os.Remove(index)
	if err := os.Remove(path); err != nil {
		return err
	}
	_ = locked.Truncate(0)
	return nil
}
