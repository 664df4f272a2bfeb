//go:build linux

package lab

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/signal"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// initName is the argv[0] that makes a binary which links this package act as
// the init process of a host.
const initName = "drv-thru-lab-init"

// initSpec tells the init process what to make. It travels as argv[1].
type initSpec struct {
	Name     string // host name
	Root     string // directory of the root file system, used read-only
	Work     string // an empty directory to assemble the new root on
	Loopback bool   // bring up lo: the network namespace is new
	Binds    []bind // further directories of the machine
	Boot     bool   // start the root's own systemd: see machine.go
	Net      string // the network namespace to enter instead, a file of /proc
}

type bind struct {
	From, To string
	Writable bool
}

// The re-execution happens before any test or main function runs, because the
// process must not do anything but be the parent of a host.
func init() {
	if len(os.Args) == 2 && os.Args[0] == initName {
		os.Exit(initMain(os.Args[1], os.Stdin, os.Stdout))
	}
}

// initMain is process 1 of a host. It says "ok" or what went wrong, then reaps
// orphans until standard input ends. When it exits, the kernel ends every other
// process of the host and drops its mounts.
func initMain(arg string, stdin io.Reader, stdout io.Writer) int {
	var spec initSpec
	err := json.Unmarshal([]byte(arg), &spec)
	if err == nil && spec.Boot {
		return spec.boot(stdin, stdout)
	}
	if err == nil {
		err = spec.enter()
	}
	if err != nil {
		fmt.Fprintln(stdout, err)
		return 1
	}
	childEnded := make(chan os.Signal, 1)
	signal.Notify(childEnded, unix.SIGCHLD)
	go reap(childEnded)
	fmt.Fprintln(stdout, "ok")
	io.Copy(io.Discard, stdin)
	return 0
}

// reap collects orphans, for ever.
func reap(childEnded <-chan os.Signal) {
	for range childEnded {
		for {
			pid, err := unix.Wait4(-1, nil, unix.WNOHANG|unix.WALL, nil)
			if pid <= 0 && !errors.Is(err, unix.EINTR) {
				break
			}
		}
	}
}

// enter assembles the host's root and makes it the root of this mount
// namespace.
func (s *initSpec) enter() error {
	if err := unix.Sethostname([]byte(s.Name)); err != nil {
		return fmt.Errorf("sethostname: %w", err)
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make mounts private: %w", err)
	}
	// Its file is one of the machine's /proc.
	if err := s.enterNet(); err != nil {
		return err
	}
	root, err := s.overlay()
	if err != nil {
		return err
	}
	for _, m := range []struct {
		dir, fs string
		flags   uintptr
		data    string
	}{
		{"/proc", "proc", unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC, ""},
		{"/sys", "sysfs", unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC, ""},
		{"/sys/fs/fuse/connections", "fusectl", unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC, ""},
		{"/dev", "tmpfs", unix.MS_NOSUID, "mode=755"},
		{"/dev/pts", "devpts", unix.MS_NOSUID | unix.MS_NOEXEC, "newinstance,ptmxmode=0666,mode=620"},
		{"/dev/shm", "tmpfs", unix.MS_NOSUID | unix.MS_NODEV, "mode=1777"},
		{"/run", "tmpfs", unix.MS_NOSUID | unix.MS_NODEV, "mode=755"},
		{"/tmp", "tmpfs", unix.MS_NOSUID | unix.MS_NODEV, "mode=1777"},
		{"/nix", "tmpfs", unix.MS_NODEV, "mode=755,nr_inodes=0,size=12g"},
	} {
		if err := mount(m.fs, root+m.dir, m.fs, m.flags, m.data); err != nil {
			return err
		}
	}
	if err := makeDevices(root + "/dev"); err != nil {
		return err
	}
	for _, b := range s.Binds {
		if err := b.mount(root); err != nil {
			return err
		}
	}
	if err := os.Mkdir(root+gateDir, 0o755); err != nil {
		return err
	}
	// Every distribution has it, minimal roots lack it, and fusermount3 of
	// Debian 12 does not unmount without it.
	if err := os.Symlink("../proc/self/mounts", root+"/etc/mtab"); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	if err := pivot(root); err != nil {
		return err
	}
	// As systemd has it: nix-daemon moves into a mount namespace of its own, and
	// what is mounted later has to appear there.
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_SHARED, ""); err != nil {
		return fmt.Errorf("make mounts shared: %w", err)
	}
	return nil
}

