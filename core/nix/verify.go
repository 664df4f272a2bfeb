package nix

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"hash"

	"github.com/drv-thru/drv-thru/core/nix/nar"
)

// maxDrvNar is the longest NAR of a .drv that is taken.
var maxDrvNar = uint64(nar.FileSize(MaxDrvSize, false))

// CAVerifier is an io.Writer that is fed the NAR of a store path and decides
// whether it is what its path info says: the grammar in its one canonical form,
// the size, the NAR hash and, unless made by NewNarVerifier, that contents, name
// and references make the store path. So that nobody has to be believed.
//
// Memory is constant however large the NAR (up to 8 MiB more when the path refers
// to itself), except for the contents of a .drv. Feed it 64 KiB or more at a time.
type CAVerifier struct {
	info    PathInfo
	ca      CA
	checker nar.Checker
	narHash hash.Hash
	// addressed gets what the content address is the hash of; nil when that is
	// the NAR hash itself, or nothing.
	addressed hash.Hash
	contents  []byte
	n         uint64
	err       error
	closed    bool
}

// NewCAVerifier prepares for the NAR of a content-addressed path. It fails at
// once when the path info is malformed (ErrBadPath, ErrBadCA, …), when it names
// no content address, or when address, name and references do not make its path
// (both ErrContentAddress).
func NewCAVerifier(info PathInfo) (*CAVerifier, error) {
	if err := info.Validate(); err != nil {
		return nil, err
	}
	if info.CA == "" {
		return nil, fmt.Errorf("%w: %s has none, it is input-addressed", ErrContentAddress, info.Path)
	}
	ca, err := info.CheckCA()
	if err != nil {
		return nil, err
	}
	v := &CAVerifier{info: info, ca: ca, narHash: sha256.New()}
	_, self := info.splitSelf()
	switch {
	case self:
		v.addressed = newModuloHash(info.Path.Hash())
	case ca.Method != CANar:
		if info.Path.IsDrv() && ca.Method == CAText && info.NarSize > maxDrvNar {
			return nil, fmt.Errorf("%w: %s: a derivation of more than %d bytes", ErrNarSize, info.Path, int64(MaxDrvSize))
		}
		v.addressed = ca.Algo.New()
		v.checker.Handler.Contents = v.takeContents
	case ca.Algo != SHA256:
		v.addressed = ca.Algo.New()
	}
	v.checker.Handler.Node = v.node
	return v, nil
}

// NewNarVerifier prepares for the NAR of a path that is trusted for another
// reason, a signature: grammar, size and NAR hash are checked, nothing else.
func NewNarVerifier(info PathInfo) (*CAVerifier, error) {
	if err := info.Validate(); err != nil {
		return nil, err
	}
	v := &CAVerifier{info: info, narHash: sha256.New()}
	v.checker.Handler.Node = v.node
	return v, nil
}

// Write takes the next bytes of the NAR. Its errors, also those of the bytes
// before, stay.
func (v *CAVerifier) Write(p []byte) (int, error) {
	if v.closed && v.err == nil {
		v.err = fmt.Errorf("%w: write after Close", ErrNarSize)
	}
	if v.err != nil {
		return 0, v.err
	}
	if uint64(len(p)) > v.info.NarSize-v.n {
		return 0, v.fail(fmt.Errorf("%w: more than the declared %d bytes", ErrNarSize, v.info.NarSize))
	}
	n, err := v.checker.Write(p)
	v.n += uint64(n)
	if err != nil {
		return n, v.fail(err)
	}
	v.narHash.Write(p)
	if v.addressed != nil && v.checker.Handler.Contents == nil {
		v.addressed.Write(p)
	}
	return n, nil
}

// Close gives the verdict over the whole NAR. It is the same however often it
// is asked.
func (v *CAVerifier) Close() error {
	if !v.closed {
		v.closed = true
		if v.err == nil {
			v.err = v.verdict()
		}
	}
	return v.err
}

func (v *CAVerifier) verdict() error {
	if v.n != v.info.NarSize {
		return v.fail(fmt.Errorf("%w: %d bytes, declared %d", ErrNarSize, v.n, v.info.NarSize))
	}
	if err := v.checker.Close(); err != nil {
		return v.fail(err)
	}
	var got Hash
	v.narHash.Sum(got[:0])
	if got != v.info.NarHash {
		return v.fail(fmt.Errorf("%w: it is %s, declared %s", ErrNarHash, got, v.info.NarHash))
	}
	if v.ca.Method == "" {
		return nil
	}
	digest := got[:]
	if v.addressed != nil {
		digest = v.addressed.Sum(nil)
	}
	m, self := v.addressed.(*moduloHash)
	switch {
	case self && m.full:
		return v.fail(fmt.Errorf("%w: it refers to itself more than %d times", ErrContentAddress, maxSelfReferences))
	case bytes.Equal(digest, v.ca.Digest):
		return nil
	case self && bytes.Equal(m.bare, v.ca.Digest):
		return v.fail(fmt.Errorf("%w: it is as Nix 2.17 to 2.34 make it of a path that refers to itself,"+
			" which other contents have too", ErrContentAddress))
	}
	return v.fail(fmt.Errorf("%w: the contents make %s, declared %s",
		ErrContentAddress, CA{v.ca.Method, v.ca.Algo, digest}, v.ca))
}

// Contents returns the file's bytes of a .drv (text: content address) once
// Close has approved them, and nil for everything else.
func (v *CAVerifier) Contents() []byte {
	if !v.closed || v.err != nil {
		return nil
	}
	return v.contents
}

func (v *CAVerifier) fail(err error) error {
	v.err = fmt.Errorf("%s: %w", v.info.Path.Base(), err)
	return v.err
}

func (v *CAVerifier) node(n nar.Node) error {
	if n.Kind == nar.Regular && n.Size > v.info.NarSize {
		return fmt.Errorf("%w: a file of %d bytes in %d", ErrNarSize, n.Size, v.info.NarSize)
	}
	if v.checker.Handler.Contents != nil && (n.Kind != nar.Regular || n.Executable) {
		return fmt.Errorf("%w: %s is for a single file that is not executable", ErrContentAddress, v.ca.Method)
	}
	return nil
}

func (v *CAVerifier) takeContents(p []byte) error {
	v.addressed.Write(p)
	if v.ca.Method == CAText && v.info.Path.IsDrv() {
		v.contents = append(v.contents, p...)
	}
	return nil
}

// TextInfo returns the path info of a text object, a .drv above all: its path
// follows from name, contents and references.
func TextInfo(name string, contents []byte, refs []Path) (PathInfo, error) {
	sum := sha256.Sum256(contents)
	ca := CA{Method: CAText, Algo: SHA256, Digest: sum[:]}
	path, err := PathFromCA(name, ca, refs, false)
	if err != nil {
		return PathInfo{}, err
	}
	narHash, narSize := nar.HashFile(contents, false)
	return PathInfo{
		Path: path, NarHash: narHash, NarSize: uint64(narSize),
		References: SortedPaths(refs), CA: ca.String(),
	}, nil
}
