//go:build e2e

package e2e

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/drv-thru/drv-thru/e2e/lab"
)

// Tickets with the builder's own addresses need no relay, and say which they are
// whenever they are shown.
func TestNATDirectTicket(t *testing.T) {
	n := newNATLab(t, false)
	site := n.in.Plug(n.builder, lab.Open, false)
	n.serve(t, false)
	client := n.in.Plug(n.client.Host, lab.Cone, false)
	relayed := n.ticket
	near := n.run.Ticket("--direct", "--uses", "unlimited", "--name", "near")
	for name, text := range map[string]string{"made": near, "revealed": strings.TrimSpace(n.run.Admin("ticket", "reveal", "near"))} {
		shown := n.run.Admin("ticket", "inspect", text)
		says(t, shown, "address  "+site.Address+":")
		saysNot(t, shown, "relay")
		if text != near {
			t.Errorf("%s: it is another text", name)
		}
	}

	t.Run("no-direct", func(t *testing.T) {
		client.Count()
		out, err := n.build(false, lab.Concat("relayed", "ticket"), "--no-direct").CombinedOutput()
		if err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		says(t, string(out), "path         relay "+n.relays[false].URL+" (direct paths are switched off)")
		if c := client.Counted(); c.DirectIn+c.DirectOut != 0 || c.RelayOut == 0 {
			t.Errorf("the client's traffic is %+v", c)
		}
	})

	t.Run("without a relay", func(t *testing.T) {
		relay := n.relays[false]
		relay.Kill()
		defer relay.Start()
		n.ticket = near
		defer func() { n.ticket = relayed }()
		out, err := n.build(false, lab.Concat("near", "ticket")).CombinedOutput()
		if err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		says(t, string(out), "path         direct-tcp "+site.Address)
		out, err = n.build(false, lab.Concat("near", "ticket2"), "--no-direct").CombinedOutput()
		if got := lab.ExitCode(err); got != 2 {
			t.Errorf("--no-direct with this ticket: exit code %d\n%s", got, out)
		}
		says(t, string(out), "the ticket names no relay, only addresses of the builder itself")
		n.mountBy(t, "address", `"circuit open" lane=control path="direct-tcp `)
		f := n.doctor(t, 0, n.in.STUN(false)...)
		if f["path"].Verdict != "ok" || f["builder"].Verdict != "ok" || f["clock"].Text != "agrees with the builder's" {
			t.Errorf("found %+v", f)
		}
		says(t, f["network"].Text, "behind a router that direct paths get through")
		n.ticket = relayed
		f = n.doctor(t, 1)
		if f["relay"].Verdict != "broken" || f["relay"].Fix == "" || f["builder"].Verdict != "broken" || f["builder"].Fix == "" {
			t.Errorf("found %+v", f)
		}
	})

	t.Run("doctor", func(t *testing.T) {
		n.run.WaitFor(`(?s)msg="not registered.*msg="registered at relay"`, longest)
		n.mountBy(t, "relay", `msg="direct path" path="direct-tcp `)
		// The relay answers STUN, too.
		f := n.doctor(t, 0)
		if f["relay"].Verdict != "ok" || f["clock"].Verdict != "ok" || f["path"].Verdict != "ok" || !strings.HasPrefix(f["path"].Text, "direct-tcp "+site.Address) {
			t.Errorf("found %+v", f)
		}
		says(t, f["network"].Text, "it takes two STUN servers")
	})
	t.Run("forged addresses", n.forgeries)
}

// mountBy reads something through a mount that logs by which path.
func (n *natLab) mountBy(t *testing.T, name, path string) {
	t.Helper()
	blob := must(t, n.build(false, lab.Blob(4, "mounted by "+name), "--print-out-paths"))
	mount := startMount(t, n.client.Host, n.ticket, append(n.in.STUN(false), "--cache-size", "0")...)
	mount.WaitFor(path, longest)
	must(t, n.client.Host.Command(lab.RootUser, "sh", "-euc",
		"cd "+mountDir+" && nar=$(sed -n 's/^URL: //p' "+narFile(blob)+") && cat $nar > /dev/null"))
	stopMount(t, n.client.Host, mount)
}

// findings are what doctor finds, by the name of the check.
type findings map[string]finding

type finding struct{ Check, Verdict, Text, Fix string }

// doctor runs drv-thru doctor on the client.
func (n *natLab) doctor(t *testing.T, code int, args ...string) findings {
	t.Helper()
	out, err := n.client.Host.Command(lab.Alice, append([]string{"drv-thru", "doctor", "--json", "--ticket", n.ticket}, args...)...).Output()
	if got := lab.ExitCode(err); got != code {
		t.Errorf("doctor exits with %d, want %d: %v\n%s", got, code, err, out)
	}
	var doc struct{ Findings []finding }
	if err := json.Unmarshal(out, &doc); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	found := make(findings)
	for _, f := range doc.Findings {
		found[f.Check] = f
	}
	return found
}
