//go:build e2e

package e2e

import (
	"fmt"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/drv-thru/drv-thru/e2e/lab"
)

// slack is what a busy machine may add to what is promised of an idle one.
const slack = 20 * time.Second

var (
	foundText = regexp.MustCompile(`time=(\S+) level=INFO msg="direct path"`)
	lostText  = regexp.MustCompile(`time=(\S+) level=INFO msg="the direct path was lost"`)
)

// count returns how often the program has logged something.
func count(p *lab.Process, re *regexp.Regexp) int { return len(re.FindAllString(p.Output(), -1)) }

// when returns the time that the program gives for the n-th of what it logged.
func when(t *testing.T, p *lab.Process, re *regexp.Regexp, n int) time.Time {
	t.Helper()
	eventually(t, re.String(), func() bool { return count(p, re) > n })
	at, err := time.Parse(time.RFC3339Nano, re.FindAllStringSubmatch(p.Output(), -1)[n][1])
	if err != nil {
		t.Fatal(err)
	}
	return at
}

// finishes waits for a build's end and checks what is left.
func (n *natLab) finishes(t *testing.T, p *lab.Process) {
	t.Helper()
	if err := p.Wait(longest); err != nil {
		t.Fatalf("%v:\n%s", err, p.Output())
	}
	(&lab.Pair{Builder: n.run, Client: n.client}).Verify(t)
}

// Direct paths come and go while a build runs, and it notices nothing.
func TestNATChanges(t *testing.T) {
	n := newNATLab(t, false)
	builderSite := n.in.Plug(n.builder, lab.Cone, false)
	n.serve(t, false)
	salt := 0
	// waiting starts a build that waits, on a direct path.
	waiting := func(t *testing.T) (*lab.Process, *lab.Gate) {
		salt++
		gate := lab.NewGate(t, n.builder, fmt.Sprint("changes-", salt))
		p := n.client.Host.StartCmd(n.build(false, lab.Waiting(gate, fmt.Sprint("changes-", salt))))
		when(t, p, foundText, 0)
		p.WaitFor("waiting at changes", longest)
		return p, gate
	}
	plug := func(t *testing.T, network lab.Network) *lab.Site {
		site := n.in.Plug(n.client.Host, network, false)
		t.Cleanup(site.Unplug)
		return site
	}

	// No packet comes by the direct path any more: within seven seconds all goes
	// by the relay, and not much later than the path works again it is in use.
	t.Run("cut", func(t *testing.T) {
		site := plug(t, lab.Cone)
		p, gate := waiting(t)
		cut := time.Now()
		site.Cut()
		away := when(t, p, lostText, 0).Sub(cut)
		mended := time.Now()
		site.Mend()
		back := when(t, p, foundText, 1).Sub(mended)
		t.Logf("away after %s, back after %s", away.Round(time.Millisecond), back.Round(time.Millisecond))
		if away > 7*time.Second+slack || back > 30*time.Second+slack {
			t.Errorf("away after %s, back after %s", away, back)
		}
		gate.Open()
		n.finishes(t, p)
		says(t, p.Output(), "path         direct-quic")
	})

	t.Run("another address", func(t *testing.T) {
		site := plug(t, lab.Open)
		p, gate := waiting(t)
		changed := time.Now()
		site.Readdress("198.51.100.250")
		back := when(t, p, foundText, 1).Sub(changed)
		t.Logf("back after %s", back.Round(time.Millisecond))
		gate.Open()
		n.finishes(t, p)
	})

	t.Run("sleep", func(t *testing.T) {
		plug(t, lab.Cone)
		p, gate := waiting(t)
		p.Signal(syscall.SIGSTOP)
		// Long enough that the builder has given the path up.
		<-time.After(8 * time.Second)
		p.Signal(syscall.SIGCONT)
		woke := time.Now()
		back := when(t, p, foundText, 1).Sub(woke)
		t.Logf("back after %s", back.Round(time.Millisecond))
		gate.Open()
		n.finishes(t, p)
	})

	// The relay goes; the direct path stays, and then there is a relay again.
	t.Run("relay", func(t *testing.T) {
		plug(t, lab.Cone)
		p, gate := waiting(t)
		relay := n.relays[false]
		relay.Kill()
		gate.Open()
		n.finishes(t, p)
		relay.Start()
		n.run.WaitFor(`(?s)not registered.*registered at relay`, longest)
	})
	builderSite.Unplug()
}

