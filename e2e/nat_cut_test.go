//go:build e2e

package e2e

import (
	"fmt"
	"os"
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

// asleep is for how long machines sleep: DRV_THRU_LAB_ASLEEP (60s), or long enough
// that the other end has given the path up.
func asleep(t *testing.T) time.Duration {
	t.Helper()
	text := os.Getenv("DRV_THRU_LAB_ASLEEP")
	if text == "" {
		return 8 * time.Second
	}
	d, err := time.ParseDuration(text)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// Direct paths come and go while a build runs, and it notices nothing.
func TestNATChanges(t *testing.T) {
	t.Parallel() // it waits for most of its time
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
		for i, sleeper := range []*lab.Process{p, n.run.Process} {
			sleeper.Signal(syscall.SIGSTOP)
			<-time.After(asleep(t))
			sleeper.Signal(syscall.SIGCONT)
			woke := time.Now()
			back := when(t, p, foundText, 1+i).Sub(woke)
			t.Logf("%s: back after %s", []string{"client", "builder"}[i], back.Round(time.Millisecond))
		}
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
		n.run.WaitFor(`(?s)msg="not registered.*msg="registered at relay"`, longest)
	})
	builderSite.Unplug()
}

// Builds whose transfers last: a line of 32 Mbit/s, relay and all. Nothing of what
// has arrived is sent again when its path changes under it.
func TestNATTransfers(t *testing.T) {
	t.Parallel() // it waits for most of its time
	n := newNATLab(t, false)
	builderSite := n.in.Plug(n.builder, lab.Open, false)
	n.serve(t, false)
	site := n.in.Plug(n.client.Host, lab.Cone, false)
	c := n.client.Host

	t.Run("cut mid-upload", func(t *testing.T) {
		c.WriteFile(lab.Alice, "/home/alice/up/source", noise("up", transferBytes))
		gate := lab.NewGate(t, n.builder, "up")
		c.WriteFile(lab.Alice, "/home/alice/up/default.nix", fmt.Sprintf(`derivation { name = "up"; system = %q; builder = "/bin/sh";
			src = builtins.path { path = ./source; name = "source"; };
			args = [ "-euc" "read line < /gate/up; wc -c < $src > $out" ]; }`, lab.System))
		site.Throttle(slowLine, true)
		defer site.Throttle("", true)
		n.cutMidway(t, site, "up", func(c lab.Traffic) (direct, relay, all int64) { return c.DirectOut, c.RelayOut, c.Left }, func(_ *lab.Process, back func()) {
			// The build waits until the path is back.
			back()
			gate.Open()
		})
	})

	t.Run("cut mid-import", func(t *testing.T) {
		c.WriteFile(lab.Alice, "/home/alice/down/default.nix", string(lab.Blob(transferBytes>>20, "down")))
		// Slow enough that the end is far when the path is cut.
		builderSite.Throttle("16mbit", true)
		defer builderSite.Throttle("", true)
		n.cutMidway(t, site, "down", func(c lab.Traffic) (direct, relay, all int64) { return c.DirectIn, c.RelayIn, c.DirectIn + c.RelayIn }, func(p *lab.Process, back func()) {
			// What is left takes until the path is back.
			builderSite.Throttle("2mbit", true)
			back()
			builderSite.Throttle(slowLine, true)
		})
	})

	// A direct path that is slower than the relay carries no bulk.
	t.Run("slow direct", func(t *testing.T) {
		builderSite.Throttle("2mbit", false)
		defer builderSite.Throttle("", false)
		c.WriteFile(lab.Alice, "/home/alice/slow/default.nix", string(lab.Blob(transferBytes>>20, "slow")))
		site.Count()
		p := n.start(t, "slow")
		when(t, p, foundText, 0)
		n.finishes(t, p)
		// It takes some bytes to find out.
		got := site.Counted()
		t.Logf("%+v", got)
		if got.DirectIn > transferBytes/4 {
			t.Errorf("%d bytes came by the direct path, %d by the relay", got.DirectIn, got.RelayIn)
		}
	})
}

const (
	transferBytes = 24 << 20
	slowLine      = "32mbit"
	// cutAt is when the path is cut.
	cutAt = 4 << 20
	// twice is what may be sent again: what was on its way, of four requests of
	// 2 MiB (core/cache). Of uploads whatever has arrived counts.
	twice = 8 << 20
	// headers is what packets, TLS, HTTP and WebSockets add.
	headers = transferBytes / 12
)

