package fusecache

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"github.com/drv-thru/drv-thru/core/cache"
)

const (
	// fsName is what mount(8) and df(1) show: type fuse.drv-thru.
	fsName = "drv-thru"
	// maxRead is the largest request. Nix reads 64 KiB at a time; larger
	// ones cost go-fuse a larger buffer for each reader of the device.
	maxRead = 512 << 10
	// unmountTime is how long each step of an unmount may take.
	unmountTime = 5 * time.Second
	// aliveTime is how long the server of a mount may take to show itself.
	aliveTime = 2 * time.Second
)

// Mounted is a View that is mounted.
type Mounted struct {
	served
	dir string
	// on is what the kernel lists; the device is 0:<number of the connection>.
	on mountPoint

	once sync.Once
	err  error
}

// Mount mounts the View on dir, which is made when it is missing, read-only,
// nosuid, nodev and noexec. A stale mount on dir is cleared first. Root mounts
// by itself, everybody else through fusermount3.
//
// Nothing here looks into the mount once it stands: a process that waits for its
// own answer cannot be killed. (go-fuse's Server.WaitMount does look.)
func Mount(view *cache.View, dir string, o Options) (*Mounted, error) {
	if err := ClearStale(dir); err != nil {
		return nil, err
	}
	mode := fs.FileMode(0o700)
	if o.AllowOther {
		mode = 0o755
	}
	full, err := resolve(dir)
	if err != nil {
		return nil, fmt.Errorf("mount: %w", err)
	}
	if mountOn(full).fsType != "" {
		return nil, fmt.Errorf("mount: something is mounted on %s already", full)
	}
	if err := os.MkdirAll(full, mode); err != nil {
		return nil, fmt.Errorf("mount: %w", err)
	}
	// What was missing before may lie behind symbolic links.
	if full, err = resolve(full); err != nil {
		return nil, fmt.Errorf("mount: %w", err)
	}
	if o.Disk != nil {
		// Through the mount it would wait for its own answers.
		kept, err := resolve(o.Disk.dir)
		if err != nil {
			return nil, fmt.Errorf("mount: %w", err)
		}
		if kept == full || strings.HasPrefix(kept, strings.TrimSuffix(full, "/")+"/") {
			return nil, fmt.Errorf("mount: %s, which keeps what was read, would be hidden below %s", kept, full)
		}
	}
	if err := o.available(); err != nil {
		return nil, err
	}
	m := &Mounted{dir: full, served: newServed(view, o)}
	if o.Pipes != "" {
		if m.fs.pipes, err = newPipes(view, o.Pipes); err != nil {
			m.logger.Info("large NARs are read as files", "err", err)
		}
	}
	options := m.mountOptions()
	options.FsName, options.Name = fsName, fsName
	options.AllowOther = o.AllowOther
	options.Options = []string{"ro", "nosuid", "nodev", "noexec", "default_permissions"}
	options.DirectMountStrict = os.Geteuid() == 0
	options.DirectMountFlags = unix.MS_RDONLY | unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC
	hides := occupied(full)
	if err := m.serve(full, options); err != nil {
		return nil, fmt.Errorf("mount on %s: %w", full, err)
	}
	m.on = mountOn(full)
	if hides {
		m.logger.Warn("the directory is not empty; what is in it is hidden until this is unmounted", "dir", full)
	}
	return m, nil
}

// occupied reports whether there is anything in a directory.
func occupied(dir string) bool {
	f, err := os.Open(dir)
	if err != nil {
		return false
	}
	defer f.Close()
	names, _ := f.Readdirnames(1)
	return len(names) > 0
}

// served is a View that is served to the kernel.
type served struct {
	fs     *fileSystem
	done   chan struct{}
	logger *slog.Logger
}

func newServed(view *cache.View, o Options) served {
	logger := o.Logger
	if logger == nil {
		logger = slog.New(slog.DiscardHandler)
	}
	return served{fs: newFileSystem(view, o), done: make(chan struct{}), logger: logger}
}

func (s *served) mountOptions() *fuse.MountOptions {
	return &fuse.MountOptions{
		MaxWrite:           maxRead,
		MaxReadAhead:       maxRead,
		MaxBackground:      64,
		DisableXAttrs:      true,
		DisableReadDirPlus: s.fs.pipes == nil,
		Logger:             log.New(logWriter{s.logger}, "", 0),
	}
}

