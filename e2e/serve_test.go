//go:build e2e

package e2e

import (
	"strings"
	"testing"

	"github.com/drv-thru/drv-thru/core/wire"
	"github.com/drv-thru/drv-thru/e2e/lab"
)

// serve refuses a Nix daemon that would make serving strangers unsafe. For each
// refusal there is a flag that overrides it, and no other does.
func TestServeRefuses(t *testing.T) {
	lab.Programs(t)
	forEachRoot(t, func(t *testing.T, root lab.Root) {
		h := lab.NewHost(t, root)
		c := lab.NewHost(t, root, lab.WithName("client"))
		relay := lab.StartRelay(t, h)
		for _, tt := range []struct {
			name, conf    string
			flag, another string
			text          []string
		}{
			{"sandbox off", "sandbox = false", "--allow-unsandboxed", "--allow-trusted-daemon", []string{"error: builds are not sandboxed", "sandbox = false"}},
			{"sandbox relaxed", "sandbox = relaxed", "--allow-unsandboxed", "--allow-trusted-daemon", []string{"error: builds are not sandboxed", "sandbox = relaxed"}},
			{"builds as root", "build-users-group =", "--allow-unsandboxed", "--allow-trusted-daemon", []string{"error: builds run as root", "build-users-group"}},
			{"trusted user", "extra-trusted-users = builder", "--allow-trusted-daemon", "--allow-unsandboxed", []string{"error: the Nix daemon trusts this user (builder)", "trusted-users"}},
		} {
			t.Run(tt.name, func(t *testing.T) {
				h.StartDaemon(tt.conf)
				dir := "/var/lib/drv-thru/" + strings.ReplaceAll(tt.name, " ", "-")
				serve := func(flags ...string) *lab.Cmd {
					argv := []string{"drv-thru", "serve", "--data-dir", dir, "--relay", relay.URL}
					return h.Command(lab.BuilderUser, append(argv, flags...)...)
				}
				for _, flags := range [][]string{nil, {tt.another}} {
					text := fails(t, serve(flags...), wire.ExitFailed)
					says(t, text, append(tt.text, tt.flag)...)
					saysNot(t, text, "ready")
				}
				// It serves, and it builds. (Without the sandbox a builder has no busybox.)
				b := lab.StartBuilder(t, h, lab.BuilderConfig{DataDir: dir, Relays: []string{relay.URL}, Args: []string{tt.flag}})
				defer b.Stop(longest)
				c.StartDaemon("trusted-public-keys = " + b.PublicKey())
				path := must(t, lab.NewClient(t, c).BuildCmd(b.Ticket(), "--no-link", "--print-out-paths", "--impure", "--expr", string(lab.Concat("plain", tt.name))))
				if !c.Has(path) {
					t.Errorf("%s was not imported", path)
				}
			})
		}
		if err := h.Verify(); err != nil {
			t.Error(err)
		}
	})
}

// A daemon that says that it sandboxes and does not is found out: the setting
// was changed after the daemon had been started.
func TestServeProbesSandbox(t *testing.T) {
	lab.Programs(t)
	h := lab.NewHost(t, lab.Trixie)
	h.StartDaemon("sandbox = false")
	conf, err := h.ReadFile("/etc/nix/nix.conf")
	if err != nil {
		t.Fatal(err)
	}
	h.WriteFile(lab.RootUser, "/etc/nix/nix.conf", strings.ReplaceAll(string(conf), "sandbox = false\n", ""))
	if got := h.Run(lab.BuilderUser, "nix", "config", "show", "sandbox"); got != "true" {
		t.Fatalf("nix.conf has sandbox = %s", got)
	}
	text := fails(t, h.Command(lab.BuilderUser, "drv-thru", "serve", "--data-dir", "/var/lib/drv-thru/probe"), wire.ExitFailed)
	says(t, text, "sandbox", "--allow-unsandboxed")
	saysNot(t, text, "ready")

	// Where nothing can be built, a sandbox is not what is missing.
	h.StartDaemon("post-build-hook = /bin/false")
	text = fails(t, h.Command(lab.BuilderUser, "drv-thru", "serve", "--data-dir", "/var/lib/drv-thru/probe"), wire.ExitFailed)
	says(t, text, "'/bin/false' failed", "has to build a derivation of one line")
	saysNot(t, text, "ready", "to serve all the same")
}
