package nar

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
)

var errNotRegular = errors.New("not a regular file any more")

// tree is the file system below a Layout's root. Paths are slash-separated and
// relative to the root, the root itself being empty. Nothing outside of the
// root can be reached through it, also not when someone swaps a directory for
// a symlink while it is read.
type tree struct {
	// path is the root's own.
	path string
	// below is open when the root is a directory, nil otherwise.
	below *os.Root
	// fast opens files with one system call where the system has one.
	fast beneath
}

func openTree(path string) (tree, error) {
	t := tree{path: path}
	info, err := os.Lstat(path)
	if err != nil || !info.IsDir() {
		return t, err
	}
	if t.below, err = os.OpenRoot(path); err != nil {
		return t, err
	}
	t.fast.open(t.below)
	return t, nil
}

func (t *tree) close() error {
	t.fast.close()
	if t.below == nil {
		return nil
	}
	return t.below.Close()
}

func (t *tree) statRoot() (stat, error) {
	info, err := os.Lstat(t.path)
	if err != nil {
		return stat{}, err
	}
	if info.IsDir() != (t.below != nil) {
		return stat{}, fmt.Errorf("%w: the root is of another type now", ErrChanged)
	}
	return statOf("", info, func() (string, error) { return os.Readlink(t.path) })
}

// statOf takes what the archive needs from info.
func statOf(name string, info fs.FileInfo, readlink func() (string, error)) (st stat, err error) {
	// The owner's bit decides, as in Nix's lstat of its accessors.
	st = stat{name: name, mode: info.Mode().Type(), executable: info.Mode()&0o100 != 0, size: info.Size()}
	if st.mode == fs.ModeSymlink {
		if st.target, err = readlink(); err == nil && (st.target == "" || len(st.target) > MaxTargetLen) {
			err = fmt.Errorf("%w: symlink %q with a target of %d bytes", ErrUnsupported, name, len(st.target))
		}
	}
	return st, err
}

// readDir returns the entries of a directory in the order of the archive.
func (t *tree) readDir(path string) ([]stat, error) {
	if path == "" {
		path = "."
	}
	d, err := t.openDir(path)
	if err != nil {
		return nil, err
	}
	defer d.Close()
	names, err := d.Readdirnames(-1)
	if err != nil {
		return nil, err
	}
	slices.Sort(names)
	entries := make([]stat, len(names))
	if err := t.statAll(d, path, names, entries); err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			err = fmt.Errorf("%w: %w", ErrChanged, err)
		}
		return nil, err
	}
	return entries, nil
}

func (t *tree) openDir(path string) (*os.File, error) {
	if f, ok, err := t.fast.openDir(path); ok {
		return f, err
	}
	return t.below.Open(filepath.FromSlash(path))
}

// openFile opens a regular file for reading and returns its size.
func (t *tree) openFile(path string) (openedFile, int64, error) {
	if f, size, ok, err := t.fast.openFile(path); ok {
		return f, size, err
	}
	var f *os.File
	err := t.checkLink(path)
	switch {
	case err != nil:
	case t.below == nil:
		f, err = os.OpenFile(t.path, openFlags, 0)
	default:
		f, err = t.below.OpenFile(filepath.FromSlash(path), openFlags, 0)
	}
	if err != nil {
		return nil, 0, err
	}
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = errNotRegular
	}
	if err != nil {
		_ = f.Close()
		return nil, 0, &fs.PathError{Op: "open", Path: path, Err: err}
	}
	return f, info.Size(), nil
}

// checkLink stands in for O_NOFOLLOW, which not every system has and os.Root
// does not heed. The race that it leaves stays within the tree.
func (t *tree) checkLink(path string) error {
	lstat := os.Lstat
	if t.below == nil {
		path = t.path
	} else {
		lstat = t.below.Lstat
	}
	info, err := lstat(filepath.FromSlash(path))
	if err == nil && !info.Mode().IsRegular() {
		err = errNotRegular
	}
	return err
}
