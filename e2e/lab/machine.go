//go:build linux

package lab

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// bootTime is how long a machine may take to start or to stop.
const bootTime = 2 * time.Minute

// A Machine is a host that has booted: its process 1 is systemd, in a container
// of systemd-nspawn, with the units, sockets and sandboxes of a real machine. Its
// network is a loopback interface of its own, or another machine's: see
// [WithNetOf].
type Machine struct {
	*Host
	console *output
	ended   chan struct{}
}

// NewMachine boots a root file system that has systemd, and ends the machine
// when the test ends. Its nix-daemon is the distribution's, with the lab's
// nix.conf.
func NewMachine(t T, root Root, opts ...Option) *Machine {
	t.Helper()
	Need(t, root)
	m, err := startMachine(t, root, opts)
	if err != nil {
		t.Fatalf("lab: boot %s: %v", root, err)
	}
	t.Cleanup(func() { m.Close() })
	return m
}

func startMachine(t T, root Root, opts []Option) (*Machine, error) {
	work := filepath.Join(Dir(), "mnt")
	if err := os.MkdirAll(work, 0o755); err != nil {
		return nil, err
	}
	spec := initSpec{
		Name: string(root), Root: root.dir(),
		Work: work, Loopback: true, Boot: true,
	}
	for _, opt := range opts {
		opt(&spec)
	}
	m := &Machine{console: &output{changed: make(chan struct{})}, ended: make(chan struct{})}
	cmd, lifeline, err := startInit(spec, m.console)
	if err != nil {
		return nil, fmt.Errorf("%w\n%s", err, m.console.String())
	}
	m.Host = &Host{t: t, name: spec.Name, root: root}
	go func() {
		cmd.Wait()
		close(m.ended)
	}()
	m.close = sync.OnceValue(func() error {
		if m.enter != nil {
			m.enter.stop()
		}
		lifeline.Close()
		<-m.ended
		return nil
	})
	if err := m.join(cmd.Process.Pid); err != nil {
		m.close()
		return nil, fmt.Errorf("%w\n%s", err, m.console.String())
	}
	return m, nil
}

// join waits for systemd, enters its namespaces, and waits until it has booted.
func (m *Machine) join(init int) error {
	deadline := time.Now().Add(bootTime)
	for m.pid = 0; m.pid == 0; m.pid = systemdBelow(init) {
		select {
		case <-m.ended:
			return errors.New("systemd-nspawn ended")
		case <-time.After(20 * time.Millisecond):
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("no systemd after %v", bootTime)
		}
	}
	var err error
	if m.enter, err = newEntry(m.pid, true); err != nil {
		return err
	}
	if err := m.readUsers(); err != nil {
		return err
	}
	// It waits on the bus, which is not there from the start. "degraded" is
	// what a machine is whose hardware some unit wants to have.
	for {
		out, err := m.Command(RootUser, "systemctl", "is-system-running", "--wait").Output()
		if state := strings.TrimSpace(string(out)); state == "running" || state == "degraded" {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("not booted after %v: %s, %w", bootTime, out, err)
		}
		<-time.After(50 * time.Millisecond)
	}
}

// systemdBelow finds the systemd that systemd-nspawn has started below the
// process init, or 0. Before it is systemd, its namespaces are not made.
func systemdBelow(init int) int {
	children := make(map[int][]int)
	stats, _ := filepath.Glob("/proc/[0-9]*/stat")
	for _, name := range stats {
		stat, err := os.ReadFile(name)
		if err != nil {
			continue
		}
		// proc_pid_stat(5): the second field is in parentheses, and may have any
		// character; the fourth is the parent.
		fields := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+1:]))
		pid, err := strconv.Atoi(filepath.Base(filepath.Dir(name)))
		if err != nil || len(fields) < 2 {
			continue
		}
		parent, err := strconv.Atoi(fields[1])
		if err == nil {
			children[parent] = append(children[parent], pid)
		}
	}
	for _, nspawn := range children[init] {
		for _, pid := range children[nspawn] {
			if comm, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid)); err == nil && string(comm) == "systemd\n" {
				return pid
			}
		}
	}
	return 0
}

// PowerOff shuts the machine down, as its power button would, and waits until it
// is off.
func (m *Machine) PowerOff() {
	m.t.Helper()
	m.Run(RootUser, "systemctl", "poweroff")
	select {
	case <-m.ended:
	case <-time.After(bootTime):
		m.t.Fatalf("lab: %s is still on after %v:\n%s", m.name, bootTime, m.console.String())
	}
}

// boot is process 1 of a machine's outer namespaces. It says "ok" once
// systemd-nspawn has started, and ends when that or standard input does.
func (s *initSpec) boot(stdin io.Reader, stdout io.Writer) int {
	cmd, err := s.nspawn()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		fmt.Fprintln(stdout, err)
		return 1
	}
	fmt.Fprintln(stdout, "ok")
	go func() {
		io.Copy(io.Discard, stdin)
		os.Exit(0)
	}()
	cmd.Wait()
	return 0
}

func (s *initSpec) nspawn() (*exec.Cmd, error) {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return nil, fmt.Errorf("make mounts private: %w", err)
	}
	if err := s.enterNet(); err != nil {
		return nil, err
	}
	root, err := s.overlay()
	if err != nil {
		return nil, err
	}
	// That of this PID namespace; and systemd-nspawn leaves locks in /run.
	if err := mount("proc", "/proc", "proc", 0, ""); err != nil {
		return nil, err
	}
	if err := mount("tmpfs", "/run", "tmpfs", 0, "mode=755"); err != nil {
		return nil, err
	}
	if err := os.WriteFile(root+nixConfFile, []byte(strings.ReplaceAll(baseConf, " "+gateDir, "")), 0o644); err != nil {
		return nil, err
	}
	args := []string{
		"--quiet", "--register=no", "--keep-unit", "--boot", "--console=pipe", "--capability=all",
		"--resolv-conf=off", "--timezone=off", "--link-journal=no", "--machine=" + s.Name, "--directory=" + root,
	}
	for _, b := range s.Binds {
		option := "--bind-ro="
		if b.Writable {
			option = "--bind="
		}
		args = append(args, option+b.From+":"+b.To)
	}
	cmd := exec.Command("/usr/bin/systemd-nspawn", args...)
	cmd.Env = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin"}
	cmd.Stdout, cmd.Stderr = os.Stderr, os.Stderr
	return cmd, nil
}
