//go:build !unix

package builder

import "os"

// diskUse is what a file takes on the disk at most, 0 if there is none.
func diskUse(name string) int64 {
	info, err := os.Stat(name)
	if err != nil {
		return 0
	}
	return info.Size()
}
