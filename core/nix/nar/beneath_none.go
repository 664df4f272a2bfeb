//go:build !linux

package nar

import "os"

// beneath has nothing to offer on this system.
type beneath struct{}

func (*beneath) open(*os.Root) {}
func (*beneath) close()        {}

func (*beneath) openDir(string) (f *os.File, ok bool, err error) { return nil, false, nil }
func (*beneath) openFile(string) (f openedFile, size int64, ok bool, err error) {
	return nil, 0, false, nil
}
