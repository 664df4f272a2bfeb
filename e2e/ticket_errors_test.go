//go:build e2e

package e2e

import (
	"strings"
	"testing"
	"time"

	"github.com/drv-thru/drv-thru/core/key"
	"github.com/drv-thru/drv-thru/core/ticket"
	"github.com/drv-thru/drv-thru/core/wire"
	"github.com/drv-thru/drv-thru/e2e/lab"
)

// A ticket that cannot be used is told by name, before anything is sent and
// without a use of it being spent.
func TestTicketErrors(t *testing.T) {
	p := lab.NewPair(t, lab.Trixie, lab.Trixie)
	b, c := p.Builder, p.Client

	parsed, err := ticket.Parse(b.Ticket("--name", "whole", "--uses", "3"))
	if err != nil {
		t.Fatal(err)
	}
	unknown := parsed
	unknown.Secret[0] ^= 1
	revoked := b.Ticket("--name", "revoked")
	b.Admin("ticket", "revoke", "revoked")
	expired := b.Ticket("--name", "expired", "--expires", "1s")
	eventually(t, "the ticket has expired", func() bool { return ticketNamed(t, b, "expired").State == "expired" })
	used := b.Ticket("--name", "used")
	must(t, c.BuildCmd(used, "--no-link", "--impure", "--expr", string(lab.Hello("uses the only use"))))

	for _, tt := range []struct {
		name   string
		ticket string
		title  string
		spent  map[string]int64
	}{
		{"unknown", unknown.String(), "ticket not found", map[string]int64{"whole": 0}},
		{"revoked", revoked, "ticket revoked", map[string]int64{"revoked": 0}},
		{"expired", expired, "ticket expired", map[string]int64{"expired": 0}},
		{"used", used, "ticket has no uses remaining", map[string]int64{"used": 1}},
		{"bound", b.Ticket("--name", "bound", "--bind-client", someKey(t).ID().String()), "ticket bound to a different client", map[string]int64{"bound": 0}},
		{"system", b.Ticket("--name", "system", "--system", "aarch64-linux"), "the ticket does not allow this system", map[string]int64{"system": 0}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			before := b.Host.Paths()
			expr := lab.Hello(tt.name)
			text := fails(t, c.BuildCmd(tt.ticket, "--no-link", "--impure", "--expr", string(expr)), wire.ExitDenied)
			says(t, text, "error: "+tt.title)
			saysNot(t, text, "sending", "building /nix/store")
			for name, want := range tt.spent {
				spent(t, b, name, want)
			}
			if after := b.Host.Paths(); len(after) != len(before) {
				t.Errorf("the builder's store has %d paths, not %d", len(after), len(before))
			}
		})
	}
	p.Verify(t)
}

// Text that is no ticket is refused before anything is evaluated, let alone
// connected to.
func TestTicketDamaged(t *testing.T) {
	h := lab.NewHost(t, lab.Trixie)
	h.StartDaemon()
	c := lab.NewClient(t, h)
	whole := ticket.Ticket{Builder: someKey(t).ID(), Relays: []string{"https://relay.example"}}.String()
	for name, text := range map[string]string{
		"cut":       whole[:len(whole)-5],
		"typo":      strings.Replace(whole, whole[20:24], swapped(whole[20:24]), 1),
		"twice":     whole + whole,
		"no ticket": "drvthru",
		"a URL":     "https://relay.example",
	} {
		t.Run(name, func(t *testing.T) {
			out := fails(t, offline(c.BuildCmd(text, "--no-link", "--impure", "--expr", `builtins.trace "was evaluated" (throw "thrown")`)), wire.ExitUsage)
			saysNot(t, out, "was evaluated", "thrown")
			says(t, out, "error: ", "ticket")
			if !strings.Contains(out, "damaged") && !strings.Contains(out, "not a") {
				t.Errorf("does not say what is wrong:\n%s", out)
			}
		})
	}
}

