//go:build darwin || freebsd

package pack

import "golang.org/x/sys/unix"

// blockUnit is what blocks are counted in.
func blockUnit(st *unix.Statfs_t) uint64 { return uint64(st.Bsize) }
