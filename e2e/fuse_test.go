//go:build e2e

package e2e

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/drv-thru/drv-thru/core/cache"
	"github.com/drv-thru/drv-thru/core/nix"
	"github.com/drv-thru/drv-thru/e2e/lab"
	"github.com/drv-thru/drv-thru/fusecache"
)

// fuseEnv makes the test binary serve a mount instead of running tests: mounts
// have to survive their server, and be served from inside a host.
const fuseEnv = "DRV_THRU_TEST_FUSE"

func init() {
	if text := os.Getenv(fuseEnv); text != "" {
		if err := serveFuse(text); err != nil {
			fmt.Println("error:", err)
			os.Exit(1)
		}
		os.Exit(0)
	}
}

// fuseConfig says what a mount's server shows and how its builder behaves.
type fuseConfig struct {
	Dir   string
	Sizes []int64 // of the NARs
	// FreezeAt is the offset in every NAR after which the builder falls
	// silent; 0 means never.
	FreezeAt    int64
	ReadTimeout time.Duration
	AllowOther  bool
	// Ahead has all NARs fetched before anything is read.
	Ahead bool
	// Pipes, if set, is what the paths of named pipes begin with, as in an import.
	Pipes string
	// Disk, if set, is where NARs are kept that were read; their hashes are true
	// then.
	Disk string
}

func (c *fuseConfig) size(k int) int64 {
	if k < len(c.Sizes) {
		return c.Sizes[k]
	}
	return 1
}

// info is the k-th NAR's.
func (c *fuseConfig) info(k int, size int64) nix.PathInfo {
	info := fuseInfo(k, size)
	if c.Disk == "" {
		return info
	}
	h, pattern := sha256.New(), fusePattern()
	for left := size; left > 0; {
		n := min(left, 16<<20)
		h.Write(pattern[:n])
		left -= n
	}
	info.NarHash = nix.Hash(h.Sum(nil))
	return info
}

func fuseInfo(k int, size int64) nix.PathInfo {
	p, err := nix.ParsePath(fmt.Sprintf("/nix/store/%032d-nar", k))
	if err != nil {
		panic(err)
	}
	return nix.PathInfo{Path: p, NarHash: nix.SumHash([]byte(p)), NarSize: uint64(size)}
}

// fuseByte is what stands at an offset of every NAR.
func fuseByte(off int64) byte { return byte(off ^ off>>8 ^ off>>16) }

// fusePattern repeats from 16 MiB on, so that whole pieces can be copied.
var fusePattern = func() []byte {
	b := make([]byte, 17<<20)
	for i := range b {
		b[i] = fuseByte(int64(i) & (16<<20 - 1))
	}
	return b
}

// serveFuse mounts a View and obeys the lines on standard input: "add" shows a
// NAR more, "unmount" ends.
func serveFuse(text string) error {
	var c fuseConfig
	if err := json.Unmarshal([]byte(text), &c); err != nil {
		return err
	}
	f := &fuseBuilder{sizes: map[string]uint64{}, freezeAt: c.FreezeAt, pattern: fusePattern()}
	narInfo := func(k int, size int64) string {
		info := c.info(k, size)
		f.sizes[info.NarHash.Nix32()] = info.NarSize
		return string(info.MarshalNarInfo())
	}
	var texts []string
	for k, size := range c.Sizes {
		texts = append(texts, narInfo(k, size))
	}
	view, err := cache.NewView(texts, cache.ViewConfig{Fetcher: f, ReadTimeout: c.ReadTimeout})
	if err != nil {
		return err
	}
	if err := fusecache.Available(); err != nil {
		return err
	}
	o := fusecache.Options{AllowOther: c.AllowOther, Pipes: c.Pipes, Logger: slog.New(slog.NewTextHandler(os.Stdout, nil))}
	if c.Disk != "" {
		if o.Disk, err = fusecache.OpenDisk(c.Disk, 8<<30, o.Logger); err != nil {
			return err
		}
		defer o.Disk.Close()
	}
	m, err := fusecache.Mount(view, c.Dir, o)
	if err != nil {
		return err
	}
	if c.Ahead {
		view.RunAhead(nil)
		for view.Stats().Fetched < uint64(c.Sizes[0]) {
			<-time.After(time.Millisecond)
		}
	}
	fmt.Println("mounted")
	lines := bufio.NewScanner(os.Stdin)
	for lines.Scan() {
		switch lines.Text() {
		case "add":
			if err := view.Add([]string{narInfo(len(c.Sizes), 1000)}); err != nil {
				return err
			}
			fmt.Println("added")
		case "unmount":
			if err := m.Unmount(); err != nil {
				return err
			}
			select {
			case <-m.Done():
			default:
				return errors.New("still served after Unmount")
			}
			fmt.Println("unmounted")
			if err := view.Close(); err != nil {
				return err
			}
			if err := view.Err(); err != nil {
				fmt.Println("failed:", err)
			}
			return nil
		}
	}
	return lines.Err()
}

