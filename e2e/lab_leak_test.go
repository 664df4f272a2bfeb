//go:build e2e

package e2e

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/drv-thru/drv-thru/e2e/lab"
)

// Nothing of a host outlives the process that made it, however that ends.
func TestLabLeavesNothing(t *testing.T) {
	lab.Need(t, lab.Trixie)
	for name, end := range map[string]func(*exec.Cmd) error{
		"exit":   func(c *exec.Cmd) error { return c.Process.Signal(syscall.SIGUSR1) },
		"SIGINT": func(c *exec.Cmd) error { return c.Process.Signal(syscall.SIGINT) },
		// Nobody is left who could clean up.
		"SIGKILL": func(c *exec.Cmd) error { return c.Process.Kill() },
	} {
		t.Run(name, func(t *testing.T) {
			cmd := exec.Command(os.Args[0])
			cmd.Env = append(os.Environ(), holdEnv+"=1")
			cmd.Stderr = os.Stderr
			stdout, err := cmd.StdoutPipe()
			if err != nil {
				t.Fatal(err)
			}
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			lines := bufio.NewScanner(stdout)
			var namespaces []string
			for lines.Scan() {
				if ns, ok := strings.CutPrefix(lines.Text(), "namespace "); ok {
					namespaces = append(namespaces, ns)
				}
				if lines.Text() == "holding" {
					break
				}
			}
			if len(namespaces) != 3 || countIn(t, namespaces) < 4 {
				t.Fatalf("namespaces %v, with %d memberships", namespaces, countIn(t, namespaces))
			}
			if err := end(cmd); err != nil {
				t.Fatal(err)
			}
			cmd.Wait()
			within(t, 20*time.Second, "no process is left", func() bool { return countIn(t, namespaces) == 0 })
			if mounts := labMounts(t); len(mounts) > 0 {
				t.Errorf("mounts left: %v", mounts)
			}
		})
	}
}

// holdEnv makes the test binary run hold instead of the tests.
const holdEnv = "DRV_THRU_LAB_HOLD"

// hold starts a host with a daemon and a build that never ends, says which
// namespaces it is in, and waits to be ended from outside.
func hold() {
	lab.Script(os.Stderr, func(t lab.T) {
		h := lab.NewHost(t, lab.Trixie, lab.WithNetns())
		h.StartDaemon()
		gate := lab.NewGate(t, h, "never")
		p := h.Start(lab.Alice, "nix", "build", "-L", "--no-link", "--impure", "--expr", string(lab.Waiting(gate, "a")))
		p.WaitFor("waiting at never", time.Minute)
		for _, kind := range []string{"pid", "mnt", "net"} {
			ns, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/%s", h.Pid(), kind))
			if err != nil {
				t.Fatalf("%v", err)
			}
			fmt.Println("namespace", ns)
		}
		wait := make(chan os.Signal, 1)
		signal.Notify(wait, syscall.SIGUSR1)
		fmt.Println("holding")
		<-wait
	})
	os.Exit(0)
}

// countIn counts how often processes are in one of the namespaces.
func countIn(t *testing.T, namespaces []string) int {
	t.Helper()
	links, err := filepath.Glob("/proc/[0-9]*/ns/[pmn][ine][dt]")
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, link := range links {
		target, err := os.Readlink(link)
		for _, ns := range namespaces {
			if err == nil && target == ns {
				n++
			}
		}
	}
	return n
}

// labMounts lists the lab's mounts that the machine itself has.
func labMounts(t *testing.T) (found []string) {
	t.Helper()
	data, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(data)) {
		if f := strings.Fields(line); len(f) > 4 && strings.HasPrefix(f[4], lab.Dir()+"/") {
			found = append(found, line)
		}
	}
	return found
}