// serve begins to serve what is mounted on a directory, or on the descriptor that
// /dev/fd/N names. The kernel has greeted the file system when it returns.
func (s *served) serve(on string, options *fuse.MountOptions) error {
	server, err := fuse.NewServer(s.fs, on, options)
	if err != nil {
		close(s.done)
		// Of fusermount, which has said why, go-fuse's ends in a line break.
		return errors.New(strings.TrimSpace(err.Error()))
	}
	go func() {
		defer close(s.done)
		server.Serve()
	}()
	return nil
}

// Device is a View that is served on a mount of somebody else's.
type Device struct{ served }

// ServeDevice serves the View on a descriptor of /dev/fuse that is mounted
// already. The descriptor belongs to the Device from now on, whatever happens.
func ServeDevice(view *cache.View, fd int, o Options) (*Device, error) {
	d := &Device{newServed(view, o)}
	if err := d.serve("/dev/fd/"+strconv.Itoa(fd), d.mountOptions()); err != nil {
		return nil, fmt.Errorf("serve FUSE device: %w", err)
	}
	return d, nil
}

// Done is closed when nobody has it mounted any more.
func (d *Device) Done() <-chan struct{} { return d.done }

// Close fails all reads, those that wait and those to come. Who has mounted it
// unmounts it.
func (d *Device) Close() { d.fs.close() }

// Dir returns the mount's directory, absolute.
func (m *Mounted) Dir() string { return m.dir }

// URL returns the binary cache's URL for Nix, a [FileURL].
func (m *Mounted) URL() string { return FileURL(m.dir) }

// Done is closed when the file system is served no more: after Unmount, or when
// somebody else has unmounted it.
func (m *Mounted) Done() <-chan struct{} { return m.done }

// Unmount fails all reads and takes the file system away, also from processes
// that still use it. It returns when it is served no more. The View stays open.
// What somebody else has mounted there meanwhile stays.
func (m *Mounted) Unmount() error {
	m.once.Do(func() { m.err = m.unmount() })
	return m.err
}

func (m *Mounted) unmount() error {
	m.fs.close()
	if m.ended(0) {
		// What is there is dead, or somebody else's.
		return ClearStale(m.dir)
	}
	dir := m.where()
	var err error
	for pause := 5 * time.Millisecond; pause < 100*time.Millisecond; pause *= 2 {
		if !m.mounted(dir) {
			break
		}
		if err = unmount(dir, false); err == nil || !m.mounted(dir) {
			break
		}
		// A process that has just ended may not have closed its files yet.
		if m.ended(pause) {
			break
		}
	}
	if m.mounted(dir) {
		m.logger.Info("mount is busy, taking it away", "dir", dir, "err", err)
		err = unmount(dir, true)
	} else {
		err = nil
	}
	if m.ended(50 * time.Millisecond) {
		return err
	}
	// Who still holds a file open gets ENOTCONN from now on.
	if abortErr := m.abort(); abortErr != nil {
		m.logger.Info("cannot abort the FUSE connection", "dir", dir, "err", abortErr)
	}
	if !m.ended(unmountTime) {
		return errors.Join(err, fmt.Errorf("unmount %s: its files are still in use", dir))
	}
	return err
}

// where returns the directory that it is on now: those above may have other names since.
func (m *Mounted) where() string {
	dir := m.dir
	for _, p := range mountPoints() {
		if !m.is(p) {
			continue
		}
		if p.dir == m.dir {
			return m.dir
		}
		dir = p.dir
	}
	return dir
}

// mounted reports whether it is what lies on a directory.
func (m *Mounted) mounted(dir string) bool { return m.is(mountOn(dir)) }

// is reports whether p is this mount. The kernel gives the numbers of devices that are
// gone to others.
func (m *Mounted) is(p mountPoint) bool {
	return m.on.fsType != "" && p.fsType == m.on.fsType && p.device == m.on.device
}

// ended reports whether the file system is served no more, waiting at most d.
func (m *Mounted) ended(d time.Duration) bool {
	select {
	case <-m.done:
		return true
	default:
	}
	select {
	case <-m.done:
		return true
	case <-time.After(d):
		return false
	}
}

// abort ends the connection to the kernel (Linux
// Documentation/filesystems/fuse.rst, "Control filesystem").
func (m *Mounted) abort() error {
	_, number, ok := strings.Cut(m.on.device, ":")
	if !ok {
		return errors.New("its number is unknown")
	}
	return os.WriteFile("/sys/fs/fuse/connections/"+number+"/abort", []byte("1"), 0)
}