// fuseBuilder is a builder that may fall silent.
type fuseBuilder struct {
	sizes    map[string]uint64
	freezeAt int64
	pattern  []byte
}

func (f *fuseBuilder) Fetch(ctx context.Context, ranges []cache.NarRange) (cache.Stream, error) {
	return &fuseStream{f: f, ctx: ctx, ranges: ranges, next: 0}, nil
}

type fuseStream struct {
	f         *fuseBuilder
	ctx       context.Context
	ranges    []cache.NarRange
	next      int
	off, left int64
}

func (s *fuseStream) Next() (cache.Frame, error) {
	if s.next == len(s.ranges) {
		return cache.Frame{}, io.EOF
	}
	r := s.ranges[s.next]
	s.off = int64(r.Offset)
	s.left = int64(s.f.sizes[r.NarHash] - r.Offset)
	s.next++
	return cache.Frame{Index: s.next - 1, Size: uint64(s.left)}, nil
}

func (s *fuseStream) Read(p []byte) (int, error) {
	if s.left == 0 {
		return 0, io.EOF
	}
	if at := s.f.freezeAt; at > 0 {
		if s.off >= at {
			<-s.ctx.Done()
			return 0, s.ctx.Err()
		}
		p = p[:min(int64(len(p)), at-s.off)]
	}
	n := copy(p[:min(int64(len(p)), s.left)], s.f.pattern[s.off&(16<<20-1):])
	s.off += int64(n)
	s.left -= int64(n)
	return n, nil
}

func (s *fuseStream) Close() error { return nil }

// fuseMount is a mount in a host, with its server.
type fuseMount struct {
	*lab.Process
	t     testing.TB
	h     *lab.Host
	c     fuseConfig
	stdin io.WriteCloser
}

func newFuseHost(t testing.TB) *lab.Host {
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return lab.NewHost(t, lab.Trixie, lab.WithBind(filepath.Dir(exe), "/opt/test"))
}

func startFuse(t testing.TB, h *lab.Host, user string, c fuseConfig) *fuseMount {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	text, err := json.Marshal(c)
	if err != nil {
		t.Fatal(err)
	}
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { w.Close() })
	cmd := h.Command(user, "/opt/test/"+filepath.Base(exe)).AddEnv(fuseEnv + "=" + string(text))
	cmd.Stdin = r
	m := &fuseMount{h.StartCmd(cmd), t, h, c, w}
	r.Close()
	m.WaitFor("(?m)^mounted$", patience)
	return m
}

func (m *fuseMount) tell(line, answer string) {
	m.t.Helper()
	if _, err := fmt.Fprintln(m.stdin, line); err != nil {
		m.t.Fatal(err)
	}
	m.WaitFor("(?m)^"+answer+"$", patience)
}

// unmount has the server unmount, and checks that it ends and nothing stays.
func (m *fuseMount) unmount() {
	m.t.Helper()
	m.tell("unmount", "unmounted")
	if err := m.Wait(patience); err != nil {
		m.t.Errorf("server: %v", err)
	}
	m.gone()
}

func (m *fuseMount) gone() {
	m.t.Helper()
	if points := m.h.FuseMounts(); len(points) > 0 {
		m.t.Errorf("still mounted: %v", points)
	}
}

// nar is the name of the k-th NAR inside the host.
func (m *fuseMount) nar(k int) string {
	return m.c.Dir + "/" + nix.NarURL(m.c.info(k, m.c.size(k)).NarHash)
}

// outside is a name of the host as this process sees it.
func (m *fuseMount) outside(name string) string { return rootOf(m.h) + name }

