//go:build !(linux || darwin || freebsd)

package nar

import (
	"os"
	"path/filepath"
)

const openFlags = os.O_RDONLY

// checkLink stands in for O_NOFOLLOW. The race that it leaves stays within the tree.
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

func (t *tree) statAll(_ *os.File, path string, names []string, entries []stat) error {
	for i, name := range names {
		p := filepath.Join(filepath.FromSlash(path), name)
		info, err := t.below.Lstat(p)
		if err == nil {
			entries[i], err = statOf(name, info, func() (string, error) { return t.below.Readlink(p) })
		}
		if err != nil {
			return err
		}
	}
	return nil
}
