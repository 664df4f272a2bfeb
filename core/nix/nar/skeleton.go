package nar

import (
	"encoding/binary"
	"fmt"
	"math"
)

// Skeleton returns the archive without the contents of its files: everything
// that [Restore] needs to make the same Layout without walking the tree. The
// bytes are the Layout's own and must not be changed.
func (l *Layout) Skeleton() []byte { return l.literal }

// Restore makes the Layout of the tree at fsRoot from the Skeleton of an earlier
// one, which it keeps. Nothing of the tree is looked at but its root, so that a
// tree which is another one by now is found when it is read (ErrChanged). It
// fails with ErrSyntax when the bytes are no skeleton.
func Restore(fsRoot string, skeleton []byte) (*Layout, error) {
	if int64(len(skeleton)) > maxLiteral+maxLiteral/8 {
		return nil, fmt.Errorf("restore %s: %w", fsRoot, ErrTooLarge)
	}
	r := restorer{b: skeleton, l: &Layout{literal: skeleton}}
	if err := r.whole(); err != nil {
		return nil, fmt.Errorf("restore %s: %w", fsRoot, err)
	}
	t, err := openTree(fsRoot)
	if err != nil {
		return nil, fmt.Errorf("restore %s: %w", fsRoot, err)
	}
	if (t.below != nil) != (len(r.l.dirs) > 0) {
		_ = t.close()
		return nil, fmt.Errorf("restore %s: %w: the root is of another type now", fsRoot, ErrChanged)
	}
	r.l.tree = t
	r.l.size = int64(len(skeleton)) + r.contents
	return r.l, nil
}

// restorer reads a skeleton.
type restorer struct {
	b        []byte
	pos      int
	l        *Layout
	contents int64
}

func (r *restorer) whole() error {
	if err := r.expect(magic); err != nil {
		return err
	}
	if err := r.node("", 0, 0, nil, 0); err != nil {
		return err
	}
	if r.pos != len(r.b) {
		return fmt.Errorf("%w: bytes behind its end", ErrSyntax)
	}
	return nil
}

// length reads the word before a string or a file's contents.
func (r *restorer) length() (uint64, error) {
	if len(r.b)-r.pos < align {
		return 0, fmt.Errorf("%w: it ends too soon", ErrSyntax)
	}
	n := binary.LittleEndian.Uint64(r.b[r.pos:])
	r.pos += align
	return n, nil
}

func (r *restorer) padding(n uint64) error {
	end := r.pos + padding(n)
	if end > len(r.b) || !allZero(r.b[r.pos:end]) {
		return fmt.Errorf("%w: wrong padding", ErrSyntax)
	}
	r.pos = end
	return nil
}

// text reads a string.
func (r *restorer) text() ([]byte, error) {
	n, err := r.length()
	if err != nil {
		return nil, err
	}
	if n > uint64(len(r.b)-r.pos) {
		return nil, fmt.Errorf("%w: it ends too soon", ErrSyntax)
	}
	s := r.b[r.pos : r.pos+int(n)]
	r.pos += int(n)
	return s, r.padding(n)
}

func (r *restorer) expect(words ...string) error {
	for _, w := range words {
		s, err := r.text()
		if err != nil {
			return err
		}
		if string(s) != w {
			return fmt.Errorf("%w: %.20q where %q belongs", ErrSyntax, s, w)
		}
	}
	return nil
}

// node reads one node; see scanner.node for what its arguments are.
func (r *restorer) node(path string, dir, name uint32, base []byte, depth int) error {
	if err := r.expect(wordOpen, wordType); err != nil {
		return err
	}
	kind, err := r.text()
	if err != nil {
		return err
	}
	switch string(kind) {
	case wordRegular:
		return r.file(dir, name, len(base))
	case wordDir:
		if len(base) > 0 {
			path = join(path, string(base))
		}
		return r.directory(path, depth)
	case wordLink:
		if err := r.expect(wordTarget); err != nil {
			return err
		}
		if target, err := r.text(); err != nil || len(target) == 0 || len(target) > MaxTargetLen {
			return fmt.Errorf("%w: invalid target of a symlink", ErrSyntax)
		}
		return r.expect(wordClose)
	}
	return fmt.Errorf("%w: unknown type %.20q", ErrSyntax, kind)
}

func (r *restorer) file(dir, name uint32, nameLen int) error {
	word, err := r.text()
	if err == nil && string(word) == wordExec {
		if err = r.expect(""); err == nil {
			word, err = r.text()
		}
	}
	if err != nil {
		return err
	}
	if string(word) != wordBytes {
		return fmt.Errorf("%w: %.20q where %q belongs", ErrSyntax, word, wordBytes)
	}
	size, err := r.length()
	if err != nil {
		return err
	}
	if size > math.MaxInt64/2-uint64(r.contents) {
		return fmt.Errorf("%w: file of %d bytes", ErrSyntax, size)
	}
	if size > 0 {
		r.l.files = append(r.l.files, file{
			off: int64(r.pos) + r.contents, size: int64(size),
			lit: uint32(r.pos), dir: dir, name: name, nameLen: uint8(nameLen),
		})
		r.contents += int64(size)
	}
	if err := r.padding(size); err != nil {
		return err
	}
	return r.expect(wordClose)
}

func (r *restorer) directory(path string, depth int) error {
	if depth == MaxDepth {
		return fmt.Errorf("%w: directories nest deeper than %d", ErrSyntax, MaxDepth)
	}
	dir := uint32(len(r.l.dirs))
	r.l.dirs = append(r.l.dirs, path)
	last := ""
	for {
		word, err := r.text()
		switch {
		case err != nil:
			return err
		case string(word) == wordClose:
			return nil
		case string(word) != wordEntry:
			return fmt.Errorf("%w: %.20q where an entry belongs", ErrSyntax, word)
		}
		if err := r.expect(wordOpen, wordName); err != nil {
			return err
		}
		at := r.pos + align
		name, err := r.text()
		if err != nil {
			return err
		}
		if err := checkName(name); err != nil {
			return err
		}
		if string(name) <= last {
			return fmt.Errorf("%w: name %q does not sort after %q", ErrSyntax, name, last)
		}
		last = string(name)
		if err := r.expect(wordNode); err != nil {
			return err
		}
		if err := r.node(path, dir, uint32(at), name, depth+1); err != nil {
			return err
		}
		if err := r.expect(wordClose); err != nil {
			return err
		}
	}
}
