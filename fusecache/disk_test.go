package fusecache

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"

	"github.com/drv-thru/drv-thru/core/nix"
)

func openDisk(t *testing.T, dir string, most int64) *Disk {
	t.Helper()
	d, err := OpenDisk(dir, most, nil)
	if err != nil {
		t.Fatal(err)
	}
	d.free = func(string) (uint64, uint64, error) { return 1 << 40, 1 << 41, nil }
	return d
}

// keep reads a NAR in pieces, as a mount does.
func keep(d *Disk, hash string, nar []byte, piece int) {
	s := d.newSpool(hash, int64(len(nar)))
	for off := 0; off < len(nar); off += piece {
		s.write([][]byte{nar[off:min(off+piece, len(nar))]}, int64(off), func() {})
	}
	s.close()
}

// takes reports whether a NAR's beginning would be taken now.
func takes(d *Disk, hash string, size int64) bool {
	s := d.newSpool(hash, size)
	s.write([][]byte{{0}}, 0, func() {})
	defer s.close()
	return s.pieces != nil
}

func readNar(t *testing.T, d *Disk, hash string, size int) []byte {
	t.Helper()
	f := d.openNar(t.Context(), hash, int64(size))
	if f == nil {
		return nil
	}
	defer f.Close()
	b := make([]byte, size)
	if _, err := f.ReadAt(b, 0); err != nil {
		t.Fatal(err)
	}
	return b
}

func TestDisk(t *testing.T) {
	dir := t.TempDir()
	d := openDisk(t, dir, 10<<20)
	if _, err := OpenDisk(dir, 1, nil); !errors.Is(err, ErrDiskInUse) {
		t.Errorf("opened twice: %v", err)
	}
	nar := bytes.Repeat([]byte("0123456789"), 50_000)
	hash := nix.SumHash(nar).Nix32()
	wrong := nix.SumHash([]byte("other")).Nix32()
	d.PutNarInfo("abc", "text")
	keep(d, hash, nar, 64<<10)
	keep(d, wrong, nar, 64<<10)
	// Pieces that are missing or come twice.
	half := nix.SumHash(nar[:1000]).Nix32()
	opened := d.newSpool(half, 1000) // and never read
	s := d.newSpool(half, 1000)
	s.write([][]byte{nar[:300], nar[300:400]}, 0, func() {})
	if takes(d, half, 1000) {
		t.Error("one NAR is written twice at once")
	}
	s.write([][]byte{nar[500:600]}, 500, func() {})
	s.write([][]byte{nar[350:700]}, 350, func() {})
	s.write([][]byte{nar[700:1000]}, 700, func() {})
	s.close()
	opened.close()
	cut := nix.SumHash(nar[:500]).Nix32()
	s = d.newSpool(cut, 500)
	s.write([][]byte{nar[:499]}, 0, func() {})
	s.close()
	if !takes(d, cut, 500) {
		t.Error("what was given up cannot begin anew")
	}
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	if takes(d, cut, 500) {
		t.Error("writes after Close")
	}

	d = openDisk(t, dir, 10<<20)
	if text, ok := d.NarInfo("abc"); !ok || text != "text" {
		t.Errorf("%q, %v", text, ok)
	}
	if _, ok := d.NarInfo("abd"); ok {
		t.Error("a narinfo that was never put")
	}
	if !bytes.Equal(readNar(t, d, hash, len(nar)), nar) || !d.HasNar(hash) {
		t.Error("the NAR was not kept")
	}
	if !bytes.Equal(readNar(t, d, half, 1000), nar[:1000]) {
		t.Error("the NAR in pieces was not kept")
	}
	for _, h := range []string{wrong, cut} {
		if d.HasNar(h) || d.openNar(t.Context(), h, -1) != nil {
			t.Errorf("%s is shown", h)
		}
	}
	if d.openNar(t.Context(), half, 999) != nil || d.HasNar(half) {
		t.Error("a NAR of another size is shown")
	}
	// One that has been cut short since.
	if err := os.Truncate(filepath.Join(dir, diskNars, hash+".nar"), 10); err != nil {
		t.Fatal(err)
	}
	if d.openNar(t.Context(), hash, int64(len(nar))) != nil {
		t.Error("a NAR that was cut short is shown")
	}
	if left, err := os.ReadDir(filepath.Join(dir, diskTmp)); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
}

