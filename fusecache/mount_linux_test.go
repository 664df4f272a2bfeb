package fusecache

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestParseMounts(t *testing.T) {
	const list = `22 1 0:20 / / rw,relatime shared:1 - ext4 /dev/sda1 rw
30 22 0:40 / /tmp/a\040b rw - tmpfs tmpfs rw
31 22 0:41 / /tmp/x rw,nosuid shared:2 master:3 - tmpfs tmpfs rw
32 31 0:42 / /tmp/x ro - fuse.drv-thru drv-thru ro,user_id=0
broken line
33 22 0:43 / /tmp/back\134slash ro - fuse x ro
` + "34 22 0:44 / /tmp/\u65b0\u3000\u00a0\r ro - fuse x ro\n"
	last := map[string]string{}
	for _, p := range parseMounts(list) {
		last[p.dir] = p.fsType
	}
	for dir, want := range map[string]string{
		"/": "ext4", "/tmp/a b": "tmpfs", "/tmp/x": "fuse.drv-thru", `/tmp/back\slash`: "fuse", "/tmp/\u65b0\u3000\u00a0\r": "fuse", "/tmp": "", "": "",
	} {
		if got := last[dir]; got != want {
			t.Errorf("%s: %q, want %q", dir, got, want)
		}
	}
}

func TestResolve(t *testing.T) {
	dir, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(dir+"/real", 0o700); err != nil {
		t.Fatal(err)
	}
	for link, target := range map[string]string{
		"link": "real", "abs": dir + "/real", "chain": "abs", "dangling": "link/gone", "loop": "loop",
	} {
		if err := os.Symlink(target, filepath.Join(dir, link)); err != nil {
			t.Fatal(err)
		}
	}
	for name, want := range map[string]string{
		"real": "real", "link": "real", "abs": "real", "link/new": "real/new", "new/newer": "new/newer", "new": "new",
		"chain": "real", "link/": "real", "dangling": "real/gone",
	} {
		if got, err := resolve(filepath.Join(dir, name)); err != nil || got != filepath.Join(dir, want) {
			t.Errorf("%s: %s, %v", name, got, err)
		}
	}
	if got, err := resolve(dir + "/loop"); err == nil {
		t.Errorf("a link to itself is %s", got)
	}
}

// Nothing is touched where nothing is mounted.
func TestClearStaleWithoutMount(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{dir, dir + "/missing", dir + "/missing/too"} {
		if err := ClearStale(name); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func FuzzParseMounts(f *testing.F) {
	f.Add("32 31 0:42 / /tmp/x\\040y ro - fuse.drv-thru drv-thru ro\n")
	f.Fuzz(func(t *testing.T, list string) { parseMounts(list) })
}

// A mount never lies over the directory that it keeps NARs in: it would wait for its own
// answers.
func TestMountOverItsDisk(t *testing.T) {
	dir := t.TempDir()
	for name, kept := range map[string]string{"the same": ".", "below": "a/b", "by a link": "link/b"} {
		if err := os.RemoveAll(dir + "/m"); err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(os.MkdirAll(dir+"/m/a", 0o700), os.Symlink("a", dir+"/m/link")); err != nil {
			t.Fatal(err)
		}
		d := openDisk(t, filepath.Join(dir, "m", kept), 1<<20)
		if m, err := Mount(nil, dir+"/m", Options{Disk: d}); err == nil || !strings.Contains(err.Error(), "would be hidden") {
			t.Errorf("%s: %v, %v", name, m, err)
		}
		d.Close()
	}
}