// cutMidway starts a build and cuts its direct path when some of a transfer has
// been sent; the relay is killed at the same time, and comes again. Once the path is
// lost it is mended; later waits for it by calling back.
func (n *natLab) cutMidway(t *testing.T, site *lab.Site, dir string, moved func(lab.Traffic) (direct, relay, all int64), later func(p *lab.Process, back func())) {
	t.Helper()
	site.Count()
	p := n.start(t, dir)
	when(t, p, foundText, 0)
	eventually(t, "some of the transfer has been sent", func() bool {
		_, _, all := moved(site.Counted())
		return all > cutAt
	})
	n.relays[false].Kill()
	cut := time.Now()
	site.Cut()
	defer site.Mend()
	n.relays[false].Start()
	away := when(t, p, lostText, 0).Sub(cut)
	mended := time.Now()
	site.Mend()
	var back time.Duration
	later(p, func() { back = when(t, p, foundText, 1).Sub(mended) })
	n.finishes(t, p)
	direct, relay, all := moved(site.Counted())
	t.Logf("away after %s, back after %s; %d bytes directly, %d by the relay, %d for %d", away.Round(time.Millisecond), back.Round(time.Millisecond), direct, relay, all, transferBytes)
	if away > 7*time.Second+slack || back > 30*time.Second+slack {
		t.Errorf("away after %s, back after %s", away, back)
	}
	if all > transferBytes+twice+headers {
		t.Errorf("%d bytes were sent for %d", all, transferBytes)
	}
}

// start starts a build of ./default.nix in a directory of alice's.
func (n *natLab) start(t *testing.T, dir string) *lab.Process {
	t.Helper()
	args := append([]string{"--no-link", "-v", "-L"}, n.in.STUN(false)...)
	cmd := n.client.BuildCmd(n.ticket, append(args, "-f", "default.nix")...)
	return n.client.Host.StartCmd(cmd.In("/home/alice/" + dir))
}

// The builder gets another address while a build runs: it is at the relay again long before
// the relay would notice that it is gone.
func TestNATBuilderMoves(t *testing.T) {
	t.Parallel() // it waits for most of its time
	n := newNATLab(t, false)
	site := n.in.Plug(n.builder, lab.Open, false)
	n.serve(t, false)
	n.in.Plug(n.client.Host, lab.Cone, false)
	gate := lab.NewGate(t, n.builder, "moves")
	p := n.client.Host.StartCmd(n.build(false, lab.Waiting(gate, "moves")))
	when(t, p, foundText, 0)
	p.WaitFor("waiting at moves", longest)
	moved := time.Now()
	site.Readdress("198.51.100.251")
	n.run.WaitFor(`(?s)msg="not registered.*msg="registered at relay"`, longest)
	registered := time.Since(moved)
	back := when(t, p, foundText, 1).Sub(moved)
	t.Logf("registered after %s, back after %s", registered.Round(time.Millisecond), back.Round(time.Millisecond))
	if registered > 7*time.Second+slack {
		t.Errorf("registered after %s", registered)
	}
	gate.Open()
	n.finishes(t, p)
	says(t, p.Output(), "path         direct-tcp 198.51.100.251:")
}

// Of two relays one is killed, and then the other: at one of the two times it is the
// one that carries the build, which goes on.
func TestNATTwoRelays(t *testing.T) {
	n := newNATLab(t, false)
	other := n.in.StartRelay(false)
	n.in.Plug(n.builder, lab.Symmetric, false)
	n.serve(t, false, "--relay", other.URL)
	n.in.Plug(n.client.Host, lab.Symmetric, false)
	eventually(t, "the builder is registered at both", func() bool {
		return strings.Count(n.run.Output(), `msg="registered at relay"`) >= 2
	})
	first := n.relays[false]
	one, two := lab.NewGate(t, n.builder, "one"), lab.NewGate(t, n.builder, "two")
	p := n.client.Host.StartCmd(n.build(false, lab.Log("relays", "echo begun; read line < /gate/one; echo halfway; read line < /gate/two")))
	p.WaitFor("log> begun", longest)
	first.Kill()
	one.Open()
	p.WaitFor("log> halfway", longest)
	first.Start()
	eventually(t, "the builder is registered at the first again", func() bool {
		return strings.Count(n.run.Output(), `msg="registered at relay" relay=`+first.URL) >= 2
	})
	other.Kill()
	two.Open()
	n.finishes(t, p)
	says(t, p.Output(), "path         relay "+first.URL)
}