// A NAR whose bytes have changed since an earlier process kept it is fetched again.
func TestDiskDamaged(t *testing.T) {
	dir := t.TempDir()
	nar := bytes.Repeat([]byte("0123456789"), 50_000)
	hash := nix.SumHash(nar).Nix32()
	file := filepath.Join(dir, diskNars, hash+".nar")
	for name, harm := range map[string]func(p []byte){
		"a flipped byte": func(p []byte) { p[len(p)/2] ^= 1 },
		"its last byte":  func(p []byte) { p[len(p)-1] ^= 0x80 },
		"zeros":          func(p []byte) { clear(p[4096:]) },
	} {
		d := openDisk(t, dir, 10<<20)
		keep(d, hash, nar, 64<<10)
		d.Close()
		p := bytes.Clone(nar)
		harm(p)
		if err := os.WriteFile(file, p, 0o600); err != nil {
			t.Fatal(err)
		}
		d = openDisk(t, dir, 10<<20)
		if readNar(t, d, hash, len(nar)) != nil || d.HasNar(hash) {
			t.Errorf("%s: it is shown", name)
		}
		keep(d, hash, nar, 64<<10)
		d.Close()
		d = openDisk(t, dir, 10<<20)
		given, cancel := context.WithCancel(t.Context())
		cancel()
		if d.openNar(given, hash, -1) != nil {
			t.Errorf("%s: it was read for one who waits no more", name)
		}
		if !bytes.Equal(readNar(t, d, hash, len(nar)), nar) {
			t.Errorf("%s: it is not kept again", name)
		}
		d.Close()
	}
}

// What was not used for longest goes first, now and after a restart.
func TestDiskIsBounded(t *testing.T) {
	dir := t.TempDir()
	const size, most = 100_000, 1_000_000
	d := openDisk(t, dir, most)
	nars := make([][]byte, 20)
	hash := func(k int) string { return nix.SumHash(nars[k]).Nix32() }
	for k := range nars {
		nars[k] = bytes.Repeat([]byte{byte(k)}, size)
		keep(d, hash(k), nars[k], size)
		d.wg.Wait()
		readNar(t, d, hash(0), size) // in use all the time
		d.PutNarInfo(fmt.Sprint(k), "text")
		if d.bytes > most {
			t.Fatalf("%d bytes", d.bytes)
		}
	}
	if !d.HasNar(hash(0)) || !d.HasNar(hash(19)) || d.HasNar(hash(1)) {
		t.Error("the wrong ones are gone")
	}
	big := bytes.Repeat([]byte("x"), most*3/4)
	if takes(d, nix.SumHash(big).Nix32(), int64(len(big))) {
		t.Error("a NAR that would take most of it is kept")
	}
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	d = openDisk(t, dir, 300_000)
	defer d.Close()
	if d.bytes > 300_000 || d.HasNar(hash(10)) {
		t.Errorf("%d bytes after it was made smaller", d.bytes)
	}
}

// What is being written counts too.
func TestDiskComing(t *testing.T) {
	d := openDisk(t, t.TempDir(), 1_000_000)
	defer d.Close()
	hash := func(k byte) string { return nix.SumHash([]byte{k}).Nix32() }
	kept := bytes.Repeat([]byte("x"), 400_000)
	for range 2 {
		kept[0]++
		keep(d, nix.SumHash(kept).Nix32(), kept, len(kept))
		d.wg.Wait()
	}
	s := d.newSpool(hash(1), 400_000)
	s.write([][]byte{{0}}, 0, func() {})
	if d.bytes+d.coming > d.most || !d.HasNar(nix.SumHash(kept).Nix32()) {
		t.Errorf("%d bytes are kept, %d are coming", d.bytes, d.coming)
	}
	if takes(d, hash(2), 200_000) {
		t.Error("more than half of it may be coming")
	}
	s.close()
	d.wg.Wait()
	if !takes(d, hash(2), 200_000) {
		t.Error("what was given up counts still")
	}
	d.wg.Wait()
	// The file system's reserve is not the cache's.
	d.free = func(string) (uint64, uint64, error) { return 256<<20 + 150_000, 1 << 30, nil }
	if takes(d, hash(2), 200_000) || !takes(d, hash(3), 100_000) {
		t.Error("the reserve is not kept, or more than that")
	}
}

// What was written of a NAR before the disk was full is given back at once, not when
// its reader is done.
func TestDiskFull(t *testing.T) {
	d := openDisk(t, t.TempDir(), 1<<20)
	defer d.Close()
	name := filepath.Join(d.dir, diskTmp, "nar")
	if err := os.WriteFile(name, make([]byte, 1000), 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(name) // nothing more can be written
	if err != nil {
		t.Fatal(err)
	}
	s := d.newSpool(nix.SumHash(nil).Nix32(), 3000)
	pieces, failed := make(chan spooled), make(chan struct{})
	d.wg.Add(1)
	go s.run(f, pieces)
	pieces <- spooled{[][]byte{make([]byte, 1000)}, 1000, func() { close(failed) }}
	<-failed
	if left, err := os.ReadFile(name); err != nil || len(left) > 0 {
		t.Errorf("%d bytes, %v", len(left), err)
	}
	close(pieces)
	d.wg.Wait()
	if _, err := os.Stat(name); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the file stays: %v", err)
	}
}

// Who empties the directory at the moment that a mount starts costs it nothing.
func TestDiskWhileEmptied(t *testing.T) {
	dir := t.TempDir()
	var held []*os.File
	for _, name := range []string{diskEmptying, "lock"} {
		f, err := os.Create(filepath.Join(dir, name))
		if err == nil {
			err = lockFile(f)
		}
		if err != nil {
			t.Fatal(err)
		}
		held = append(held, f)
	}
	go func() {
		for _, f := range slices.Backward(held) {
			f.Close()
		}
	}()
	if err := openDisk(t, dir, 1<<20).Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := EmptyDisk(dir, false); err != nil {
		t.Error(err)
	}
}