// swapped is text with its first two different letters exchanged.
func swapped(text string) string {
	b := []byte(text)
	for i := 1; i < len(b); i++ {
		if b[i] != b[0] {
			b[i], b[0] = b[0], b[i]
			break
		}
	}
	return string(b)
}

// A bound ticket works for the client that it is bound to.
func TestTicketBound(t *testing.T) {
	p := lab.NewPair(t, lab.Trixie, lab.Trixie)
	const file = "/home/alice/.config/drv-thru/secret.key"
	id := p.Client.Host.Run(lab.Alice, "drv-thru", "key", "show")
	if _, err := key.ParseID(id); err != nil {
		t.Fatal(err)
	}
	text := p.Builder.Ticket("--name", "bound", "--bind-client", id)
	expr := []string{"--no-link", "--impure", "--expr", string(lab.Hello("bound"))}
	fails(t, p.Client.BuildCmd(text, expr...), wire.ExitDenied)
	spent(t, p.Builder, "bound", 0)
	must(t, p.Client.BuildCmd(text, append(expr, "--key-file", file)...))
	spent(t, p.Builder, "bound", 1)
}

// A system that the builder does not have is told before anything is sent,
// whether it comes from a flag or from the derivation.
func TestSystemErrors(t *testing.T) {
	p := lab.NewPair(t, lab.Trixie, lab.Trixie)
	text := p.Builder.Ticket("--name", "one")
	foreign := strings.ReplaceAll(string(lab.Hello("foreign")), lab.System, "riscv64-linux")
	for name, args := range map[string][]string{
		"derivation": {"--expr", foreign},
		"flag":       {"--system", "riscv64-linux", "--expr", strings.ReplaceAll(foreign, `"riscv64-linux"`, "builtins.currentSystem")},
	} {
		t.Run(name, func(t *testing.T) {
			out := fails(t, p.Client.BuildCmd(text, append([]string{"--no-link", "--impure"}, args...)...), wire.ExitFailed)
			says(t, out, "error: the builder cannot build for this system", "riscv64-linux", lab.System)
			saysNot(t, out, "sending")
			spent(t, p.Builder, "one", 0)
		})
	}
}

// Nothing is had for a ticket that was revoked. Its builds are ended when that is
// asked for, and else run to their end.
func TestTicketRevoke(t *testing.T) {
	p := lab.NewPair(t, lab.Trixie, lab.Trixie)
	start := func(name string) (*lab.Process, *lab.Gate) {
		gate := lab.NewGate(t, p.Builder.Host, name)
		ticket := p.Builder.Ticket("--name", name)
		c := p.Client.StartBuild(ticket, "-L", "--no-link", "--impure", "--expr", string(lab.Waiting(gate, name)))
		c.WaitFor("waiting at "+name, longest)
		return c, gate
	}
	c, gate := start("kept")
	p.Builder.Admin("ticket", "revoke", "kept")
	if n := len(p.Builder.Host.BuildProcesses()); n == 0 {
		t.Error("the running build was ended")
	}
	gate.Open()
	c.WaitFor("passed kept", longest)
	if got := lab.ExitCode(c.Wait(longest)); got != wire.ExitDenied {
		t.Errorf("exit code %d, want %d", got, wire.ExitDenied)
	}
	says(t, c.Output(), "ticket revoked")
	if r := statusOf(t, p.Builder).Recent; len(r) != 1 || r[0].State != "built" {
		t.Errorf("the build has come to %+v", r)
	}

	c, _ = start("cancelled")
	says(t, p.Builder.Admin("ticket", "revoke", "--cancel", "cancelled"), "1 build")
	if got := lab.ExitCode(c.Wait(longest)); got != wire.ExitDenied {
		t.Errorf("exit code %d, want %d", got, wire.ExitDenied)
	}
	says(t, c.Output(), "error: ticket revoked")
	within(t, 5*time.Second, "nothing of the build runs any more", func() bool { return len(p.Builder.Host.BuildProcesses()) == 0 })
	p.Verify(t)
}
