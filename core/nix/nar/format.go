package nar

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

const (
	// MaxNameLen is the longest name of a directory entry in bytes (NAME_MAX, and Nix's limit).
	MaxNameLen = 255
	// MaxTargetLen is the longest target of a symlink in bytes (PATH_MAX less
	// its NUL; libutil/archive.cc narMaxTarget).
	MaxTargetLen = 4095
	// MaxDepth is the deepest nesting of directories in a tree on the disk: old
	// versions of Nix have no limit.
	MaxDepth = 1024
	// MaxLevels is how many levels of nodes a Checker accepts, the root's included:
	// no more are unpacked by Nix 2.34 (libutil/archive.cc).
	MaxLevels = 64
	// MaxPathLen is the longest path below the root that a Checker accepts, with a
	// slash before each name: what PATH_MAX leaves below the longest store path.
	MaxPathLen = 4095 - 255
)

// The words of the format. Every string in a NAR is its length as a
// little-endian uint64, its bytes, and zeros up to a multiple of eight.
const (
	magic       = "nix-archive-1"
	wordOpen    = "("
	wordClose   = ")"
	wordType    = "type"
	wordRegular = "regular"
	wordDir     = "directory"
	wordLink    = "symlink"
	wordExec    = "executable"
	wordBytes   = "contents"
	wordTarget  = "target"
	wordEntry   = "entry"
	wordName    = "name"
	wordNode    = "node"

	align      = 8
	maxWordLen = len(magic)
)

var (
	// ErrSyntax is wrapped by every complaint about the bytes of an archive.
	ErrSyntax = errors.New("malformed NAR")
	// ErrUnsupported says that a tree holds what no archive can: a device, a
	// socket, a pipe, or nesting beyond MaxDepth.
	ErrUnsupported = errors.New("not representable as a NAR")
	// ErrTooLarge says that a tree has too many entries for a Layout.
	ErrTooLarge = errors.New("too many files for a NAR layout")
	// ErrChanged says that a file is not what it was when the tree was scanned.
	// Store paths never change, so the path was deleted or its disk fails.
	ErrChanged = errors.New("store path changed while being read")
)

var zeros [align]byte

// padding returns how many zeros follow n bytes.
func padding(n uint64) int { return int(-n & (align - 1)) }

func appendString[S string | []byte](b []byte, s S) []byte {
	b = binary.LittleEndian.AppendUint64(b, uint64(len(s)))
	b = append(b, s...)
	return append(b, zeros[:padding(uint64(len(s)))]...)
}

func appendStrings(b []byte, words ...string) []byte {
	for _, w := range words {
		b = appendString(b, w)
	}
	return b
}

// appendFileHead writes a regular file's node up to its contents.
func appendFileHead(b []byte, size uint64, executable bool) []byte {
	b = appendStrings(b, wordOpen, wordType, wordRegular)
	if executable {
		b = appendStrings(b, wordExec, "")
	}
	b = appendString(b, wordBytes)
	return binary.LittleEndian.AppendUint64(b, size)
}

// checkName tells whether name may stand in a directory.
func checkName[S string | []byte](name S) error {
	switch {
	case len(name) == 0:
		return fmt.Errorf("%w: empty name", ErrSyntax)
	case len(name) > MaxNameLen:
		return fmt.Errorf("%w: name longer than %d bytes", ErrSyntax, MaxNameLen)
	case string(name) == "." || string(name) == "..":
		return fmt.Errorf("%w: entry named %q", ErrSyntax, name)
	}
	for i := range len(name) {
		if name[i] == '/' || name[i] == 0 {
			return fmt.Errorf("%w: name %q has a slash or a NUL", ErrSyntax, name)
		}
	}
	return nil
}

// WriteFile writes the archive of one regular file, in one piece when it is small.
func WriteFile(w io.Writer, contents []byte, executable bool) error {
	const small = 64 << 10
	head := appendFileHead(appendString(make([]byte, 0, 192), magic), uint64(len(contents)), executable)
	tail := appendString(append([]byte(nil), zeros[:padding(uint64(len(contents)))]...), wordClose)
	if len(contents) <= small {
		whole := make([]byte, 0, len(head)+len(contents)+len(tail))
		_, err := w.Write(append(append(append(whole, head...), contents...), tail...))
		return err
	}
	for _, part := range [][]byte{head, contents, tail} {
		if _, err := w.Write(part); err != nil {
			return err
		}
	}
	return nil
}

// FileSize returns the length of the archive of a regular file of n bytes.
func FileSize(n int64, executable bool) int64 {
	size := len(appendFileHead(appendString(nil, magic), 0, executable)) + len(appendString(nil, wordClose))
	return int64(size) + n + int64(padding(uint64(n)))
}

// HashFile returns the SHA-256 and the length of the archive that WriteFile writes.
func HashFile(contents []byte, executable bool) (sum [sha256.Size]byte, size int64) {
	h := sha256.New()
	_ = WriteFile(h, contents, executable) // a hash never fails
	h.Sum(sum[:0])
	return sum, FileSize(int64(len(contents)), executable)
}
