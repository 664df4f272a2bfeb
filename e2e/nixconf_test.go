//go:build e2e

package e2e

import (
	"testing"

	"github.com/drv-thru/drv-thru/core/wire"
	"github.com/drv-thru/drv-thru/e2e/lab"
)

// What the builder's owner has set in nix.conf holds for builds of others: setting
// options of a connection replaces some of it.
func TestBuilderNixConf(t *testing.T) {
	forEachRoot(t, func(t *testing.T, root lab.Root) {
		bh := lab.NewHost(t, root, lab.WithName("builder"))
		// A cache that has another result of a derivation than building it gives.
		bh.StartDaemon()
		secret, public := bh.Key(lab.RootUser, "cache-1")
		random := lab.Random("nix.conf")
		cached := bh.BuildExpr(lab.Alice, random)[0]
		bh.Run(lab.RootUser, "nix", "store", "sign", "--key-file", secret, cached)
		bh.Run(lab.RootUser, "nix", "copy", "--to", "file:///var/cache/nix", cached)
		was := bh.Run(lab.Alice, "cat", cached+"/share/random")
		bh.Delete(cached)
		conf := []string{"substituters = file:///var/cache/nix", "trusted-public-keys = " + public}

		bh.StartDaemon(append(conf, "substitute = false", "max-silent-time = 1")...)
		bh.WriteSecret(lab.RootUser, "/etc/nix/netrc", "machine 127.0.0.1 login me password secret\n")
		relay := lab.StartRelay(t, bh)
		b := lab.StartBuilder(t, bh, lab.BuilderConfig{Relays: []string{relay.URL}})
		says(t, b.Output(), "logins in Nix's netrc-file", "file=/etc/nix/netrc")
		ch := lab.NewHost(t, root, lab.WithName("client"))
		ch.StartDaemon("trusted-public-keys = " + b.PublicKey())
		c := lab.NewClient(t, ch)

		path := c.BuildExpr(b.Ticket(), random)[0]
		if path != cached {
			t.Fatalf("built %s, the cache has %s", path, cached)
		}
		if ch.Run(lab.Alice, "cat", path+"/share/random") == was {
			t.Error("with substitute = false, the output came from a cache")
		}
		silent := c.BuildCmd(b.Ticket(), "--no-link", "--impure", "--expr", string(lab.Waiting(lab.NewGate(t, bh, "silent"), "silent")))
		says(t, fails(t, silent, wire.ExitBuildFailed), "timed out after 1 seconds")

		// Without it, as ever, it does.
		b.Stop(longest)
		bh.Delete(path)
		bh.StartDaemon(conf...)
		b.Start()
		ch.Delete(path)
		must(t, c.BuildCmd(b.Ticket(), "--no-link", "--impure", "--expr", string(random)).AddEnv("DRV_THRU_CACHE_SIZE=0"))
		if got := ch.Run(lab.Alice, "cat", path+"/share/random"); got != was {
			t.Errorf("the output has %s, that of the cache %s", got, was)
		}
	})
}

// A daemon alone is not enough: the nix command evaluates and imports.
func TestNixCommand(t *testing.T) {
	lab.Programs(t)
	forEachRoot(t, func(t *testing.T, root lab.Root) {
		h := lab.NewHost(t, root)
		h.StartDaemon()
		const none = "PATH=/usr/local/bin" // nix is in /usr/bin
		build := h.Command(lab.Alice, "drv-thru", "build", "--no-link", "--impure", "--expr", string(lab.Hello("none"))).AddEnv(none)
		says(t, fails(t, build, wire.ExitFailed), "hint: this needs the Nix of this machine")
		wants := map[string]string{
			none:                               "put its programs into PATH",
			"NIX_REMOTE=/home/alice/elsewhere": "/home/alice/elsewhere",
			"NIX_CONFIG=no configuration":      "configuration line 'no configuration'",
			"NOTHING=wrong":                    "",
		}
		doctors := make(map[string]*lab.Process, len(wants)) // all at once: each waits for a router
		for env := range wants {
			doctors[env] = h.StartCmd(h.Command(lab.Alice, "drv-thru", "doctor").AddEnv(env))
		}
		for env, doctor := range doctors {
			code := lab.ExitCode(doctor.Wait(longest))
			if wants[env] == "" {
				saysNot(t, doctor.Output(), "nix command")
			} else {
				says(t, doctor.Output(), "broken  nix command", wants[env])
			}
			if (code == 0) != (wants[env] == "") {
				t.Errorf("%s: exit code %d", env, code)
			}
		}
	})
}
