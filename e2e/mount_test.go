//go:build e2e

package e2e

import (
	"fmt"
	"os"
	"strings"
	"syscall"
	"testing"

	"github.com/drv-thru/drv-thru/core/wire"
	"github.com/drv-thru/drv-thru/e2e/lab"
)

// mountDir is where a client mounts.
const mountDir = "/run/drv-thru-cache"

// startMount runs drv-thru mount as root with a ticket and waits until it is mounted.
func startMount(t *testing.T, h *lab.Host, ticket string, args ...string) *lab.Process {
	t.Helper()
	argv := append([]string{"drv-thru", "mount", "-v"}, args...)
	p := h.StartCmd(h.Command(lab.RootUser, append(argv, mountDir)...).AddEnv("DRV_THRU_TICKET=" + ticket))
	p.WaitFor("(?m)^mounted on "+mountDir, longest)
	return p
}

// stopMount ends it as a service manager does, and wants nothing left.
func stopMount(t *testing.T, h *lab.Host, p *lab.Process) {
	t.Helper()
	p.Signal(syscall.SIGTERM)
	if err := p.Wait(longest); err != nil {
		t.Errorf("mount: %v\n%s", err, tailOf(p.Output()))
	}
	if points := h.FuseMounts(); len(points) > 0 {
		t.Errorf("still mounted: %v", points)
	}
}

// mountedNar is the name in the mount of a path's NAR, which its narinfo shows.
func mountedNar(h *lab.Host, path string) string {
	info := h.Run(lab.RootUser, "cat", mountDir+"/"+narFile(path))
	_, nar, _ := strings.Cut(info, "\nURL: ")
	nar, _, _ = strings.Cut(nar, "\n")
	return nar
}

// The mount is a substituter, for root on the command line and for the daemon
// with --allow-other, also of what is built while it is mounted.
func TestMount(t *testing.T) {
	forEachRoot(t, func(t *testing.T, root lab.Root) {
		b := lab.NewHost(t, root, lab.WithName("builder"))
		b.StartDaemon()
		// alice builds there, and what she has built others substitute.
		c := lab.NewHost(t, root, lab.WithName("client"))
		p := lab.Join(t, b, c, lab.BuilderConfig{}, "trusted-substituters = file://"+mountDir)
		builder, client := p.Builder, p.Client
		ticket := builder.Ticket("--uses", "unlimited")
		built := client.BuildExpr(ticket, lab.Wide(20, "first"))
		first := built[len(built)-1]
		c.Delete(c.Closure(built...)...)

		mount := startMount(t, c, ticket, "--allow-other")
		substitute := func(user, path string, args ...string) {
			t.Helper()
			args = append([]string{"nix", "build", "--no-link", "-L", "--substituters", "file://" + mountDir, path}, args...)
			must(t, c.Command(user, args...))
			if !c.Has(path) {
				t.Errorf("%s was not substituted", path)
			}
		}
		// The daemon, for a user who is not trusted.
		substitute(lab.Alice, first)
		c.Delete(c.Closure(first)...)
		// Root's own Nix.
		substitute(lab.RootUser, first, "--option", "trusted-public-keys", builder.PublicKey())

		// What is built later is found without mounting again.
		late := c.Run(lab.Alice, "nix", "eval", "--raw", "--impure", "--expr", "("+string(lab.Hello("late"))+").outPath")
		if err := c.Command(lab.Alice, "nix", "build", "--no-link", "--substituters", "file://"+mountDir, late).Run(); err == nil {
			t.Errorf("%s was found before it was built", late)
		}
		if got := client.BuildExpr(ticket, lab.Hello("late"))[0]; got != late {
			t.Fatalf("built %s, want %s", got, late)
		}
		c.Delete(late)
		substitute(lab.Alice, late)

		logs := []string{late}
		// Nix 2.8 takes no derivation that is not in the store which it asks.
		if !strings.HasPrefix(c.NixVersion(), "2.8.") {
			logs = append(logs, c.Run(lab.Alice, "nix", "eval", "--raw", "--impure", "--expr", "("+string(lab.Hello("late"))+").drvPath"))
		}
		for _, path := range logs {
			says(t, c.Run(lab.Alice, "nix", "log", "--store", "file://"+mountDir, path), "hello")
		}

		// While the builder is away, what was read before is there, and what was
		// not is missing rather than broken.
		nar := mountedNar(c, late)
		eventually(t, "its NAR is kept", func() bool {
			return c.Command(lab.RootUser, "sh", "-c", "test -e /root/.cache/drv-thru/mount/*/"+nar).Run() == nil
		})
		c.Delete(late)
		builder.Stop(longest)
		substitute(lab.Alice, late)
		missing := "/nix/store/" + strings.Repeat("0", 32) + "-missing"
		if out, err := c.Command(lab.Alice, "nix", "build", "--no-link", "--substituters", "file://"+mountDir, missing).CombinedOutput(); err == nil || strings.Contains(string(out), "Input/output error") {
			t.Errorf("while the builder is away: %v\n%s", err, out)
		}
		builder.Start()
		mount.WaitFor("connected again", longest)
		stopMount(t, c, mount)
		if err := c.Verify(); err != nil {
			t.Error(err)
		}
	})
}

