//go:build linux

package lab

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// T is what the lab needs of a [testing.TB]. The demo brings its own.
type T interface {
	Helper()
	Fatalf(format string, args ...any)
	Logf(format string, args ...any)
	Cleanup(func())
	Failed() bool
}

// A Root names one of the root file systems that e2e/roots makes.
type Root string

// The roots, oldest Nix first.
const (
	Bookworm Root = "bookworm" // Nix 2.8
	Trixie   Root = "trixie"   // Nix 2.26
	Sid      Root = "sid"      // Nix 2.34 or newer
)

// The roots that have systemd as well, for [NewMachine].
const (
	BookwormMachine Root = "bookworm-machine"
	TrixieMachine   Root = "trixie-machine"
)

// Here is the machine's own file system, with the programs that e2e/setup has
// installed on it. It has neither Nix nor users; what a host writes there is gone
// with the host.
const Here Root = "here"

// dir is where the root lies.
func (r Root) dir() string {
	if r == Here {
		return "/"
	}
	return filepath.Join(Dir(), "roots", string(r))
}

// Roots lists every root, oldest Nix first.
var Roots = []Root{Bookworm, Trixie, Sid}

// The users of every host besides root. Neither is trusted by Nix.
const (
	RootUser    = "root"
	Alice       = "alice"   // an ordinary user who builds things
	BuilderUser = "builder" // what drv-thru's services run as
)

// An Option changes how [NewHost] makes a host.
type Option func(*initSpec)

// WithName sets the host name, which messages and logs of the lab show. The
// default is the name of the root.
func WithName(name string) Option { return func(s *initSpec) { s.Name = name } }

// WithNetns gives the host a network namespace of its own, with nothing but a
// loopback interface in it. See [Host.Pid] for how to move another one in.
func WithNetns() Option { return func(s *initSpec) { s.Loopback = true } }

// WithNetOf has a host, or a machine, share the network of another.
func WithNetOf(other *Host) Option {
	return func(s *initSpec) { s.Loopback, s.Net = false, fmt.Sprintf("/proc/%d/ns/net", other.pid) }
}

// WithBind shows a directory of the machine in the host, read-only.
func WithBind(from, to string) Option {
	return func(s *initSpec) { s.Binds = append(s.Binds, bind{From: from, To: to}) }
}

// WithShared shows a directory of the machine in the host, writable: the way to
// hand files from one host to another.
func WithShared(from, to string) Option {
	return func(s *initSpec) { s.Binds = append(s.Binds, bind{From: from, To: to, Writable: true}) }
}

// A Host is one machine of the lab. Its methods may be called concurrently.
type Host struct {
	t     T
	name  string
	root  Root
	pid   int // of the init process, as this process sees it
	enter *entry

	close func() error
	users map[string]account // of when it began

	mu     sync.Mutex
	daemon *Process // nix-daemon; nil: it does not run
}

// NewHost starts a host, and ends it and all that runs in it when the test
// ends. No nix-daemon runs yet: see [Host.StartDaemon].
func NewHost(t T, root Root, opts ...Option) *Host {
	t.Helper()
	Need(t, root)
	h, err := startHost(t, root, opts)
	if err != nil {
		t.Fatalf("lab: start host %s: %v", root, err)
	}
	t.Cleanup(func() {
		if err := h.Close(); err != nil {
			t.Logf("lab: close host %s: %v", h.name, err)
		}
	})
	return h
}

func startHost(t T, root Root, opts []Option) (*Host, error) {
	work := filepath.Join(Dir(), "mnt")
	if err := os.MkdirAll(work, 0o755); err != nil {
		return nil, err
	}
	bin, err := binDir()
	if err != nil {
		return nil, err
	}
	spec := initSpec{
		Name:  string(root),
		Root:  root.dir(),
		Work:  work,
		Binds: []bind{{From: bin, To: "/usr/local/bin"}},
	}
	for _, opt := range opts {
		opt(&spec)
	}
	cmd, lifeline, err := startInit(spec, os.Stderr)
	if err != nil {
		return nil, err
	}
	h := &Host{t: t, name: spec.Name, root: root, pid: cmd.Process.Pid}
	h.close = sync.OnceValue(func() error {
		if h.enter != nil {
			h.enter.stop()
		}
		lifeline.Close()
		return cmd.Wait()
	})
	if h.enter, err = newEntry(h.pid, spec.Loopback || spec.Net != ""); err == nil {
		err = h.readUsers()
	}
	if err != nil {
		h.close()
		return nil, err
	}
	return h, nil
}

