//go:build linux

package lab

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// A ProcessInfo describes a process of a host.
type ProcessInfo struct {
	PID  int // inside the host
	UID  uint32
	Args []string // empty for a zombie
	Peak int64    // the most resident memory that it ever had, bytes
}

func (p ProcessInfo) String() string {
	return fmt.Sprintf("%d (uid %d) %s", p.PID, p.UID, strings.Join(p.Args, " "))
}

// Processes lists the processes of the host, those of builds included, the
// host's own init left out.
func (h *Host) Processes() []ProcessInfo {
	h.t.Helper()
	var found []ProcessInfo
	h.eachProcess(func(pid int) {
		if p, ok := readProcess(pid); ok {
			found = append(found, p)
		}
	})
	return found
}

// eachProcess calls fn in the host for the ID of every process but the host's own init.
func (h *Host) eachProcess(fn func(pid int)) {
	h.t.Helper()
	err := h.Do(func() error {
		entries, err := os.ReadDir("/proc")
		for _, e := range entries {
			if pid, err := strconv.Atoi(e.Name()); err == nil && pid != 1 {
				fn(pid)
			}
		}
		return err
	})
	if err != nil {
		h.t.Fatalf("lab: list the processes of %s: %v", h.name, err)
	}
}

// CPU is how much time the processes of the host have spent, in their own code and
// in the kernel, with those that have ended and been waited for. A program that the
// test starts counts until it ends: what it took then is in its ProcessState.
func (h *Host) CPU() time.Duration {
	h.t.Helper()
	var ticks int64
	h.eachProcess(func(pid int) { ticks += cpuTicks(pid) })
	return time.Duration(ticks) * time.Second / ticksPerSecond
}

// ticksPerSecond is USER_HZ, the unit of times in /proc on all of Linux's common
// architectures.
const ticksPerSecond = 100

// cpuTicks sums utime, stime, cutime and cstime of proc_pid_stat(5); 0 for a process
// that is gone.
func cpuTicks(pid int) (sum int64) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0
	}
	// The name before it, in parentheses, may contain anything.
	fields := strings.Fields(string(text[bytes.LastIndexByte(text, ')')+1:]))
	for i := 11; i < 15 && i < len(fields); i++ {
		n, _ := strconv.ParseInt(fields[i], 10, 64)
		sum += n
	}
	return sum
}

// BuildProcesses lists the processes of Nix's build users: what builds run.
func (h *Host) BuildProcesses() []ProcessInfo {
	h.t.Helper()
	builders := make(map[uint32]bool)
	for name, acc := range h.users {
		if strings.HasPrefix(name, "nixbld") {
			builders[acc.uid] = true
		}
	}
	return slices.DeleteFunc(h.Processes(), func(p ProcessInfo) bool { return !builders[p.UID] })
}

// readProcess reads /proc/PID; a process that has ended meanwhile is none.
func readProcess(pid int) (ProcessInfo, bool) {
	p := ProcessInfo{PID: pid}
	dir := "/proc/" + strconv.Itoa(pid)
	status, err := os.ReadFile(dir + "/status")
	if err != nil {
		return p, false
	}
	for line := range strings.Lines(string(status)) {
		key, value, _ := strings.Cut(line, ":")
		f := strings.Fields(value)
		if len(f) == 0 {
			continue
		}
		n, _ := strconv.ParseInt(f[0], 10, 64)
		switch key {
		case "Uid":
			p.UID = uint32(n)
		case "VmHWM":
			p.Peak = n << 10
		}
	}
	cmdline, err := os.ReadFile(dir + "/cmdline")
	if err != nil {
		return p, false
	}
	for arg := range bytes.SplitSeq(bytes.TrimSuffix(cmdline, []byte{0}), []byte{0}) {
		if len(cmdline) > 0 {
			p.Args = append(p.Args, string(arg))
		}
	}
	return p, true
}

// Kill sends a signal to a process by its ID inside the host. One that is gone
// is no error.
func (h *Host) Kill(pid int, sig syscall.Signal) {
	h.t.Helper()
	err := h.Do(func() error {
		// The machine has other IDs for the same processes, but a directory
		// of the host's /proc serves as a pidfd.
		fd, err := unix.Open("/proc/"+strconv.Itoa(pid), unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		return unix.PidfdSendSignal(fd, sig, nil, 0)
	})
	if err != nil && !errors.Is(err, unix.ENOENT) && !errors.Is(err, unix.ESRCH) {
		h.t.Fatalf("lab: kill %d on %s: %v", pid, h.name, err)
	}
}

// FuseMounts lists the mount points of FUSE file systems: proc_pid_mountinfo(5).
func (h *Host) FuseMounts() []string {
	h.t.Helper()
	info, err := h.ReadFile("/proc/1/mountinfo")
	if err != nil {
		h.t.Fatalf("lab: list the mounts of %s: %v", h.name, err)
	}
	var points []string
	for line := range strings.Lines(string(info)) {
		before, after, ok := strings.Cut(line, " - ")
		f, g := strings.Split(before, " "), strings.Split(after, " ")
		if ok && len(f) > 4 && (g[0] == "fuse" || strings.HasPrefix(g[0], "fuse.")) {
			points = append(points, unescape(f[4]))
		}
	}
	return points
}

// unescape undoes mountinfo's octal escapes of blanks and backslashes.
func unescape(s string) string {
	return strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`).Replace(s)
}