// Where another user got there first, nothing is removed through a link of theirs.
func TestDiskOfAnother(t *testing.T) {
	for _, sub := range []string{diskInfos, diskNars, diskTmp} {
		dir, elsewhere := t.TempDir(), t.TempDir()
		precious := filepath.Join(elsewhere, "precious")
		if err := os.WriteFile(precious, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink(elsewhere, filepath.Join(dir, sub)); err != nil {
			t.Fatal(err)
		}
		if d, err := OpenDisk(dir, 1, nil); err == nil {
			t.Errorf("%s: a link was taken", sub)
			d.Close()
		}
		if err := os.WriteFile(filepath.Join(dir, "lock"), nil, 0o600); err != nil {
			t.Fatal(err)
		}
		if removed, err := EmptyDisk(dir, false); err == nil {
			t.Errorf("%s: %d bytes were removed through a link", sub, removed)
		}
		if _, err := os.Stat(precious); err != nil {
			t.Errorf("%s: %v", sub, err)
		}
	}
}

// What a wrong clock has dated into the future is not what was used last.
func TestDiskClockWasAhead(t *testing.T) {
	dir := t.TempDir()
	d := openDisk(t, dir, 1<<20)
	ahead, now := bytes.Repeat([]byte("a"), 300_000), bytes.Repeat([]byte("n"), 300_000)
	for _, nar := range [][]byte{ahead, now} {
		keep(d, nix.SumHash(nar).Nix32(), nar, 1<<16)
		d.wg.Wait()
	}
	d.Close()
	future := time.Now().Add(10_000 * time.Hour)
	if err := os.Chtimes(filepath.Join(dir, diskNars, nix.SumHash(ahead).Nix32()+".nar"), future, future); err != nil {
		t.Fatal(err)
	}
	d = openDisk(t, dir, 500_000)
	defer d.Close()
	if d.HasNar(nix.SumHash(ahead).Nix32()) || !d.HasNar(nix.SumHash(now).Nix32()) {
		t.Error("the wrong one is gone")
	}
}

// What lies in the place of a kept file is not waited for, as a named pipe would be.
func TestDiskReplaced(t *testing.T) {
	for what, replace := range map[string]func(name string) error{
		"pipe":      func(name string) error { return unix.Mkfifo(name, 0o600) },
		"directory": func(name string) error { return os.Mkdir(name, 0o700) },
		"nothing":   func(string) error { return nil },
	} {
		d := openDisk(t, t.TempDir(), 1<<20)
		nar := []byte("a NAR")
		hash := nix.SumHash(nar).Nix32()
		keep(d, hash, nar, len(nar))
		d.wg.Wait()
		d.PutNarInfo("abc", "text")
		for _, name := range []string{diskNars + "/" + hash + ".nar", diskInfos + "/abc.narinfo"} {
			name = filepath.Join(d.dir, name)
			if err := errors.Join(os.Remove(name), replace(name)); err != nil {
				t.Fatal(err)
			}
		}
		if readNar(t, d, hash, len(nar)) != nil || d.HasNar(hash) {
			t.Errorf("%s: a NAR is shown", what)
		}
		if text, ok := d.NarInfo("abc"); ok {
			t.Errorf("%s: a narinfo is shown: %q", what, text)
		}
		d.Close()
	}
}

// A reader does not wait for a disk that stands still: without the NAR on it, reads go on.
func TestDiskStandsStill(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		d := openDisk(t, dir, 1<<20)
		defer d.Close()
		s := d.newSpool(nix.SumHash(nil).Nix32(), 3000)
		s.begun, s.pieces, d.spools[s.hash] = true, make(chan spooled), s
		held := 0
		for off := range int64(3) {
			held++
			s.write([][]byte{make([]byte, 1000)}, 1000*off, func() { held-- })
		}
		if held > 0 || s.pieces != nil || len(d.spools) > 0 {
			t.Errorf("%d pieces are held, more are taken: %v", held, s.pieces != nil)
		}
		if !takes(d, s.hash, 3000) {
			t.Error("it cannot begin anew")
		}
	})
}

// When somebody removes the directory, what is read from then on is kept.
func TestDiskRemoved(t *testing.T) {
	d := openDisk(t, filepath.Join(t.TempDir(), "cache"), 1<<20)
	defer d.Close()
	nar := []byte("a NAR")
	hash := nix.SumHash(nar).Nix32()
	for range 2 {
		if readNar(t, d, hash, len(nar)) != nil || d.HasNar(hash) || d.UseNarInfo("abc") {
			t.Error("what is not there is shown")
		}
		keep(d, hash, nar, len(nar))
		d.wg.Wait()
		d.PutNarInfo("abc", "text")
		if text, ok := d.NarInfo("abc"); !ok || text != "text" || readNar(t, d, hash, len(nar)) == nil {
			t.Errorf("it is not kept; the narinfo is %q", text)
		}
		if err := os.RemoveAll(d.dir); err != nil {
			t.Fatal(err)
		}
	}
}