// startInit starts a host's init process and waits until its root stands. The
// process ends when the lifeline is closed, which also happens when this
// process dies.
func startInit(spec initSpec, stderr io.Writer) (cmd *exec.Cmd, lifeline io.Closer, err error) {
	arg, err := json.Marshal(spec)
	if err != nil {
		return nil, nil, err
	}
	flags := uintptr(syscall.CLONE_NEWNS | syscall.CLONE_NEWPID | syscall.CLONE_NEWUTS | syscall.CLONE_NEWIPC)
	if spec.Loopback {
		flags |= syscall.CLONE_NEWNET
	}
	cmd = &exec.Cmd{
		Path:        "/proc/self/exe",
		Args:        []string{initName, string(arg)},
		Env:         []string{},
		Stderr:      stderr,
		SysProcAttr: &syscall.SysProcAttr{Cloneflags: flags},
	}
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return nil, nil, err
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return nil, nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, nil, fmt.Errorf("start init: %w", err)
	}
	answer, err := bufio.NewReader(stdout).ReadString('\n')
	if answer != "ok\n" {
		stdin.Close()
		if waitErr := cmd.Wait(); err == nil {
			err = waitErr
		}
		return nil, nil, fmt.Errorf("init: %s (%w)", strings.TrimSpace(answer), err)
	}
	return cmd, stdin, nil
}

// Close ends the host: every process in it is killed, its mounts and
// namespaces go. Closing again does nothing.
func (h *Host) Close() error { return h.close() }

// Name is the host's name.
func (h *Host) Name() string { return h.name }

// Root is the root file system that the host runs.
func (h *Host) Root() Root { return h.root }

// Pid is the process ID of the host's init as the machine sees it: what
// `ip link set … netns PID` and `nsenter -t PID -a` take.
func (h *Host) Pid() int { return h.pid }

// Do runs fn on a thread that is inside the host's mount and network
// namespaces, as root: os functions in it see the host's files, and sockets
// made in it belong to the host's network. fn must be short, must not start
// goroutines and must not start processes: see [Host.Command].
func (h *Host) Do(fn func() error) error { return h.enter.do(fn) }

// An account is a line of the host's passwd(5).
type account struct {
	uid, gid uint32
	home     string
}

func (h *Host) readUsers() error {
	var passwd []byte
	err := h.Do(func() (err error) {
		passwd, err = os.ReadFile("/etc/passwd")
		return err
	})
	if err != nil {
		return err
	}
	h.users = make(map[string]account)
	for line := range strings.Lines(string(passwd)) {
		f := strings.Split(strings.TrimSpace(line), ":")
		if len(f) != 7 {
			continue
		}
		uid, errUID := strconv.ParseUint(f[2], 10, 32)
		gid, errGID := strconv.ParseUint(f[3], 10, 32)
		if err := errors.Join(errUID, errGID); err != nil {
			return fmt.Errorf("passwd entry of %s: %w", f[0], err)
		}
		h.users[f[0]] = account{uid: uint32(uid), gid: uint32(gid), home: f[5]}
	}
	return nil
}

// An entry is an operating-system thread that has joined a host's namespaces.
// Processes that it starts are in the host, yet are children of this process:
// their exit status, pipes and signals work as those of any child.
type entry struct {
	jobs chan func()
	done chan struct{}
	once sync.Once
}

var errClosed = errors.New("the host is closed")

func newEntry(pid int, net bool) (*entry, error) {
	e := &entry{jobs: make(chan func()), done: make(chan struct{})}
	joined := make(chan error)
	go func() {
		// Never unlocked: the thread is of no use outside the host, and Go
		// ends it with the goroutine.
		runtime.LockOSThread()
		err := join(pid, net)
		joined <- err
		if err != nil {
			return
		}
		for {
			select {
			case job := <-e.jobs:
				job()
			case <-e.done:
				return
			}
		}
	}()
	return e, <-joined
}

// join moves the calling thread into the namespaces of process pid. For the PID
// namespace that holds for its future children only: setns(2).
func join(pid int, net bool) error {
	// A thread that shares its root and working directory with others may
	// not change mount namespaces.
	if err := unix.Unshare(unix.CLONE_FS); err != nil {
		return fmt.Errorf("unshare: %w", err)
	}
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return fmt.Errorf("pidfd_open: %w", err)
	}
	defer unix.Close(fd)
	flags := unix.CLONE_NEWNS | unix.CLONE_NEWPID | unix.CLONE_NEWUTS | unix.CLONE_NEWIPC
	if net {
		flags |= unix.CLONE_NEWNET
	}
	root, err := unix.Open(fmt.Sprintf("/proc/%d/root", pid), unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open the host's root: %w", err)
	}
	defer unix.Close(root)
	if err := unix.Setns(fd, flags); err != nil {
		return fmt.Errorf("setns: %w", err)
	}
	// setns enters at the root of the mount namespace, which is not the
	// host's when this process runs in a chroot.
	if err := unix.Fchdir(root); err != nil {
		return fmt.Errorf("enter the host's root: %w", err)
	}
	if err := unix.Chroot("."); err != nil {
		return fmt.Errorf("enter the host's root: %w", err)
	}
	return unix.Chdir("/")
}

func (e *entry) do(fn func() error) error {
	result := make(chan error, 1)
	select {
	case e.jobs <- func() { result <- fn() }:
		return <-result
	case <-e.done:
		return errClosed
	}
}

func (e *entry) stop() { e.once.Do(func() { close(e.done) }) }
