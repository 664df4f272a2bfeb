package nix

import (
	"bytes"
	"crypto/sha256"
	"hash"
	"strconv"
)

const (
	// maxSelfReferences bounds the positions that a moduloHash has to remember:
	// 8 MiB of them. Nix has no limit, and real outputs a few thousand at most.
	maxSelfReferences = 1 << 20

	moduloBlock = 64 << 10
)

// moduloHash is Nix's hash of an object that refers to itself
// (libstore/references.cc, HashModuloSink): the SHA-256 of the bytes with each
// occurrence of the path's own hash part replaced by NULs, followed by
// "|<offset>" for each occurrence.
//
// Nix 2.17 to 2.34 forget the offsets (https://github.com/NixOS/nix/issues/15837). What they make is not
// taken: the same objects with NULs in the place of some occurrences have that
// address too.
type moduloHash struct {
	hash.Hash
	needle  []byte
	pending []byte // replaced already, but an occurrence may begin in it
	pos     uint64 // of pending's first byte
	matches []uint64
	full    bool   // more matches than allowed: the sum is worthless
	bare    []byte // after Sum: the hash without the offsets
}

func newModuloHash(needle string) *moduloHash {
	return &moduloHash{
		Hash:    sha256.New(),
		needle:  []byte(needle),
		pending: make([]byte, 0, moduloBlock+HashPartLen),
	}
}

func (m *moduloHash) Write(p []byte) (int, error) {
	for rest := p; len(rest) > 0; {
		n := min(len(rest), moduloBlock)
		m.pending = append(m.pending, rest[:n]...)
		rest = rest[n:]
		for at := 0; ; {
			i := bytes.Index(m.pending[at:], m.needle)
			if i < 0 {
				break
			}
			at += i
			clear(m.pending[at : at+len(m.needle)])
			if len(m.matches) < maxSelfReferences {
				m.matches = append(m.matches, m.pos+uint64(at))
			} else {
				m.full = true
			}
			at += len(m.needle)
		}
		// An occurrence that is still incomplete is at most this long.
		keep := min(len(m.pending), len(m.needle)-1)
		done := len(m.pending) - keep
		m.Hash.Write(m.pending[:done])
		m.pos += uint64(done)
		m.pending = append(m.pending[:0], m.pending[done:]...)
	}
	return len(p), nil
}

// Sum ends the hash: it must be called once, after the last Write.
func (m *moduloHash) Sum(b []byte) []byte {
	m.Hash.Write(m.pending)
	m.pending = m.pending[:0]
	m.bare = m.Hash.Sum(nil)
	for _, pos := range m.matches {
		m.Hash.Write(strconv.AppendUint([]byte{'|'}, pos, 10))
	}
	return m.Hash.Sum(b)
}