// ClearStale takes away mounts on dir whose server is gone ("transport endpoint
// is not connected"). It is no error if there is none.
func ClearStale(dir string) error {
	dir, err := resolve(dir)
	if err != nil {
		return fmt.Errorf("clear stale mount: %w", err)
	}
	for range 8 { // mounts may lie on each other
		if !strings.HasPrefix(mountOn(dir).fsType, "fuse") || alive(dir) {
			return nil
		}
		if err := unmount(dir, true); err != nil {
			return fmt.Errorf("clear stale mount: %w", err)
		}
	}
	return fmt.Errorf("clear stale mount: too many on %s", dir)
}

// alive reports whether somebody serves the FUSE mount on dir. It asks for what
// the kernel never answers by itself: a directory's attributes outlive the
// server. A server that does not answer is alive, as it may go on.
func alive(dir string) bool {
	answer := make(chan error, 1)
	go func() {
		var st unix.Statfs_t
		answer <- unix.Statfs(dir, &st)
	}()
	select {
	case err := <-answer:
		return !errors.Is(err, unix.ENOTCONN) && !errors.Is(err, unix.ECONNABORTED)
	case <-time.After(aliveTime):
		return true
	}
}

// maxLinks is how many symbolic links may lead from one to the next, as in the kernel
// (path_resolution(7)).
const maxLinks = 40

// resolve makes dir absolute and free of symbolic links, as the kernel lists
// it, without looking at what is mounted on it.
func resolve(dir string) (string, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return "", err
	}
	for range maxLinks {
		parent, err := filepath.EvalSymlinks(filepath.Dir(dir))
		switch {
		case errors.Is(err, fs.ErrNotExist):
			return dir, nil
		case err != nil:
			return "", err
		}
		dir = filepath.Join(parent, filepath.Base(dir))
		target, err := os.Readlink(dir)
		if err != nil {
			return dir, nil
		}
		if !filepath.IsAbs(target) {
			target = filepath.Join(parent, target)
		}
		dir = filepath.Clean(target)
	}
	return "", &fs.PathError{Op: "resolve", Path: dir, Err: unix.ELOOP}
}

// unmount unmounts dir as root or through fusermount3; lazily, it succeeds
// while files are open.
func unmount(dir string, lazy bool) error {
	flags, option := unix.UMOUNT_NOFOLLOW, "-u"
	if lazy {
		// MNT_FORCE ends the connection too, so that whoever waits for an answer is
		// free (fs/fuse/inode.c, fuse_umount_begin).
		flags, option = flags|unix.MNT_DETACH|unix.MNT_FORCE, "-uz"
	}
	err := unix.Unmount(dir, flags)
	if err == nil || os.Geteuid() == 0 {
		if err != nil {
			err = fmt.Errorf("unmount %s: %w", dir, err)
		}
		return err
	}
	bin, err := fusermount()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), unmountTime)
	defer cancel()
	cmd := exec.CommandContext(ctx, bin, option, "--", dir)
	cmd.WaitDelay = time.Second
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("unmount %s: %w: %s", dir, err, strings.TrimSpace(string(out)))
	}
	return nil
}

// mountPoint is a directory on which a file system is mounted, of a type and with a device.
type mountPoint struct{ dir, fsType, device string }

// mountOn returns what is mounted on dir, of several mounts the last; of no type when
// there is none.
func mountOn(dir string) (last mountPoint) {
	for _, p := range mountPoints() {
		if p.dir == dir {
			last = p
		}
	}
	return last
}

// mountPoints asks the kernel what is mounted, as looking at a directory would wait for
// whoever serves it.
func mountPoints() []mountPoint {
	list, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil
	}
	return parseMounts(string(list))
}

// parseMounts reads mountinfo (proc(5)): ID, parent, device, root, mount point,
// options, optional fields, "-", type, source, options.
func parseMounts(list string) []mountPoint {
	var points []mountPoint
	for line := range strings.Lines(list) {
		before, after, ok := strings.Cut(line, " - ")
		// Of what is blank in Unicode, the kernel escapes a few characters only.
		f := strings.Split(before, " ")
		if fsType, _, _ := strings.Cut(after, " "); ok && len(f) > 4 {
			points = append(points, mountPoint{unescape(f[4]), fsType, f[2]})
		}
	}
	return points
}

// unescape undoes the kernel's octal escapes of white space and backslash.
func unescape(s string) string {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+3 < len(s) {
			if c, err := strconv.ParseUint(s[i+1:i+4], 8, 8); err == nil {
				b.WriteByte(byte(c))
				i += 3
				continue
			}
		}
		b.WriteByte(s[i])
	}
	return b.String()
}

// logWriter passes on what go-fuse logs.
type logWriter struct{ logger *slog.Logger }

func (w logWriter) Write(p []byte) (int, error) {
	w.logger.Warn("fuse: " + strings.TrimSpace(string(p)))
	return len(p), nil
}
