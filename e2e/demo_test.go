//go:build e2e

package e2e

import (
	"bufio"
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/drv-thru/drv-thru/e2e/lab"
)

// The demo runs from any directory and exits with 0 once it has shown the main
// job.
func TestDemo(t *testing.T) {
	lab.Need(t, lab.Trixie)
	demo := demoCommand(t)
	out, err := demo.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	for _, want := range []string{"hello from another machine", "verified", "imported and its signature checked"} {
		if !strings.Contains(string(out), want) {
			t.Errorf("it does not print %q:\n%s", want, out)
		}
	}
}

// Interrupted, the demo ends at once and takes everything along.
func TestDemoInterrupted(t *testing.T) {
	lab.Need(t, lab.Trixie)
	for _, sig := range []syscall.Signal{syscall.SIGINT, syscall.SIGTERM, syscall.SIGKILL} {
		t.Run(sig.String(), func(t *testing.T) {
			demo := demoCommand(t)
			stdout, err := demo.StdoutPipe()
			if err != nil {
				t.Fatal(err)
			}
			var stderr bytes.Buffer
			demo.Stderr = &stderr
			if err := demo.Start(); err != nil {
				t.Fatal(err)
			}
			lines := bufio.NewScanner(stdout)
			reached := false
			for !reached && lines.Scan() {
				reached = strings.Contains(lines.Text(), "ticket create")
			}
			if !reached {
				t.Fatalf("it ends early: %v\n%s", demo.Wait(), &stderr)
			}
			namespaces := namespacesBelow(t, demo.Process.Pid)
			if len(namespaces) < 4 {
				t.Fatalf("found the namespaces %v of the demo, expected more", namespaces)
			}
			if sig == syscall.SIGINT {
				// As a terminal does.
				err = syscall.Kill(-demo.Process.Pid, sig)
			} else {
				err = demo.Process.Signal(sig)
			}
			if err != nil {
				t.Fatal(err)
			}
			for lines.Scan() {
			}
			if err := demo.Wait(); err == nil {
				t.Error("it exits with 0")
			}
			within(t, 20*time.Second, "no process is left", func() bool { return countIn(t, namespaces) == 0 })
			if mounts := labMounts(t); len(mounts) > 0 {
				t.Errorf("mounts left: %v", mounts)
			}
			// kill -9 leaves files, which the next run removes.
			if dirs := abandoned(t); sig != syscall.SIGKILL && len(dirs) > 0 {
				t.Errorf("directories left: %v", dirs)
			}
		})
	}
}

// demoCommand prepares e2e/demo in a session of its own, from another
// directory.
func demoCommand(t *testing.T) *exec.Cmd {
	t.Helper()
	path, err := filepath.Abs("demo")
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), path)
	cmd.Dir = "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	return cmd
}

// namespacesBelow lists the PID and mount namespaces that the descendants of a
// process are in and this process is not.
func namespacesBelow(t *testing.T, pid int) []string {
	t.Helper()
	parents := make(map[int]int)
	stats, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range stats {
		var child, parent int
		text, err := os.ReadFile(name)
		if err != nil {
			continue // it has ended
		}
		before, after, _ := strings.Cut(string(text), " (")
		after = after[strings.LastIndex(after, ")")+1:]
		var state string
		if _, err := fmt.Sscan(before, &child); err != nil {
			t.Fatal(err)
		}
		if _, err := fmt.Sscan(after, &state, &parent); err != nil {
			t.Fatal(err)
		}
		parents[child] = parent
	}
	var found []string
	for child := range parents {
		above := child
		for above != pid && above > 1 {
			above = parents[above]
		}
		if above != pid {
			continue
		}
		for _, kind := range []string{"pid", "mnt"} {
			ns, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/%s", child, kind))
			own, ownErr := os.Readlink("/proc/self/ns/" + kind)
			if err == nil && ownErr == nil && ns != own && !slices.Contains(found, ns) {
				found = append(found, ns)
			}
		}
	}
	return found
}

// abandoned lists the directories of runs of the entry points that have ended
// without removing them: nothing holds their lock.
func abandoned(t *testing.T) []string {
	t.Helper()
	dirs, err := filepath.Glob(lab.Dir() + "/tmp.*")
	if err != nil {
		t.Fatal(err)
	}
	return slices.DeleteFunc(dirs, func(dir string) bool {
		f, err := os.Open(dir)
		if err != nil {
			return true
		}
		defer f.Close()
		return syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB) != nil
	})
}
