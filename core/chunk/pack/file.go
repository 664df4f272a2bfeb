package pack

import (
	"bytes"
	"encoding/binary"
	"hash/crc32"
	"io"
	"os"
	"strings"
	"sync/atomic"

	"github.com/drv-thru/drv-thru/core/chunk"
)

const (
	packSuffix  = ".pack"
	indexSuffix = ".index"
	entrySize   = 44
	// maxEnd keeps offsets in an entry's 32 bits.
	maxEnd = 1<<32 - 1
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// entry is what a record begins with.
type entry struct {
	id        chunk.ID
	off, size uint32 // of the record; of the chunk
}

func (e entry) append(p []byte) []byte {
	n := len(p)
	p = append(p, e.id[:]...)
	p = binary.BigEndian.AppendUint32(p, e.off)
	p = binary.BigEndian.AppendUint32(p, e.size)
	return binary.BigEndian.AppendUint32(p, crc32.Checksum(p[n:], castagnoli))
}

// parseEntry reads an entry and tells whether it is sound and of the record at
// off.
func parseEntry(p []byte, off int64) (e entry, ok bool) {
	if len(p) < entrySize {
		return e, false
	}
	e.id = chunk.ID(p)
	e.off = binary.BigEndian.Uint32(p[32:])
	e.size = binary.BigEndian.Uint32(p[36:])
	return e, int64(e.off) == off && e.size > 0 && e.size <= chunk.MaxSize &&
		crc32.Checksum(p[:40], castagnoli) == binary.BigEndian.Uint32(p[40:])
}

// end is where the record ends.
func (e entry) end() int64 { return int64(e.off) + entrySize + int64(e.size) }

// pack is one pack file.
type pack struct {
	slot uint32
	path string
	file *os.File     // for reading
	used atomic.Int64 // last recorded use, in nanoseconds

	// The store's mu guards these.
	end     int64 // of the last whole record
	entries int

	// Of the pack that Put appends to; locked holds the lock.
	locked, index *os.File
}

func (p *pack) place(e entry) place {
	return place{pack: p.slot, off: e.off + entrySize, size: e.size}
}

// indexOf is where the index of the pack at path is.
func indexOf(path string) string { return strings.TrimSuffix(path, packSuffix) + indexSuffix }

// load calls found for the entries of a pack file of the given size from the
// record at from on, by its index as far as that goes. It returns where the last
// whole record ends, and how many entries of the index are sound.
func load(file io.ReaderAt, index []byte, size, from int64, found func(entry)) (end int64, indexed int) {
	size = min(size, maxEnd)
	for len(index) >= entrySize {
		e, ok := parseEntry(index, end)
		if !ok || e.end() > size {
			break
		}
		index = index[entrySize:]
		indexed++
		end = e.end()
		if int64(e.off) >= from {
			found(e)
		}
	}
	end = max(end, from)
	var head [entrySize]byte
	for {
		if _, err := file.ReadAt(head[:], end); err != nil {
			return end, indexed
		}
		e, ok := parseEntry(head[:], end)
		if !ok || e.end() > size {
			return end, indexed
		}
		end = e.end()
		found(e)
	}
}

// struck tells that the chunk was found damaged.
func (e entry) struck() bool { return e.id == chunk.ID{} }

// strike overwrites the ID of a damaged chunk, so that the next session does
// not find it again. That it may fail is no matter.
func (p *pack) strike(id chunk.ID, at place) {
	file, err := OpenFile(p.path, os.O_RDWR)
	if err != nil {
		return
	}
	defer file.Close()
	off := int64(at.off) - entrySize
	var head [entrySize]byte
	if _, err := file.ReadAt(head[:], off); err != nil {
		return
	}
	struck := entry{off: uint32(off), size: at.size}.append(nil)
	// Otherwise something else is here now, after another process began to
	// append where it found the end of the pack.
	if e, ok := parseEntry(head[:], off); ok && e.id == id {
		_, _ = file.WriteAt(struck, off)
	}
	index, err := OpenFile(indexOf(p.path), os.O_RDWR)
	if err != nil {
		return
	}
	defer index.Close()
	all, err := io.ReadAll(index)
	if err != nil {
		return
	}
	for i := 0; i+entrySize <= len(all); i += entrySize {
		if bytes.Equal(all[i:i+32], id[:]) && int64(binary.BigEndian.Uint32(all[i+32:])) == off {
			_, _ = index.WriteAt(struck, int64(i))
		}
	}
}
