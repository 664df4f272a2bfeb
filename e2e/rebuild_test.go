//go:build e2e

package e2e

import (
	"strings"
	"testing"

	"github.com/drv-thru/drv-thru/core/wire"
	"github.com/drv-thru/drv-thru/e2e/lab"
)

// --rebuild of what the builder has never built builds it twice and compares; of
// what it has, once more. The second of two results that differ is kept for a
// trusted client, and for the holder of a ticket nothing is.
func TestRebuild(t *testing.T) {
	for _, root := range lab.Roots {
		t.Run(string(root), func(t *testing.T) {
			bh := lab.NewHost(t, root, lab.WithName("builder"))
			ch := lab.NewHost(t, root, lab.WithName("client"))
			bh.StartDaemon()
			c := lab.NewClient(t, ch)
			relay := lab.StartRelay(t, bh)
			b := lab.StartBuilder(t, bh, lab.BuilderConfig{
				Relays: []string{relay.URL}, Args: []string{"--trusted-client", ch.Run(lab.Alice, "drv-thru", "key", "show")},
			})
			ch.StartDaemon("trusted-public-keys = " + b.PublicKey())
			var st struct{ Endpoint string }
			decode(t, b.Admin("status", "--json"), &st)
			rebuild := func(route []string, e lab.Expr) *lab.Cmd {
				args := append([]string{"drv-thru", "build", "-L", "--rebuild", "--no-link", "--impure", "--expr", string(e)}, route...)
				return ch.Command(c.User, args...)
			}
			trusted := []string{"--server", st.Endpoint, "--relay-url", relay.URL}

			e := lab.Hello("rebuild")
			for _, times := range []int{2, 1} {
				out, err := rebuild(trusted, e).CombinedOutput()
				if err != nil || strings.Count(string(out), "built hello") != times {
					t.Errorf("%v; it should have been built %d times:\n%s", err, times, out)
				}
			}
			// It is here now: nobody has to be named, and nobody is asked.
			named := func(e lab.Expr) *lab.Cmd {
				return ch.Command(c.User, "drv-thru", "build", "-o", "/tmp/rebuilt", "--impure", "--expr", string(e))
			}
			here, err := offline(named(e)).CombinedOutput()
			if err != nil {
				t.Errorf("%v\n%s", err, here)
			}
			says(t, string(here), "everything is here already; nobody was asked", "-hello")
			says(t, fails(t, named(lab.Hello("elsewhere")), wire.ExitUsage), "has to be built elsewhere", "--ticket TICKET, --builder NAME", "--server ID")

			holder := []string{"--ticket", b.Ticket("--uses", "unlimited")}
			out := fails(t, rebuild(holder, lab.Random("rebuild")), wire.ExitBuildFailed)
			says(t, out, "the second build gave another result", "/nix/store/", "differs")
			saysNot(t, out, ".check", "share/random")
			if err := bh.Verify(); err != nil {
				t.Error("a ticket leaves something behind:", err)
			}
			out = fails(t, rebuild(trusted, lab.Random("rebuild")), wire.ExitBuildFailed)
			says(t, out, "differs from", ".check")
			t.Logf("KEPT %s\n%s", root, bh.Run(lab.RootUser, "sh", "-c", "find /tmp /nix/var/nix/builds /nix/var/nix/b -maxdepth 2 2>/dev/null | xargs ls -ldn; ls -ldn /tmp /nix/var/nix/builds; ls -lan /nix/var/nix /nix/var/nix/builds"))
			t.Log("SAID", bh.Run(lab.BuilderUser, "sh", "-c", "rm -rf /tmp/nix-build-* /nix/var/nix/builds/*; ls -la /tmp /nix/var/nix/builds || true"))
			saysNot(t, out, "share/same")
			// The other result goes with the garbage.
			bh.Run(lab.RootUser, "nix-store", "--gc")
			if err := bh.Verify(); err != nil {
				t.Error(err)
			}
		})
	}
}
