//go:build unix

package policy

import (
	"io/fs"
	"os"
	"syscall"
)

// isOurs tells that a folder belongs to this process's user, and not everybody
// may write there.
func isOurs(info fs.FileInfo) bool {
	st, ok := info.Sys().(*syscall.Stat_t)
	return ok && int(st.Uid) == os.Geteuid() && info.Mode()&0o002 == 0
}
