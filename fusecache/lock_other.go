//go:build !unix

package fusecache

import (
	"io/fs"
	"os"
)

func lockFile(*os.File) error { return nil }

func awaitLock(*os.File) error { return nil }

func ownedBySelf(fs.FileInfo) error { return nil }
