//go:build e2e

package e2e

import (
	"strings"
	"testing"

	"github.com/drv-thru/drv-thru/e2e/lab"
)

// Floating content-addressed derivations work on every pairing when both
// daemons have ca-derivations on. What the local Nix does not learn is which
// output a derivation came to, so a second build asks the builder again, and
// moves nothing.
func TestFloatingCA(t *testing.T) {
	f := newFleet(t, lab.CADerivations)
	f.each(t, func(t *testing.T, c *lab.Client, b *lab.Builder) {
		salt := strings.ReplaceAll(t.Name(), "/", "-")
		ticket := b.Ticket("--name", salt, "--uses", "unlimited")
		// dependent needs the output of a floating one, and so has no path of
		// its own before that is built.
		file := "/home/alice/" + salt + "/default.nix"
		c.Host.WriteFile(lab.Alice, file, lab.Attrs(map[string]lab.Expr{
			"floating":  lab.FloatingCA(salt),
			"dependent": lab.Concat("dependent", salt, lab.FloatingCA(salt)),
		}))
		build := func(attr string) (string, string) {
			out, err := c.BuildCmd(ticket, "--no-link", "--json", "-f", file, attr).CombinedOutput()
			if err != nil {
				t.Fatal(err, string(out))
			}
			// The messages come first, then one line of JSON.
			text := strings.TrimSpace(string(out))
			last := text[strings.LastIndexByte(text, '\n')+1:]
			var results []struct{ Outputs map[string]string }
			decode(t, last, &results)
			return results[0].Outputs["out"], text
		}
		for _, attr := range []string{"floating", "dependent"} {
			path, _ := build(attr)
			if names(t, []string{path}) != attr || !c.Host.Has(path) || !b.Host.Has(path) {
				t.Errorf("%s: %s: valid here: %v, there: %v", attr, path, c.Host.Has(path), b.Host.Has(path))
			}
			signed(t, c.Host, path, b.PublicKey(), attr == "floating")
			again, text := build(attr)
			if again != path {
				t.Errorf("the second build of %s is %s, not %s", attr, again, path)
			}
			says(t, text, "inputs sent  0 B", "received     0 B for 0 paths")
			saysNot(t, text, "building /nix/store")
		}
		path, _ := build("floating")
		if got := c.Host.Run(lab.Alice, "cat", path+"/file"); got != salt {
			t.Errorf("the floating output has %q", got)
		}
	})
	f.verify(t)
}

// A builder whose daemon lacks the feature says so.
func TestFloatingCAWithoutFeature(t *testing.T) {
	b := lab.NewHost(t, lab.Trixie, lab.WithName("builder"))
	b.StartDaemon()
	p := lab.Join(t, b, lab.NewHost(t, lab.Trixie, lab.WithName("client")), lab.BuilderConfig{}, lab.CADerivations)
	ticket := p.Builder.Ticket("--name", "one")
	text := fails(t, p.Client.BuildCmd(ticket, "--no-link", "--impure", "--expr", string(lab.FloatingCA("a"))), 1)
	t.Log(text)
	says(t, text, "ca-derivations")
	spent(t, p.Builder, "one", 0)
}
