//go:build e2e

package e2e

import (
	"strings"
	"syscall"
	"testing"

	"github.com/drv-thru/drv-thru/e2e/lab"
)

// One slot, several clients: who waits sees its place, has its inputs sent
// meanwhile, and frees the place at once by leaving.
func TestQueue(t *testing.T) {
	p := lab.NewPair(t, lab.Trixie, lab.Trixie)
	b, c := p.Builder, p.Client
	gate := lab.NewGate(t, b.Host, "queue")
	start := func(salt string, e lab.Expr) *lab.Process {
		return c.StartBuild(b.Ticket("--name", salt), "-L", "--no-link", "--print-out-paths", "--impure", "--expr", string(e))
	}
	first := start("first", lab.Waiting(gate, "first"))
	first.WaitFor(`waiting at queue`, longest)

	second := start("second", lab.Hello("queue-second"))
	second.WaitFor(`position 1\b`, longest)
	third := start("third", lab.Hello("queue-third"))
	third.WaitFor(`position 2\b`, longest)
	// All inputs are there, though nothing but the first has run.
	eventually(t, "the waiting builds have sent their inputs", func() bool {
		queued := 0
		for _, a := range statusOf(t, b).Active {
			if a.State == "queued" {
				queued++
			}
		}
		return queued == 2
	})
	for _, salt := range []string{"queue-second", "queue-third"} {
		drv := c.Host.Must(c.Host.Command(lab.Alice, "nix-instantiate", "--expr", string(lab.Hello(salt))))
		if !b.Host.Has(drv) {
			t.Errorf("%s is not on the builder while its build waits", drv)
		}
	}
	if s := statusOf(t, b); s.Running != 1 || s.Waiting != 2 {
		t.Errorf("%d builds run and %d wait, want 1 and 2", s.Running, s.Waiting)
	}

	// Ctrl-C of the second: the third moves up at once, while the first still runs.
	second.Interrupt()
	third.WaitFor(`position 1\b`, longest)
	if code := lab.ExitCode(second.Wait(longest)); code != 130 {
		t.Errorf("the interrupted client ends with %d", code)
	}
	if s := statusOf(t, b); s.Running != 1 || s.Waiting != 1 {
		t.Errorf("%d builds run and %d wait, want 1 and 1", s.Running, s.Waiting)
	}
	// SIGTERM frees the place too.
	fourth := start("fourth", lab.Hello("queue-fourth"))
	fourth.WaitFor(`position 2\b`, longest)
	fourth.Signal(syscall.SIGTERM)
	fourth.Wait(longest)
	eventually(t, "one build waits", func() bool { return statusOf(t, b).Waiting == 1 })

	saysNot(t, third.Output(), "building /nix/store")
	gate.Open()
	for name, process := range map[string]*lab.Process{"first": first, "third": third} {
		if err := process.Wait(longest); err != nil {
			t.Errorf("%s: %v\n%s", name, err, process.Output())
		}
	}
	if strings.Contains(second.Output(), "building /nix/store") {
		t.Errorf("the build that was left has run:\n%s", second.Output())
	}
	p.Verify(t)
}
