//go:build !(linux || darwin || freebsd)

package nar

import (
	"os"
	"path/filepath"
)

const openFlags = os.O_RDONLY

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
