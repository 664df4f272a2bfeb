package fusecache

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"sync"
	"time"
)

// spool takes a NAR's bytes as they are read, in order from the beginning, and
// writes them beside whoever reads.
type spool struct {
	disk *Disk
	hash string
	size int64

	mu     sync.Mutex
	begun  bool
	at     int64        // what was taken, without a gap
	pieces chan spooled // nil: takes nothing
}

// spooled is a piece of a NAR in memory that is given back after it was written.
type spooled struct {
	bufs    [][]byte
	off     int64
	release func()
}

func (p *spooled) end() int64 {
	end := p.off
	for _, b := range p.bufs {
		end += int64(len(b))
	}
	return end
}

// spoolBehind is how many pieces a reader may be ahead of the disk: 2 MiB of
// Nix's reads, 16 MiB of the largest there are.
const spoolBehind = 32

// spoolTime is how long a reader that is further ahead waits for the disk, less than a
// read may take. Then the NAR is not kept: to keep it is worth no failed read.
const spoolTime = 5 * time.Second

// newSpool returns a spool that begins to keep a NAR when its beginning is read:
// Nix opens a NAR once more than it reads it.
func (d *Disk) newSpool(hash string, size int64) *spool {
	return &spool{disk: d, hash: hash, size: size}
}

// errStandsStill tells that the disk does not write what it should.
var errStandsStill = errors.New("the disk does not keep up")

// begin makes the file; not when the NAR is kept already, is being kept, or would
// make what is coming too large. s.mu is held.
func (s *spool) begin() {
	s.begun = true
	d := s.disk
	d.mu.Lock()
	if d.closed || d.spools[s.hash] != nil || d.entries[diskNars+"/"+s.hash+".nar"] != nil || d.coming+s.size > d.most/2 {
		d.mu.Unlock()
		return
	}
	if err := d.room(s.size); err != nil {
		d.mu.Unlock()
		d.failed(err)
		return
	}
	d.spools[s.hash] = s
	d.coming += s.size
	d.shrink()
	d.wg.Add(1)
	d.mu.Unlock()
	f, err := d.createTemp(s.hash + "-*")
	if err != nil {
		d.mu.Lock()
		delete(d.spools, s.hash)
		d.coming -= s.size
		d.mu.Unlock()
		d.failed(err)
		d.wg.Done()
		return
	}
	s.pieces = make(chan spooled, spoolBehind)
	go s.run(f, s.pieces)
}

// write takes what was read at off; release is called once it is needed no more.
// What does not continue what was taken before is of no use.
func (s *spool) write(bufs [][]byte, off int64, release func()) {
	p := spooled{bufs, off, release}
	end := p.end()
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.begun && off == 0 {
		s.begin()
	}
	if s.pieces == nil || off > s.at || end <= s.at {
		release()
		return
	}
	s.at = end
	select {
	case s.pieces <- p:
	default:
		late := time.NewTimer(spoolTime)
		defer late.Stop()
		select {
		case s.pieces <- p:
		case <-late.C:
			release()
			s.giveUp()
			s.disk.failed(errStandsStill)
			return
		}
	}
	if s.at == s.size {
		s.end()
	}
}

// close gives up what is not complete, so that whoever reads next begins anew.
func (s *spool) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.begun = true
	if s.pieces != nil {
		s.giveUp()
	}
}

// giveUp ends it before it is whole; s.mu is held.
func (s *spool) giveUp() {
	s.end()
	s.disk.mu.Lock()
	delete(s.disk.spools, s.hash)
	s.disk.mu.Unlock()
}

// end has it take nothing more; s.mu is held.
func (s *spool) end() {
	close(s.pieces)
	s.pieces = nil
}

// run writes what is taken until that ends; then it shows the NAR, if it is whole
// and what it should be.
func (s *spool) run(f *os.File, pieces <-chan spooled) {
	d := s.disk
	defer d.wg.Done()
	defer f.Close()
	var at int64
	var err error
	var bufs [][]byte
	var taken []spooled
	for p := range pieces {
		// What has gathered meanwhile is written in one go.
		taken = append(taken[:0], p)
		for range min(len(pieces), spoolBehind) {
			taken = append(taken, <-pieces)
		}
		for rest := taken; len(rest) > 0; {
			off, n := rest[0].off, 0
			bufs, at = bufs[:0], off
			for n < len(rest) && rest[n].off == at {
				bufs, at = append(bufs, rest[n].bufs...), rest[n].end()
				n++
			}
			if err == nil {
				if err = writeAll(f, bufs, off); err != nil {
					// Whoever reads may take hours, and a full disk is not for them alone.
					_ = os.Truncate(f.Name(), 0)
				}
			}
			for _, p := range rest[:n] {
				p.release()
			}
			rest = rest[n:]
		}
	}
	whole := err == nil && at == s.size
	name := diskNars + "/" + s.hash + ".nar"
	if whole {
		err = checkNar(context.Background(), f, s.hash, s.size)
		if err == nil {
			err = f.Sync()
		}
		if err == nil {
			err = os.Rename(f.Name(), filepath.Join(d.dir, name))
		}
		whole = err == nil
	}
	if !whole {
		_ = os.Remove(f.Name()) // or the next start does
	}
	d.mu.Lock()
	d.coming -= s.size
	if d.spools[s.hash] == s {
		delete(d.spools, s.hash)
	}
	if whole {
		d.enter(name, s.size)
		d.entries[name].checked = true
		d.shrink()
	}
	d.mu.Unlock()
	if err != nil {
		d.failed(err)
	}
}
