package policy

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/zeebo/blake3"
)

// disk is the folder of one module's compiled code. wazero checks some of what
// it reads back, but runs it as it is: so a list of hashes lies beside it, and
// what does not match (a crash, a damaged disk) is removed and compiled anew.
// Every method works on nil, which is no folder.
type disk struct {
	path string
}

const (
	sumsFile   = "blake3sums"
	maxSums    = 64 << 10
	maxCompile = 256 << 20 // bytes of a file of compiled code
)

// maxFolders bounds the modules whose compiled code is kept, of which one by Go takes
// 14 MB: each time that a policy is changed it is another.
const maxFolders = 32

// openDisk returns the module's folder, or nil where there is to be none.
// Failing to have a cache is never a reason to refuse.
func openDisk(dir string, hash Hash, now time.Time) *disk {
	if dir == "" {
		return nil
	}
	d := &disk{filepath.Join(dir, hash.String())}
	if err := os.MkdirAll(d.path, 0o700); err != nil {
		return nil
	}
	// Hashes are no help against who can write both, as where root has the HOME of
	// somebody else.
	for _, path := range []string{dir, d.path} {
		if info, err := os.Stat(path); err != nil || !isOurs(info) {
			return nil
		}
	}
	_ = os.Chtimes(d.path, now, now)
	pruneDisk(dir)
	sums, err := d.sums()
	if err != nil {
		d.drop()
		return d
	}
	want, err := readBounded(filepath.Join(d.path, sumsFile), maxSums)
	if errors.Is(err, fs.ErrNotExist) && sums == "" {
		return d
	}
	if err != nil || string(want) != sums {
		d.drop()
	}
	return d
}

// pruneDisk removes the folders that were opened longest ago. Who compiles into one of
// them at this moment does it once more without.
func pruneDisk(dir string) {
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) <= maxFolders {
		return
	}
	opened := make(map[string]time.Time)
	for _, e := range entries {
		if info, err := e.Info(); err == nil && e.IsDir() {
			if _, err := ParseHash(e.Name()); err == nil {
				opened[e.Name()] = info.ModTime()
			}
		}
	}
	names := slices.SortedFunc(maps.Keys(opened), func(a, b string) int { return opened[b].Compare(opened[a]) })
	for _, name := range names[min(maxFolders, len(names)):] {
		_ = os.RemoveAll(filepath.Join(dir, name))
	}
}

func (d *disk) dir() string {
	if d == nil {
		return ""
	}
	return d.path
}

func (d *disk) drop() {
	if d != nil {
		_ = os.RemoveAll(d.path)
	}
}

// seal lists what is there now.
func (d *disk) seal() {
	if d == nil {
		return
	}
	sums, err := d.sums()
	if err != nil {
		d.drop()
		return
	}
	name := filepath.Join(d.path, sumsFile)
	if have, err := readBounded(name, maxSums); err == nil && string(have) == sums {
		return
	}
	f, err := os.CreateTemp(d.path, sumsFile+".*.tmp")
	if err != nil {
		return
	}
	_, err = f.WriteString(sums)
	if err = errors.Join(err, f.Close()); err == nil {
		err = os.Rename(f.Name(), name)
	}
	if err != nil {
		_ = os.Remove(f.Name())
	}
}

// sums lists the hash and name of every file except the list, in order of name.
func (d *disk) sums() (string, error) {
	var b strings.Builder
	err := filepath.WalkDir(d.path, func(path string, entry fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case entry.IsDir():
			return nil
		case !entry.Type().IsRegular():
			return fmt.Errorf("%s is no regular file", path)
		}
		name, err := filepath.Rel(d.path, path)
		if err != nil || name == sumsFile {
			return err
		}
		sum, err := hashFile(path)
		if err != nil {
			return err
		}
		fmt.Fprintf(&b, "%x  %s\n", sum, filepath.ToSlash(name))
		return nil
	})
	return b.String(), err
}

func hashFile(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	h := blake3.New()
	n, err := io.Copy(h, io.LimitReader(f, maxCompile+1))
	if err == nil && n > maxCompile {
		err = errors.New("larger than any compiled module")
	}
	return h.Sum(nil), err
}

func readBounded(path string, limit int64) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, limit+1))
}
