//go:build e2e

package e2e

import (
	"fmt"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/drv-thru/drv-thru/e2e/lab"
)

// natLab is a builder and a client on hosts that are plugged into one network
// after another.
type natLab struct {
	in      *lab.Internet
	relays  map[bool]*lab.Relay // by whether they are reached by IPv6
	builder *lab.Host
	client  *lab.Client
	run     *lab.Builder
	ticket  string
}

func newNATLab(t *testing.T, families ...bool) *natLab {
	n := &natLab{in: lab.NewInternet(t, lab.Trixie), relays: map[bool]*lab.Relay{}}
	for _, v6 := range families {
		n.relays[v6] = n.in.StartRelay(v6)
	}
	n.builder = lab.NewHost(t, lab.Trixie, lab.WithName("builder"), lab.WithNetns())
	n.builder.StartDaemon()
	n.client = lab.NewClient(t, lab.NewHost(t, lab.Trixie, lab.WithName("client"), lab.WithNetns()))
	return n
}

// serve starts the builder where its host is plugged in now.
func (n *natLab) serve(t *testing.T, v6 bool, args ...string) {
	config := lab.BuilderConfig{Relays: []string{n.relays[v6].URL}, Direct: true, Args: append(n.in.STUN(v6), args...)}
	first := n.run == nil
	n.run = lab.StartBuilder(t, n.builder, config)
	if first {
		n.client.Host.StartDaemon("trusted-public-keys = " + n.run.PublicKey())
	}
	n.ticket = n.run.Ticket("--uses", "unlimited")
}

// build starts a build on the client, as the network is.
func (n *natLab) build(v6 bool, expr lab.Expr, args ...string) *lab.Cmd {
	args = append(append([]string{"--no-link", "-v", "-L"}, n.in.STUN(v6)...), args...)
	return n.client.BuildCmd(n.ticket, append(args, "--impure", "--expr", string(expr))...)
}

var (
	tookText = regexp.MustCompile(`msg="direct path" path="?([a-z-]+) [^ ]* took=([0-9.a-zµ]+)`)
	pathText = regexp.MustCompile(`(?m)^path +([a-z-]+) (.*)$`)
)

// show prints what whoever reads the run should see although the test passed:
// e2e/test does not keep lines with this mark back.
func show(text string) {
	for line := range strings.Lines(text) {
		fmt.Println("|", strings.TrimRight(line, " \n"))
	}
}

// expected says how a client in one network reaches a builder in another.
func expected(client, builder lab.Network) (direct bool) {
	switch {
	case client == lab.ProxyOnly:
		return false
	case builder == lab.Open:
		return true // by TCP where UDP is blocked
	case client == lab.Blocked || builder == lab.Blocked:
		return false
	case client == lab.Open:
		return true
	}
	return client == lab.Cone && builder == lab.Cone
}

// Every pair of networks, by IPv4 and by IPv6, with a real build: by a direct path
// within two seconds where there can be one, by the relay where not.
func TestNATMatrix(t *testing.T) {
	n := newNATLab(t, false, true)
	table := &strings.Builder{}
	fmt.Fprintf(table, "%-22s", "builder")
	for _, c := range lab.Networks {
		fmt.Fprintf(table, "%-22s", "client "+c)
	}
	cells := 0
	for _, v6 := range []bool{false, true} {
		for _, b := range []lab.Network{lab.Open, lab.Cone, lab.Symmetric, lab.Blocked} {
			site := n.in.Plug(n.builder, b, v6)
			n.serve(t, v6)
			fmt.Fprintf(table, "\n%-22s", fmt.Sprintf("%s IPv%d", b, map[bool]int{false: 4, true: 6}[v6]))
			for _, c := range lab.Networks {
				cell := n.cell(t, c, b, v6)
				fmt.Fprintf(table, "%-22s", cell)
				cells++
			}
			n.run.Stop(longest)
			site.Unplug()
		}
	}
	show(fmt.Sprintf("%d cells: path, and how long after the connection it was there\n%s", cells, table))
}

// cell builds once and tells by which path.
func (n *natLab) cell(t *testing.T, c, b lab.Network, v6 bool) string {
	site := n.in.Plug(n.client.Host, c, v6)
	defer site.Unplug()
	name := fmt.Sprintf("%s-%s-%t", c, b, v6)
	want := expected(c, b)
	const tries = 3
	for try := 1; ; try++ {
		salt := fmt.Sprintf("%s-%d", name, try)
		var gate *lab.Gate
		expr := lab.Log(salt, "echo done > $out")
		if want {
			// The build is there until the direct path is.
			gate = lab.NewGate(t, n.builder, salt)
			expr = lab.Waiting(gate, salt)
		}
		cmd := n.build(v6, expr)
		if c == lab.ProxyOnly {
			cmd.AddEnv(n.in.ProxyEnv(v6)...)
		}
		p := n.client.Host.StartCmd(cmd)
		took := time.Duration(0)
		if want {
			m := p.WaitFor(tookText.String(), longest)
			var err error
			if took, err = time.ParseDuration(m[2]); err != nil {
				t.Fatal(err)
			}
			gate.Open()
		}
		if err := p.Wait(longest); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		m := pathText.FindStringSubmatch(p.Output())
		if m == nil {
			t.Fatalf("%s: the summary names no path:\n%s", name, p.Output())
		}
		direct := strings.HasPrefix(m[1], "direct")
		if want && took > 2*time.Second && try < tries {
			continue // the machine may be busy
		}
		if direct != want || took > 2*time.Second {
			t.Errorf("%s: %s %s after %s, want direct: %t\n%s", name, m[1], m[2], took, want, p.Output())
		}
		if !direct {
			return m[1]
		}
		return fmt.Sprintf("%s %s", strings.TrimPrefix(m[1], "direct-"), took.Round(time.Millisecond))
	}
}
