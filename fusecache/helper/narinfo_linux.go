package helper

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/drv-thru/drv-thru/core/nix"
)

// maxNarInfos bounds the narinfos of an import together: they are kept in memory.
const maxNarInfos = 32 << 20

var errNarInfos = fmt.Errorf("the narinfos have more than %d MiB", maxNarInfos>>20)

const cacheInfo = "StoreDir: " + nix.StoreDir + "\n"

// makeCache makes a binary cache whose NARs are those of the mount and whose narinfos
// are the helper's copies. A narinfo names the file of its NAR, no signature covers
// that name, and nix follows it out of the mount to whatever root can open. So nix
// must not read one that the user has written, however often it is looked at before.
func makeCache(dir, mount string) error {
	if err := os.Mkdir(dir, 0o700); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(dir, "nix-cache-info"), []byte(cacheInfo), 0o600); err != nil {
		return err
	}
	return os.Symlink(filepath.Join(mount, "nar"), filepath.Join(dir, "nar"))
}

// takeNarInfos copies the narinfos of the paths from the mount into the cache. What
// waits for the mount ends when that is gone; the caller sees to it.
func takeNarInfos(ctx context.Context, mount int, cache string, paths []string, stall time.Duration) error {
	ctx, cancel := context.WithCancelCause(ctx)
	stalled := time.AfterFunc(stall, func() { cancel(errStalled) })
	ended := make(chan error, 1)
	go func() {
		defer unix.Close(mount)
		left := maxNarInfos
		for _, path := range paths {
			if ctx.Err() != nil {
				break
			}
			n, err := takeNarInfo(mount, cache, path, left)
			if err != nil {
				ended <- err
				return
			}
			left -= n
			stalled.Reset(stall)
		}
		ended <- context.Cause(ctx)
	}()
	defer cancel(nil)
	defer stalled.Stop()
	select {
	case err := <-ended:
		return err
	case <-ctx.Done():
		return &abandonedError{context.Cause(ctx), ended}
	}
}

// takeNarInfo copies one narinfo, of at most most bytes, and returns its length.
func takeNarInfo(mount int, cache, path string, most int) (int, error) {
	p, err := nix.ParsePath(path)
	if err != nil {
		return 0, err
	}
	name := p.Hash() + ".narinfo"
	// What is longer is cut off, and refused when it is parsed.
	text, err := readBelow(mount, name, nix.MaxNarInfo+1)
	if err != nil {
		return 0, fmt.Errorf("read the narinfo of %s: %w", path, err)
	}
	if text, err = copyNarInfo(text, p); err != nil {
		return 0, err
	}
	if len(text) > most {
		return 0, errNarInfos
	}
	return len(text), os.WriteFile(filepath.Join(cache, name), text, 0o600)
}

// copyNarInfo writes a path's narinfo anew: in the copy, the name of the NAR follows
// from its hash.
func copyNarInfo(text []byte, p nix.Path) ([]byte, error) {
	info, err := nix.ParseNarInfo(text)
	if err == nil && info.Path != p {
		err = fmt.Errorf("it is of %s", info.Path)
	}
	if err != nil {
		return nil, fmt.Errorf("read the narinfo of %s: %w", p, err)
	}
	return info.MarshalNarInfo(), nil
}

// readBelow reads the first most bytes of a regular file in a directory that a user
// serves.
func readBelow(dir int, name string, most int) ([]byte, error) {
	var fd int
	// O_NONBLOCK: opening a pipe would wait for whoever writes to it.
	if err := uninterrupted(func() (err error) {
		fd, err = unix.Openat(dir, name, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
		return err
	}); err != nil {
		return nil, err
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	if err := uninterrupted(func() error { return unix.Fstat(fd, &st) }); err != nil {
		return nil, err
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG {
		return nil, errors.New("not a regular file")
	}
	var text []byte
	buf := make([]byte, 16<<10)
	for {
		var n int
		if err := uninterrupted(func() (err error) { n, err = unix.Read(fd, buf); return err }); err != nil {
			return nil, err
		}
		if text = append(text, buf[:n]...); n == 0 || len(text) >= most {
			return text[:min(len(text), most)], nil
		}
	}
}

// uninterrupted repeats what a signal has interrupted. The kernel restarts nothing
// that waited for FUSE.
func uninterrupted(call func() error) error {
	for {
		if err := call(); !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}