func TestFuseReads(t *testing.T) {
	h := newFuseHost(t)
	sizes := []int64{1, 4096, 100_000, 300_000, 90 << 20}
	m := startFuse(t, h, lab.RootUser, fuseConfig{Dir: "/run/view", Sizes: sizes})
	view := os.DirFS(m.outside("/run/view"))

	var names []string
	err := fs.WalkDir(view, ".", func(name string, _ fs.DirEntry, err error) error {
		names = append(names, name)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	want := []string{".", "build-trace-v2", "log", "nar", "nix-cache-info", "realisations"}
	for k, size := range sizes {
		info := fuseInfo(k, size)
		want = append(want, nix.NarInfoURL(info.Path), nix.NarURL(info.NarHash))
		if text, err := fs.ReadFile(view, nix.NarInfoURL(info.Path)); string(text) != string(info.MarshalNarInfo()) {
			t.Errorf("narinfo: %q, %v", text, err)
		}
	}
	slices.Sort(want)
	slices.Sort(names)
	if !slices.Equal(names, want) {
		t.Errorf("names %q, want %q", names, want)
	}

	buf := make([]byte, 1<<20)
	for _, piece := range []int{64 << 10, 1 << 20} {
		for k, size := range sizes {
			f, err := os.Open(m.outside(m.nar(k)))
			if err != nil {
				t.Fatal(err)
			}
			var off int64
			for {
				n, err := f.Read(buf[:piece])
				for i, b := range buf[:n] {
					if b != fuseByte((off+int64(i))&(16<<20-1)) {
						t.Fatalf("NAR %d: wrong byte at %d", k, off+int64(i))
					}
				}
				off += int64(n)
				if err == io.EOF {
					break
				}
				if err != nil {
					t.Fatal(err)
				}
			}
			if off != size {
				t.Errorf("read %d bytes of %d", off, size)
			}
			f.Close()
		}
	}

	// A shared mapping must be refused: Nix then reads.
	f, err := os.Open(m.outside(m.nar(4)))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := unix.Mmap(int(f.Fd()), 0, 4096, unix.PROT_READ, unix.MAP_SHARED); err != unix.ENODEV {
		t.Errorf("mmap: %v", err)
	}
	f.Close()
	if err := os.WriteFile(m.outside("/run/view/new"), nil, 0o600); !errors.Is(err, unix.EROFS) {
		t.Errorf("write: %v", err)
	}
	for _, name := range []string{"nope", "nar/nope", "nix-cache-info/nope", "log/nope", strings.Repeat("x", 300)} {
		if _, err := os.Stat(m.outside("/run/view/" + name)); err == nil {
			t.Errorf("%s is there", name)
		}
	}
	info, err := h.ReadFile("/proc/1/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(info)) {
		if strings.Contains(line, "/run/view") && !strings.Contains(line, "ro,nosuid,nodev,noexec") {
			t.Errorf("mount options: %s", line)
		}
	}
	m.unmount()
}

// What is not there is asked for again each time: paths appear while it is
// mounted.
func TestFuseNegativeEntriesAreNotCached(t *testing.T) {
	h := newFuseHost(t)
	m := startFuse(t, h, lab.RootUser, fuseConfig{Dir: "/run/view", Sizes: []int64{10}})
	late := fuseInfo(1, 1000)
	names := []string{m.outside("/run/view/" + nix.NarInfoURL(late.Path)), m.outside(m.nar(1))}
	for range 2 {
		for _, name := range names {
			if _, err := os.Stat(name); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("stat: %v", err)
			}
		}
	}
	m.tell("add", "added")
	for _, name := range names {
		if data, err := os.ReadFile(name); err != nil || len(data) == 0 {
			t.Errorf("%d bytes, %v", len(data), err)
		}
	}
	list, err := os.ReadDir(m.outside("/run/view/nar"))
	if err != nil || len(list) != 2 {
		t.Errorf("%v, %v", list, err)
	}
	m.unmount()
}

// A server that was killed leaves a mount that answers nothing; the next one
// clears it, whatever the directory's name is, and though it is reached by a link.
func TestFuseStaleMount(t *testing.T) {
	h := newFuseHost(t)
	for _, user := range []string{lab.RootUser, lab.Alice} {
		c := fuseConfig{Dir: "/tmp/view-" + user, Sizes: []int64{100_000}}
		odd := "/tmp/ \u3000\u65b0-" + user
		h.Run(user, "mkdir", odd)
		h.Run(user, "ln", "-s", odd, c.Dir)
		m := startFuse(t, h, user, c)
		m.Kill()
		if len(h.FuseMounts()) != 1 {
			t.Error("no stale mount")
		}
		m = startFuse(t, h, user, c)
		h.Run(user, "cat", m.nar(0))
		m.unmount()
	}
}

// readFails reads in the host and wants the given complaint of cat.
func (m *fuseMount) readFails(p *lab.Process, want string) {
	m.t.Helper()
	if err := p.Wait(patience); lab.ExitCode(err) != 1 || !strings.Contains(p.Output(), want) {
		m.t.Errorf("cat: %v, %q; want %q", err, tailOf(p.Output()), want)
	}
}

func tailOf(s string) string { return s[max(0, len(s)-200):] }

// startReader starts a process that reads a NAR and waits until it is stuck at
// the offset where the builder has fallen silent.
func (m *fuseMount) startReader(user string) *lab.Process {
	m.t.Helper()
	p := m.h.Start(user, "cat", m.nar(0))
	deadline := time.Now().Add(patience)
	for p.Written() < m.c.FreezeAt {
		if time.Now().After(deadline) {
			m.t.Fatalf("the reader has got %d bytes of %d", p.Written(), m.c.FreezeAt)
		}
		select {
		case <-p.Done():
			m.t.Fatalf("the reader has ended: %q", tailOf(p.Output()))
		case <-time.After(10 * time.Millisecond):
		}
	}
	return p
}

// Who has opened a small file that is here has all of it: nobody is asked for its
// bytes any more.
func TestFuseGivesSmallFiles(t *testing.T) {
	h := newFuseHost(t)
	m := startFuse(t, h, lab.RootUser, fuseConfig{Dir: "/run/view", Sizes: []int64{20_000}, Ahead: true})
	for name, want := range map[string]int{m.outside(m.nar(0)): 20_000, m.outside("/run/view/" + nix.NarInfoURL(m.c.info(0, 20_000).Path)): 0} {
		f, err := os.Open(name)
		if err != nil {
			t.Fatal(err)
		}
		m.Signal(syscall.SIGSTOP)
		read := make(chan []byte)
		go func() {
			data, err := io.ReadAll(f)
			if err != nil {
				t.Error(err)
			}
			read <- data
		}()
		select {
		case data := <-read:
			if len(data) == 0 || want > 0 && len(data) != want {
				t.Errorf("%s: %d bytes", name, len(data))
			}
			for i := range want {
				if data[i] != fuseByte(int64(i)) {
					t.Fatalf("byte %d is wrong", i)
				}
			}
		case <-time.After(patience):
			t.Errorf("%s: reading asks for bytes", name)
			m.Signal(syscall.SIGCONT)
			<-read
		}
		m.Signal(syscall.SIGCONT)
		_ = f.Close()
	}
	m.unmount()
}

func TestFuseFrozenBuilder(t *testing.T) {
	h := newFuseHost(t)
	c := fuseConfig{Dir: "/run/view", Sizes: []int64{10 << 20}, FreezeAt: 5 << 20, ReadTimeout: 3 * time.Second}

	m := startFuse(t, h, lab.RootUser, c)
	p := m.startReader(lab.RootUser)
	m.readFails(p, "Input/output error")
	m.tell("unmount", "unmounted")
	m.WaitFor(`failed: read nar/.*: no data from the builder for 3s`, patience)

	// Whoever is stuck can be killed.
	c.ReadTimeout = time.Hour
	m = startFuse(t, h, lab.RootUser, c)
	p = m.startReader(lab.RootUser)
	p.Signal(syscall.SIGKILL)
	if err := p.Wait(patience); err == nil {
		t.Error("the reader has ended by itself")
	}
	m.unmount()
}

func TestFuseUnmountWithPendingReads(t *testing.T) {
	h := newFuseHost(t)
	for _, user := range []string{lab.RootUser, lab.Alice} {
		m := startFuse(t, h, user, fuseConfig{
			Dir: "/tmp/view-" + user, Sizes: []int64{10 << 20}, FreezeAt: 5 << 20, ReadTimeout: time.Hour,
		})
		var readers []*lab.Process
		for range 5 {
			readers = append(readers, m.startReader(user))
		}
		m.unmount()
		for _, p := range readers {
			m.readFails(p, "cat: ")
		}
	}
}

// Processes that sit in the mount or hold files open do not keep it.
func TestFuseUnmountWhileInUse(t *testing.T) {
	h := newFuseHost(t)
	for _, user := range []string{lab.RootUser, lab.Alice} {
		m := startFuse(t, h, user, fuseConfig{Dir: "/tmp/view-" + user, Sizes: []int64{10 << 20}})
		p := h.Start(user, "sh", "-c", "cd "+m.c.Dir+"/nar && exec 3<"+m.nar(0)+" && head -c 100000 <&3 >/dev/null && echo holding && read x; cat <&3")
		p.WaitFor("holding", patience)
		m.unmount()
		p.Signal(syscall.SIGKILL)
		p.Wait(patience)
	}
}

// What somebody else has mounted in its place stays when it ends, and what was mounted
// over it is not taken for it either.
func TestFuseUnmountsItsOwn(t *testing.T) {
	for name, before := range map[string]string{"place": "umount $DIR", "over": "true"} {
		t.Run(name, func(t *testing.T) {
			h := newFuseHost(t) // below what lies over it, the mount stays
			m := startFuse(t, h, lab.RootUser, fuseConfig{Dir: "/tmp/view-" + name, Sizes: []int64{100_000}})
			h.Shell(lab.RootUser, "DIR="+m.c.Dir+"; "+before+" && mount -t tmpfs tmpfs $DIR && touch $DIR/here")
			m.tell("unmount", "unmounted")
			if err := m.Wait(patience); err != nil {
				t.Errorf("server: %v", err)
			}
			h.Shell(lab.RootUser, "test -e "+m.c.Dir+"/here && umount "+m.c.Dir)
			if name == "place" {
				m.gone()
			}
		})
	}
}

// When a directory above it was renamed, it is taken away where it is now.
func TestFuseUnmountsWhereItIs(t *testing.T) {
	h := newFuseHost(t)
	for _, user := range []string{lab.RootUser, lab.Alice} {
		above := "/tmp/above-" + user
		h.Run(user, "mkdir", above)
		m := startFuse(t, h, user, fuseConfig{Dir: above + "/view", Sizes: []int64{100_000}})
		h.Run(user, "mv", above, above+" now")
		m.unmount()
	}
}

// An ordinary user mounts through fusermount3; others are let in only on
// request.
func TestFuseAsUser(t *testing.T) {
	h := newFuseHost(t)
	for _, other := range []bool{false, true} {
		m := startFuse(t, h, lab.Alice, fuseConfig{Dir: "/tmp/view", Sizes: []int64{3 << 20}, AllowOther: other})
		cat := func(user string) (*bytes.Buffer, error) {
			var out bytes.Buffer
			cmd := h.Command(user, "cat", m.nar(0))
			cmd.Stdout = &out
			return &out, cmd.Run()
		}
		if out, err := cat(lab.Alice); err != nil || out.Len() != 3<<20 {
			t.Errorf("alice: %d bytes, %v", out.Len(), err)
		}
		// The directory is Alice's alone; the mount itself is what counts.
		if out, err := cat(lab.BuilderUser); (err == nil) != other || other && out.Len() != 3<<20 {
			t.Errorf("builder, allow_other %v: %d bytes, %v", other, out.Len(), err)
		}
		m.unmount()
	}
}

// What was read whole is kept, checked, and then comes from this machine's disk
// and the kernel's cache, where it can be mapped.
func TestFuseKeepsWhatWasRead(t *testing.T) {
	h := newFuseHost(t)
	m := startFuse(t, h, lab.RootUser, fuseConfig{Dir: "/run/view", Sizes: []int64{20 << 20}, Disk: "/var/tmp/kept"})
	kept := m.outside("/var/tmp/kept/nar/" + filepath.Base(m.nar(0)))
	read := func() {
		t.Helper()
		data, err := os.ReadFile(m.outside(m.nar(0)))
		if err != nil || len(data) != 20<<20 || !bytes.Equal(data[16<<20:], data[:4<<20]) || data[12345] != fuseByte(12345) {
			t.Errorf("%d bytes, %v", len(data), err)
		}
	}
	read()
	eventually(t, "the NAR is kept", func() bool { _, err := os.Stat(kept); return err == nil })
	read()
	f, err := os.Open(m.outside(m.nar(0)))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	mapped, err := unix.Mmap(int(f.Fd()), 0, 20<<20, unix.PROT_READ, unix.MAP_SHARED)
	if err != nil {
		t.Fatalf("mmap: %v", err)
	}
	if mapped[19<<20] != fuseByte(3<<20) {
		t.Error("the mapping has a wrong byte")
	}
	if err := unix.Munmap(mapped); err != nil {
		t.Error(err)
	}
	f.Close()
	m.unmount()
}
