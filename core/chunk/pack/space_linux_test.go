package pack

import (
	"testing"

	"golang.org/x/sys/unix"
)

// The kernel gives sizes that differ for some FUSE file systems and for virtiofs.
func TestBlockUnit(t *testing.T) {
	if got := blockUnit(&unix.Statfs_t{Bsize: 1 << 20, Frsize: 4096}); got != 4096 {
		t.Errorf("blocks of %d bytes", got)
	}
}
