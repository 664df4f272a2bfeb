//go:build !(linux || darwin || freebsd)

package pack

import "errors"

// FileSystemSpace is what Config.Free wants of the operating system.
func FileSystemSpace(string) (free, total uint64, err error) { return 0, 0, errors.ErrUnsupported }
