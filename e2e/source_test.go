//go:build e2e

package e2e

import (
	"bytes"
	"net/http"
	"slices"
	"testing"

	"github.com/drv-thru/drv-thru/core/wire"
	"github.com/drv-thru/drv-thru/e2e/lab"
)

// Knowing a path's name gives no access to what is in it: the builder has a
// source only for those who can tell its contents' hash.
func TestSourceNeedsItsHash(t *testing.T) {
	forEachRoot(t, func(t *testing.T, root lab.Root) {
		h := lab.NewHost(t, root)
		h.StartDaemon()
		b := lab.StartBuilder(t, h, lab.BuilderConfig{Relays: []string{lab.StartRelay(t, h).URL}})
		const secret = "what only the owner of the builder knows\n"
		src := addressed("source", fileNar(secret))
		h.WriteFile(lab.BuilderUser, "/var/lib/drv-thru/source", secret)
		if got := h.Run(lab.BuilderUser, "nix-store", "--add-fixed", "--recursive", "sha256", "/var/lib/drv-thru/source"); got != string(src.Path) {
			t.Fatalf("Nix has the source at %s, not %s", got, src.Path)
		}
		whole := closure{src, printer("reader", "read", src.Path)}
		p := newPeer(t, b.Ticket("--uses", "unlimited"))

		wanted := func(what string, req *wire.BuildRequest, want ...int) wire.BuildID {
			var plan wire.Plan
			p.ask(http.MethodPost, "/v1/plan", document(t, &wire.PlanRequest{Roots: req.Roots, Closure: req.Closure})).decode(t, &plan)
			if !slices.Equal(plan.Wanted, want) {
				t.Errorf("%s: the plan wants %v, not %v", what, plan.Wanted, want)
			}
			id := newBuildID(t)
			build, a := p.putBuild(id, req)
			if a.code != "" || !slices.Equal(build.Wanted, want) {
				t.Errorf("%s: the build wants %v, not %v (%s)", what, build.Wanted, want, a.text)
			}
			return id
		}
		wanted("who knows the contents", whole.request(), 1)

		// The guess has the same size, and claims the path of the secret.
		guess := src
		guess.nar = fileNar("that which anybody may guess about it   \n")
		guess.NarHash = addressed("source", guess.nar).NarHash
		liar := closure{guess, whole[1]}
		id := wanted("who guesses", liar.request(), 0, 1)
		if a := p.putInputs(id, bytes.NewReader(liar.frames(0, 1))); a.code != wire.CodeInputAddress {
			t.Errorf("a guess is answered with %q: %s", a.code, a.text)
		}
		// Its name alone does not show it either.
		if a := p.ask(http.MethodGet, "/v1/cache/narinfo/"+src.Path.Hash(), nil); a.code != wire.CodeNotFound {
			t.Errorf("its narinfo: answered with %d %q", a.status, a.code)
		}
		nars := document(t, &wire.ManifestsRequest{Nars: []string{src.NarHash.Nix32()}})
		if a := p.ask(http.MethodPost, wire.RouteManifests, nars); !bytes.Equal(a.body, []byte{wire.ManifestUnavailable}) {
			t.Errorf("its manifest: answered with %d %q %q", a.status, a.code, a.body)
		}
		if h.Has(string(whole[1].Path)) {
			t.Error("the derivation of a build without its source was taken")
		}
		if err := h.Verify(); err != nil {
			t.Error(err)
		}
	})
}
