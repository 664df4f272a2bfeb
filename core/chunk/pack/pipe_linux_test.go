package pack

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// What lies in the place of a file of the store is not waited for, as a named pipe would
// be, also when it has come while the store is open.
func TestPipes(t *testing.T) {
	for _, name := range []string{packSuffix, indexSuffix, indexSuffix + ".new"} {
		for _, opened := range []bool{false, true} {
			dir, c := t.TempDir(), newClock()
			s := open(t, dir, config(c))
			put(t, s, 0, 10)
			s.Close()
			pack := files(t, dir, packSuffix)[0]
			s = open(t, dir, config(c))
			if opened {
				all(t, s, 0, 10)
			}
			path := pack[:len(pack)-len(packSuffix)] + name
			if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
				t.Fatal(err)
			}
			if err := unix.Mkfifo(path, 0o600); err != nil {
				t.Fatal(err)
			}
			if name == indexSuffix+".new" { // is needed
				if err := os.Remove(indexOf(pack)); err != nil {
					t.Fatal(err)
				}
			}
			c.add(2 * stale)
			put(t, s, 10, 20)
			all(t, s, 10, 20)
			if name != packSuffix {
				all(t, s, 0, 10)
			} else if have := present(t, s, 0, 10); have != nil {
				t.Errorf("%s: there are %v", filepath.Base(path), have)
			}
			s.Close()
			all(t, open(t, dir, config(c)), 10, 20)
		}
	}
}
