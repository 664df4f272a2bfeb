//go:build e2e

package e2e

import (
	"bytes"
	"fmt"
	"os"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/drv-thru/drv-thru/core/nix"
	"github.com/drv-thru/drv-thru/e2e/lab"
)

// After the mount of an import has been listed, everything small in it is read without
// a question to whoever serves it.
func TestFuseAnswersAhead(t *testing.T) {
	h := newFuseHost(t)
	m := startFuse(t, h, lab.RootUser, fuseConfig{Dir: "/run/view", Pipes: "/run/view.pipe", Sizes: []int64{200_000, 20_000, 1 << 20, 5}, Ahead: true})
	h.Run(lab.RootUser, "sh", "-c", ": /run/view/* /run/view/nar/*")
	for k, size := range m.c.Sizes {
		info := "/run/view/" + nix.NarInfoURL(m.c.info(k, size).Path)
		awaitCached(t, m.outside(info))
		if size < 256<<10 {
			awaitCached(t, m.outside(m.nar(k)))
		}
	}
	m.Signal(syscall.SIGSTOP)
	read := make(chan error, 1)
	go func() {
		for k, size := range m.c.Sizes {
			info, err := os.ReadFile(m.outside("/run/view/" + nix.NarInfoURL(m.c.info(k, size).Path)))
			if err == nil && !bytes.Contains(info, fmt.Appendf(nil, "NarSize: %d\n", size)) {
				err = fmt.Errorf("narinfo %q", info)
			}
			if err == nil && size < 256<<10 {
				err = checkNar(m.outside(m.nar(k)), size)
			}
			if err != nil {
				read <- fmt.Errorf("NAR of %d bytes: %w", size, err)
				return
			}
		}
		read <- nil
	}()
	select {
	case err := <-read:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(patience):
		t.Error("a read asks for bytes")
	}
	m.Signal(syscall.SIGCONT)
	h.Run(lab.RootUser, "sh", "-c", fmt.Sprintf("cat %s | cmp -n %d - %s", m.nar(2), 200_000, m.nar(0)))
	m.unmount()
}

// Files of an import that nobody has listed, or whose bytes come late or never, are read
// as any others.
func TestFuseUnopened(t *testing.T) {
	h := newFuseHost(t)
	c := fuseConfig{Dir: "/run/view", Pipes: "/run/view.pipe", Sizes: []int64{200_000, 20_000, 5}}
	m := startFuse(t, h, lab.RootUser, c)
	for k, size := range c.Sizes {
		for range 2 {
			if err := checkNar(m.outside(m.nar(k)), size); err != nil {
				t.Errorf("NAR of %d bytes: %v", size, err)
			}
		}
	}
	m.unmount()

	c.FreezeAt, c.ReadTimeout = 50_000, 3*time.Second
	m = startFuse(t, h, lab.RootUser, c)
	h.Run(lab.RootUser, "sh", "-c", ": /run/view/* /run/view/nar/*")
	m.readFails(h.Start(lab.RootUser, "cat", m.nar(0)), "Input/output error")
	if err := checkNar(m.outside(m.nar(1)), 20_000); err != nil {
		t.Error(err)
	}
	m.tell("unmount", "unmounted")
	m.WaitFor(`failed: read nar/.*: no data from the builder for 3s`, patience)

	c.ReadTimeout = time.Hour
	m = startFuse(t, h, lab.RootUser, c)
	p := h.Start(lab.RootUser, "cat", m.nar(0))
	p.Signal(syscall.SIGKILL)
	if err := p.Wait(patience); err == nil {
		t.Error("the reader has ended by itself")
	}
	m.unmount()
}

// checkNar reads a NAR of this size and compares.
func checkNar(name string, size int64) error {
	data, err := os.ReadFile(name)
	if err != nil {
		return err
	}
	if !bytes.Equal(data, fusePattern()[:size]) {
		return fmt.Errorf("other bytes, %d of them", len(data))
	}
	return nil
}

// awaitCached waits until the kernel has all of a file in its page cache.
func awaitCached(t *testing.T, name string) {
	t.Helper()
	f, err := os.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	mapped, err := unix.Mmap(int(f.Fd()), 0, int(info.Size()), unix.PROT_READ, unix.MAP_SHARED)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Munmap(mapped)
	resident := make([]byte, (len(mapped)+os.Getpagesize()-1)/os.Getpagesize())
	for deadline := time.Now().Add(patience); ; time.Sleep(time.Millisecond) {
		// mincore(2): the lowest bit of each byte tells of a page.
		if _, _, errno := unix.Syscall(unix.SYS_MINCORE, uintptr(unsafe.Pointer(&mapped[0])), uintptr(len(mapped)), uintptr(unsafe.Pointer(&resident[0]))); errno != 0 {
			t.Fatal(errno)
		}
		missing := 0
		for _, r := range resident {
			missing += int(1 - r&1)
		}
		if missing == 0 {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%d of %d pages of %s were not given", missing, len(resident), name)
		}
	}
}
