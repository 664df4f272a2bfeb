package pack

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"
)

// The store that is damaged has the chunks from first to last.
const (
	first   = 1000
	damaged = 7
	last    = first + damaged
)

// After any damage each chunk is right or missing; storing what is missing
// makes all complete, in the next session too.
func afterDamage(t *testing.T, what, dir string, least int) {
	t.Helper()
	c := newClock()
	s := open(t, dir, config(c))
	if have := present(t, s, first, last); len(have) < least {
		t.Errorf("%s: only %v are left", what, have)
	}
	put(t, s, first, last)
	if have := present(t, s, first, last); len(have) != damaged {
		t.Errorf("%s: stored again, there are %v", what, have)
	}
	s.Close()
	s = open(t, dir, config(c))
	if have := present(t, s, first, last); len(have) != damaged {
		t.Errorf("%s: in the next session there are %v", what, have)
	}
	s.Close()
}

func TestDamage(t *testing.T) {
	clean := t.TempDir()
	s := open(t, clean, config(newClock()))
	put(t, s, first, last)
	s.Close()
	pack, index := filepath.Base(files(t, clean, packSuffix)[0]), filepath.Base(files(t, clean, indexSuffix)[0])
	original := mustRead(t, filepath.Join(clean, pack))
	var records []entry
	load(bytes.NewReader(original), nil, int64(len(original)), 0, func(e entry) { records = append(records, e) })
	if len(records) != damaged {
		t.Fatalf("%d records", len(records))
	}
	// Where things are in a record and in an entry.
	places := func(e entry, inPack bool) []int {
		at := []int{0, 31, 35, 36, 43}
		if inPack {
			at = append(at, entrySize, entrySize+int(e.size)/2, entrySize+int(e.size)-1)
		}
		return at
	}
	for _, file := range []string{pack, index} {
		for _, i := range []int{0, damaged / 2, damaged - 1} {
			start := i * entrySize
			if file == pack {
				start = int(records[i].off)
			}
			for _, at := range places(records[i], file == pack) {
				for name, harm := range map[string]func(p []byte) []byte{
					"flipped":   func(p []byte) []byte { p[start+at] ^= 1; return p },
					"cut short": func(p []byte) []byte { return p[:start+at] },
					"zeros":     func(p []byte) []byte { clear(p[start+at:]); return p },
					"inserted":  func(p []byte) []byte { return append(p[:start+at:start+at], append([]byte{9}, p[start+at:]...)...) },
				} {
					for _, withIndex := range []bool{true, false} {
						if !withIndex && file == index {
							continue
						}
						dir := copyDir(t, clean)
						path := filepath.Join(dir, file)
						mustWrite(t, path, harm(mustRead(t, path)))
						if !withIndex {
							os.Remove(filepath.Join(dir, index))
						}
						least := i
						if file == index {
							least = damaged
						} else if name == "flipped" && withIndex {
							least = damaged - 1
						}
						afterDamage(t, sprint(file, " ", name, " at ", at, " of record ", i, ", index ", withIndex), dir, least)
					}
				}
			}
		}
	}
	for name, harm := range map[string]func(dir string){
		"no index":        func(dir string) { os.Remove(filepath.Join(dir, index)) },
		"no pack":         func(dir string) { os.Remove(filepath.Join(dir, pack)) },
		"empty pack":      func(dir string) { mustWrite(t, filepath.Join(dir, pack), nil) },
		"noise":           func(dir string) { mustWrite(t, filepath.Join(dir, pack), data(99)) },
		"noise for index": func(dir string) { mustWrite(t, filepath.Join(dir, index), data(99)) },
		"other files":     func(dir string) { mustWrite(t, filepath.Join(dir, "x.pack.tmp"), data(99)) },
		"a directory":     func(dir string) { os.Mkdir(filepath.Join(dir, "x.pack"), 0o700) },
		"a second pack":   func(dir string) { mustWrite(t, filepath.Join(dir, "x.pack"), original) },
		"half a new index": func(dir string) {
			mustWrite(t, filepath.Join(dir, index+".new"), data(99))
			os.Remove(filepath.Join(dir, index))
		},
		"an index that is a directory": func(dir string) {
			os.Remove(filepath.Join(dir, index))
			os.Mkdir(filepath.Join(dir, index), 0o700)
			// Nothing can be appended there; the pack is still read.
			s := open(t, dir, config(newClock()))
			all(t, s, first, last)
			put(t, s, 2000, 2020)
			s.Close()
			all(t, open(t, dir, config(newClock())), 2000, 2020)
		},
	} {
		dir := copyDir(t, clean)
		harm(dir)
		afterDamage(t, name, dir, 0)
	}
}

// A chunk that was found damaged is struck out, so that the copy stored
// thereafter counts, whatever the order in which packs are read.
func TestStrike(t *testing.T) {
	dir, c := t.TempDir(), newClock()
	s := open(t, dir, config(c))
	put(t, s, first, last)
	s.Close()
	path := files(t, dir, packSuffix)[0]
	p := mustRead(t, path)
	at := bytes.Index(p, data(first+2))
	p[at+1] ^= 4
	mustWrite(t, path, p)

	s = open(t, dir, config(c))
	if have := present(t, s, first, last); len(have) != damaged-1 {
		t.Fatal(have)
	}
	s.Close()
	for _, index := range []bool{true, false} {
		if !index {
			os.Remove(files(t, dir, indexSuffix)[0])
		}
		s = open(t, dir, config(c))
		if s.Has(id(first+2)) || len(present(t, s, first, last)) != damaged-1 {
			t.Fatal("the damaged chunk is back")
		}
		s.Close()
	}
	s = open(t, dir, config(c))
	put(t, s, first+2, first+3)
	s.Close()
	all(t, open(t, dir, config(c)), first, last)
}

// A lost index is written anew when that is worth it.
func TestIndexLost(t *testing.T) {
	dir, c := t.TempDir(), newClock()
	s := open(t, dir, config(c))
	put(t, s, 1000, 1100)
	s.Close()
	path := files(t, dir, indexSuffix)[0]
	want := mustRead(t, path)
	for name, p := range map[string][]byte{"none": nil, "a part": want[:50*entrySize], "noise": data(1)} {
		mustWrite(t, path, p)
		s = open(t, dir, config(c))
		all(t, s, 1000, 1100)
		s.Close()
		if !bytes.Equal(mustRead(t, path), want) {
			t.Errorf("%s: the index is not repaired", name)
		}
	}
}

func FuzzLoad(f *testing.F) {
	var pack, index []byte
	for i := range 3 {
		e := entry{id: id(i), off: uint32(len(pack)), size: 5}
		pack = append(e.append(pack), "hello"...)
		index = e.append(index)
	}
	f.Add(pack, index, uint16(0))
	f.Add(pack, []byte(nil), uint16(49))
	f.Fuzz(func(t *testing.T, pack, index []byte, from uint16) {
		size := int64(len(pack))
		last := int64(from)
		end, indexed := load(bytes.NewReader(pack), index, size, last, func(e entry) {
			if int64(e.off) < last || e.end() > size || e.size == 0 {
				t.Fatalf("a record from %d to %d of %d, after %d", e.off, e.end(), size, last)
			}
			last = e.end()
		})
		if end > max(size, int64(from)) || indexed*entrySize > len(index) {
			t.Fatal(end, indexed)
		}
	})
}
