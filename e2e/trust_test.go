//go:build e2e

package e2e

import (
	"strings"
	"testing"

	"github.com/drv-thru/drv-thru/core/wire"
	"github.com/drv-thru/drv-thru/e2e/lab"
)

// A client whose Nix would refuse the outputs is told so before the build
// starts, with what to do about it, and the ticket keeps its use. Each of the
// ways in nix.conf that it is told works.
func TestOutputTrust(t *testing.T) {
	forEachRoot(t, func(t *testing.T, root lab.Root) {
		b := lab.NewHost(t, root, lab.WithName("builder"))
		b.StartDaemon()
		builder := lab.StartBuilder(t, b, lab.BuilderConfig{Relays: []string{lab.StartRelay(t, b).URL}})
		c := lab.NewHost(t, root, lab.WithName("client"))
		client := lab.NewClient(t, c)
		key := builder.PublicKey()
		name, _, _ := strings.Cut(key, ":")
		build := func(ticket, salt string) *lab.Cmd {
			return client.BuildCmd(ticket, "--no-link", "--print-out-paths", "--impure", "--expr", string(lab.Hello(salt)))
		}

		const included = "/etc/nix/nix.custom.conf"
		c.WriteFile(lab.RootUser, included, "trusted-public-keys = other-1:"+strings.Repeat("A", 43)+"=\n")
		ticket := builder.Ticket("--name", "distrust")
		before := b.Paths()
		for _, conf := range []string{
			"trusted-public-keys =",
			"trusted-public-keys = other-1:" + strings.Repeat("A", 43) + "=",
			"trusted-public-keys = " + name + ":" + strings.Repeat("A", 43) + "=",
			"trusted-public-keys = " + key + "\n!include " + included,
		} {
			c.StartDaemon(conf)
			text := fails(t, build(ticket, "distrust"), wire.ExitFailed)
			says(t, text, key, "alice", "extra-trusted-public-keys = "+key, "extra-trusted-users = alice")
			saysNot(t, text, "sending", "building /nix/store")
			if same := strings.Contains(text, "another key of the same name"); same != strings.Contains(conf, name+":AAAA") {
				t.Errorf("with %q the same name is noticed: %v\n%s", conf, same, text)
			}
		}
		// What a user writes into a nix.conf of their own does not count: the
		// daemon does not heed it.
		c.StartDaemon()
		c.WriteFile(lab.Alice, "/home/alice/.config/nix/nix.conf", "extra-trusted-public-keys = "+key+"\n")
		fails(t, build(ticket, "distrust"), wire.ExitFailed)
		c.Run(lab.Alice, "rm", "/home/alice/.config/nix/nix.conf")
		spent(t, builder, "distrust", 0)
		if after := b.Paths(); len(after) != len(before) {
			t.Errorf("the builder's store has changed: %d paths, not %d", len(after), len(before))
		}

		c.WriteFile(lab.RootUser, included, "extra-trusted-public-keys = "+key+"\n")
		for way, conf := range map[string]string{
			"key":     "extra-trusted-public-keys = " + key,
			"include": "include " + included,
			"user":    "extra-trusted-users = alice\ntrusted-public-keys = " + name + ":" + strings.Repeat("A", 43) + "=",
			"no sigs": "require-sigs = false",
		} {
			c.StartDaemon(conf)
			path := must(t, build(builder.Ticket(), way))
			if !c.Has(path) {
				t.Errorf("%s: %s was not imported", way, path)
			}
		}
		(&lab.Pair{Builder: builder, Client: client}).Verify(t)
	})
}
