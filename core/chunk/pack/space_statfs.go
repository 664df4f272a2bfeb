//go:build linux || darwin || freebsd

package pack

import "golang.org/x/sys/unix"

// FileSystemSpace is what Config.Free wants of the operating system.
func FileSystemSpace(dir string) (free, total uint64, err error) {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return 0, 0, err
	}
	unit := blockUnit(&st)
	return uint64(max(0, st.Bavail)) * unit, uint64(st.Blocks) * unit, nil
}