// moving are builds whose transfers last: everything is slow, relay and all.
func TestNATTransfers(t *testing.T) {
	n := newNATLab(t, false)
	builderSite := n.in.Plug(n.builder, lab.Open, false)
	n.serve(t, false)
	site := n.in.Plug(n.client.Host, lab.Cone, false)
	c := n.client.Host

	t.Run("cut mid-upload", func(t *testing.T) {
		site.Throttle("64mbit", true)
		defer site.Throttle("", true)
		c.Shell(lab.Alice, "mkdir -p up/src && head -c 24000000 /dev/urandom > up/src/blob")
		c.WriteFile(lab.Alice, "/home/alice/up/default.nix", string(lab.WithSource("up")))
		p := n.start(t, "up")
		when(t, p, foundText, 0)
		site.Cut()
		defer site.Mend()
		n.finishes(t, p)
		says(t, p.Output(), "path         relay")
	})

	t.Run("cut mid-import", func(t *testing.T) {
		builderSite.Throttle("64mbit", true)
		defer builderSite.Throttle("", true)
		c.WriteFile(lab.Alice, "/home/alice/down/default.nix", string(lab.Blob(24, "down")))
		p := n.start(t, "down")
		when(t, p, foundText, 0)
		p.WaitFor("the build has ended", longest)
		site.Cut()
		defer site.Mend()
		n.finishes(t, p)
		says(t, p.Output(), "path         relay")
	})

	// A direct path that is slower than the relay carries no bulk.
	t.Run("slow direct", func(t *testing.T) {
		builderSite.Throttle("2mbit", false)
		defer builderSite.Throttle("", false)
		c.WriteFile(lab.Alice, "/home/alice/slow/default.nix", string(lab.Blob(24, "slow")))
		p := n.start(t, "slow")
		when(t, p, foundText, 0)
		ended := time.Now()
		n.finishes(t, p)
		took := time.Since(ended)
		t.Logf("24 MiB came within %s; by the direct path they would take 100 s", took.Round(time.Millisecond))
		if took > 50*time.Second {
			t.Errorf("took %s:\n%s", took, p.Output())
		}
	})
}

// start starts a build of ./default.nix in a directory of alice's.
func (n *natLab) start(t *testing.T, dir string) *lab.Process {
	t.Helper()
	args := append([]string{"--no-link", "-v", "-L"}, n.in.STUN(false)...)
	cmd := n.client.BuildCmd(n.ticket, append(args, "-f", "default.nix")...)
	return n.client.Host.StartCmd(cmd.In("/home/alice/" + dir))
}

// Of two relays one is killed: builds by the other go on, whichever it was that
// carried them.
func TestNATTwoRelays(t *testing.T) {
	n := newNATLab(t, false)
	other := n.in.StartRelay(false)
	n.in.Plug(n.builder, lab.Symmetric, false)
	n.serve(t, false, "--relay", other.URL)
	n.in.Plug(n.client.Host, lab.Symmetric, false)
	eventually(t, "the builder is registered at both", func() bool {
		return strings.Count(n.run.Output(), "registered at relay") >= 2
	})
	gate := lab.NewGate(t, n.builder, "relays")
	p := n.client.Host.StartCmd(n.build(false, lab.Waiting(gate, "relays")))
	p.WaitFor("waiting at relays", longest)
	n.relays[false].Kill()
	gate.Open()
	n.finishes(t, p)
	says(t, p.Output(), "path         relay")
}
