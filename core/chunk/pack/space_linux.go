package pack

import "golang.org/x/sys/unix"

// blockUnit is what blocks are counted in. Bsize may be more, as of a directory
// that a virtual machine shares with a Mac.
func blockUnit(st *unix.Statfs_t) uint64 { return uint64(st.Frsize) }