// overlay mounts the root file system, writable, and returns where.
func (s *initSpec) overlay() (root string, err error) {
	if err := mount("tmpfs", s.Work, "tmpfs", 0, "mode=755"); err != nil {
		return "", err
	}
	upper, work, root := s.Work+"/upper", s.Work+"/work", s.Work+"/root"
	for _, dir := range []string{upper, work, root} {
		if err := os.Mkdir(dir, 0o755); err != nil {
			return "", err
		}
	}
	overlay := fmt.Sprintf("lowerdir=%s,upperdir=%s,workdir=%s", s.Root, upper, work)
	return root, mount("overlay", root, "overlay", 0, overlay)
}

func mount(source, dir, fs string, flags uintptr, data string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	if err := unix.Mount(source, dir, fs, flags, data); err != nil {
		return fmt.Errorf("mount %s on %s: %w", fs, dir, err)
	}
	return nil
}

func (b bind) mount(root string) error {
	dir := filepath.Join(root, b.To)
	if err := mount(b.From, dir, "", unix.MS_BIND, ""); err != nil {
		return err
	}
	if b.Writable {
		return nil
	}
	if err := unix.Mount("", dir, "", unix.MS_BIND|unix.MS_REMOUNT|unix.MS_RDONLY, ""); err != nil {
		return fmt.Errorf("make %s read-only: %w", b.To, err)
	}
	return nil
}

// makeDevices fills /dev. /dev/fuse is open to all, as on every distribution.
func makeDevices(dev string) error {
	for _, d := range []struct {
		name         string
		major, minor uint32
	}{
		{"null", 1, 3}, {"zero", 1, 5}, {"full", 1, 7}, {"random", 1, 8}, {"urandom", 1, 9},
		{"tty", 5, 0}, {"fuse", 10, 229},
	} {
		name := filepath.Join(dev, d.name)
		if err := unix.Mknod(name, unix.S_IFCHR|0o666, int(unix.Mkdev(d.major, d.minor))); err != nil {
			return fmt.Errorf("mknod %s: %w", name, err)
		}
		// mknod heeds the umask.
		if err := os.Chmod(name, 0o666); err != nil {
			return err
		}
	}
	for name, target := range map[string]string{
		"ptmx": "pts/ptmx", "fd": "/proc/self/fd",
		"stdin": "/proc/self/fd/0", "stdout": "/proc/self/fd/1", "stderr": "/proc/self/fd/2",
	} {
		if err := os.Symlink(target, filepath.Join(dev, name)); err != nil {
			return err
		}
	}
	return nil
}

// pivot makes root the root of the mount namespace and drops all other mounts.
func pivot(root string) error {
	if err := os.Chdir(root); err != nil {
		return err
	}
	// With both arguments the same, the old root is stacked on the new one
	// and unmounted from there, which needs no directory: pivot_root(2).
	if err := unix.PivotRoot(".", "."); err != nil {
		return fmt.Errorf("pivot_root: %w", err)
	}
	if err := unix.Unmount(".", unix.MNT_DETACH); err != nil {
		return fmt.Errorf("unmount the old root: %w", err)
	}
	return os.Chdir("/")
}

// enterNet moves this thread into the network that the host is to have. It is the
// main one, which stands for the process, and starts systemd-nspawn as well.
func (s *initSpec) enterNet() error {
	if s.Loopback {
		return loopbackUp()
	}
	if s.Net == "" {
		return nil
	}
	fd, err := unix.Open(s.Net, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open %s: %w", s.Net, err)
	}
	defer unix.Close(fd)
	if err := unix.Setns(fd, unix.CLONE_NEWNET); err != nil {
		return fmt.Errorf("enter %s: %w", s.Net, err)
	}
	return nil
}

func loopbackUp() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	req, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	req.SetUint16(unix.IFF_UP)
	if err := unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, req); err != nil {
		return fmt.Errorf("bring up lo: %w", err)
	}
	return nil
}
