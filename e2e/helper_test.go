//go:build e2e

package e2e

import (
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/drv-thru/drv-thru/core/wire"
	"github.com/drv-thru/drv-thru/e2e/lab"
)

const (
	helperSocket = "/run/drv-thru-import-helper.socket"
	helperKeys   = "/etc/drv-thru/import-helper.keys"
)

// startHelper runs the import helper for alice with a list of keys.
func startHelper(t *testing.T, h *lab.Host, keys string, args ...string) *lab.Process {
	t.Helper()
	h.WriteFile(lab.RootUser, helperKeys, keys)
	argv := append([]string{"drv-thru", "import-helper", "serve", "-v", "--socket-group", lab.Alice, "--trusted-public-key-file", helperKeys}, args...)
	p := h.Start(lab.RootUser, argv...)
	p.WaitFor("msg=ready", longest)
	return p
}

// stopHelper ends the helper and wants nothing of it left.
func stopHelper(t *testing.T, h *lab.Host, p *lab.Process) {
	t.Helper()
	p.Signal(syscall.SIGTERM)
	if err := p.Wait(longest); err != nil {
		t.Errorf("import helper: %v\n%s", err, tailOf(p.Output()))
	}
	left := h.Run(lab.RootUser, "sh", "-c", "ls -A /run/drv-thru-import-helper; test ! -e "+helperSocket+" || echo socket; pgrep -x nix || true")
	if left != "" {
		t.Errorf("left behind: %s", left)
	}
}

// A user whom Nix does not trust, with a builder whose key Nix does not know,
// imports through the helper, which the client finds by itself.
func TestImportHelper(t *testing.T) {
	forEachRoot(t, func(t *testing.T, root lab.Root) {
		b := lab.NewHost(t, root, lab.WithName("builder"))
		b.StartDaemon()
		builder := lab.StartBuilder(t, b, lab.BuilderConfig{Relays: []string{lab.StartRelay(t, b).URL}})
		c := lab.NewHost(t, root, lab.WithName("client"))
		c.StartDaemon("trusted-public-keys =")
		client := lab.NewClient(t, c)
		key := builder.PublicKey()

		// Without a helper, or with one that has another list, nothing is built.
		ticket := builder.Ticket("--uses", "unlimited", "--name", "help")
		expr := string(lab.Wide(30, "help"))
		build := func() *lab.Cmd {
			return client.BuildCmd(ticket, "--no-link", "--print-out-paths", "--impure", "--expr", expr)
		}
		says(t, fails(t, build(), wire.ExitFailed), key, "import-helper.keys")
		p := startHelper(t, c, "# nobody\nother-1:"+strings.Repeat("A", 43)+"=\n")
		says(t, fails(t, build(), wire.ExitFailed), "the key is not on its list")
		p.WaitFor("level=WARN msg=refused uid=.* code=key", longest)
		spent(t, builder, "help", 0)

		// The list is read anew each time.
		c.WriteFile(lab.RootUser, helperKeys, key+"\n")
		paths := strings.Fields(must(t, build()))
		if valid := c.Paths(); !slices.Contains(valid, paths[0]) {
			t.Errorf("%s was not imported", paths[0])
		}
		p.WaitFor("msg=imported uid=", longest)

		// Where nothing can be mounted, it imports over loopback HTTP.
		c.Shell(lab.RootUser, "mv /dev/fuse /dev/gone")
		over := client.BuildExpr(ticket, lab.Wide(5, "http"))
		c.Shell(lab.RootUser, "mv /dev/gone /dev/fuse")
		p.WaitFor("open /dev/fuse(?s:.*)code=mount", longest)
		if valid := c.Paths(); !slices.Contains(valid, over[0]) {
			t.Errorf("%s was not imported over HTTP", over[0])
		}

		// It is for --import auto alone.
		c.Delete(c.Closure(paths...)...)
		for _, mode := range []string{"fuse", "http"} {
			fails(t, client.BuildCmd(ticket, "--import", mode, "--no-link", "--impure", "--expr", expr), wire.ExitFailed)
		}
		// Who is not in the group cannot ask it.
		other := &lab.Client{Host: c, User: lab.BuilderUser}
		says(t, fails(t, other.BuildCmd(ticket, "--no-link", "--impure", "--expr", expr), wire.ExitFailed), "open to a group that the user is not in")
		stopHelper(t, c, p)

		// Root of a container may not even leave its mount namespace.
		contained := c.Start(lab.RootUser, "setpriv", "--bounding-set", "-sys_admin",
			"drv-thru", "import-helper", "serve", "--socket-group", lab.Alice, "--trusted-public-key-file", helperKeys)
		contained.WaitFor("msg=ready", longest)
		over = client.BuildExpr(ticket, lab.Wide(5, "contained"))
		contained.WaitFor("code=mount(?s:.*)msg=imported", longest)
		if valid := c.Paths(); !slices.Contains(valid, over[0]) {
			t.Errorf("%s was not imported in a container", over[0])
		}
		stopHelper(t, c, contained)
		if mounts := c.FuseMounts(); len(mounts) > 0 {
			t.Errorf("still mounted: %v", mounts)
		}
		(&lab.Pair{Builder: builder, Client: client}).Verify(t)
	})
}