// What was left by a mount that was killed is cleared by the next one, and a
// command line that cannot work says so.
func TestMountStale(t *testing.T) {
	s := lab.NewPair(t, lab.Trixie, lab.Trixie)
	c := s.Client.Host
	ticket := s.Builder.Ticket("--uses", "unlimited")
	path := s.Client.BuildExpr(ticket, lab.Hello("stale"))[0]

	mount := startMount(t, c, ticket)
	info := mountDir + "/" + narFile(path)
	says(t, c.Run(lab.RootUser, "cat", info), path)
	busy := c.Start(lab.RootUser, "sh", "-c", "cd "+mountDir+"/nar && echo holding && cat")
	busy.WaitFor("holding", longest)
	mount.Kill()
	if out, err := c.Command(lab.RootUser, "ls", mountDir).CombinedOutput(); err == nil || !strings.Contains(string(out), "not connected") {
		t.Errorf("after kill -9: %v\n%s", err, out)
	}
	mount = startMount(t, c, ticket)
	says(t, c.Run(lab.RootUser, "cat", info), path)

	// A second one in the same place is refused, and does no harm.
	fails(t, c.Command(lab.RootUser, "drv-thru", "mount", "--ticket", ticket, mountDir), wire.ExitFailed)
	says(t, c.Run(lab.RootUser, "cat", info), path)
	stopMount(t, c, mount)
	const hides = "the directory is not empty"
	if strings.Contains(mount.Output(), hides) {
		t.Errorf("nothing was there: %s", mount.Output())
	}

	// What is there already is hidden, not lost, and the user is told.
	c.WriteFile(lab.RootUser, mountDir+"/precious", "mine")
	mount = startMount(t, c, ticket)
	says(t, mount.Output(), hides)
	stopMount(t, c, mount)
	if got, err := c.ReadFile(mountDir + "/precious"); err != nil || string(got) != "mine" {
		t.Errorf("what was there: %q, %v", got, err)
	}

	// Where the kernel does not list what is mounted, it could not be taken away again.
	blind := c.Command(lab.RootUser, "unshare", "--mount", "sh", "-c",
		`while umount -l /proc 2>/dev/null; do :; done; exec timeout --signal INT 20 drv-thru mount --ticket "$0" `+mountDir, ticket)
	says(t, fails(t, blind, wire.ExitFailed), "FUSE cannot be used: there is no /proc")

	text := fails(t, c.Command(lab.RootUser, "drv-thru", "mount", "--ticket", s.Builder.Ticket("--expires", "1s", "--name", "gone")[:60], mountDir), wire.ExitUsage)
	says(t, text, "ticket")
	busy.Kill()
}

// A builder that stands still fails reads in time; when it goes on, so do reads.
func TestMountFrozenBuilder(t *testing.T) {
	s := lab.NewPair(t, lab.Trixie, lab.Trixie)
	c := s.Client.Host
	ticket := s.Builder.Ticket("--uses", "unlimited")
	path := s.Client.BuildExpr(ticket, lab.Blob(160, "frozen"))[0]
	mount := startMount(t, c, ticket, "--read-timeout", "3s", "--cache-size", "0")
	nar := mountDir + "/" + mountedNar(c, path)

	// More than fits into the mount's memory is still to come.
	failing := c.Start(lab.RootUser, "sh", "-c", "exec 3<"+nar+" && head -c 1000000 <&3 >/dev/null && echo begun && kill -STOP $$; exec cat <&3 >/dev/null")
	failing.WaitFor("begun", longest)
	// What continues it must not come before it has stopped.
	eventually(t, "the reader stands still", func() bool {
		stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", failing.PID()))
		return err == nil && strings.Contains(string(stat), ") T ")
	})
	s.Builder.Signal(syscall.SIGSTOP)
	failing.Signal(syscall.SIGCONT)
	if err := failing.Wait(longest); lab.ExitCode(err) != 1 || !strings.Contains(failing.Output(), "Input/output error") {
		t.Errorf("a read that cannot be answered: %v, %q", err, tailOf(failing.Output()))
	}
	s.Builder.Signal(syscall.SIGCONT)
	eventually(t, "it can be read again", func() bool {
		return c.Command(lab.RootUser, "dd", "if="+nar, "of=/dev/null", "bs=1M", "count=120").Run() == nil
	})
	stopMount(t, c, mount)
}
