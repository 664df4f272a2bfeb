//go:build e2e

package e2e

import (
	"bytes"
	"crypto/rand"
	"net/http"
	"regexp"
	"strings"
	"testing"

	"github.com/drv-thru/drv-thru/core/nix"
	"github.com/drv-thru/drv-thru/core/ticket"
	"github.com/drv-thru/drv-thru/core/wire"
	"github.com/drv-thru/drv-thru/e2e/lab"
)

// A ticket gives access to what was built with it and to nothing else: what
// others have built, the rest of the store, even whether a build exists.
func TestHostileHolderAccess(t *testing.T) {
	forEachRoot(t, func(t *testing.T, root lab.Root) {
		s := newSiege(t, root)
		s.startHonest(t, root)
		m := regexp.MustCompile(`msg="build admitted" build=([a-z2-7]{26})`).FindAllStringSubmatch(s.builder.Output(), -1)
		running := wire.BuildID(m[len(m)-1][1])
		for name, id := range map[string]wire.BuildID{"finished": s.victimBuild, "running": running, "none": newBuildID(t)} {
			t.Run("build-"+name, func(t *testing.T) { s.foreignBuild(t, id, name == "none") })
		}
		t.Run("cache", func(t *testing.T) { s.foreignCache(t) })
		t.Run("name-without-hash", func(t *testing.T) { s.nameWithoutHash(t) })
		// To its owner all of that is there, and still the same.
		a := s.victim.ask(http.MethodGet, "/v1/cache/closure?build="+string(s.victimBuild), nil)
		var closure wire.Closure
		if a.decode(t, &closure); len(closure.NarInfos) != 1 {
			t.Errorf("the owner is told of %d paths", len(closure.NarInfos))
		}
		s.finishHonest(t)
	})
}

// foreignBuild tries everything with another's build.
func (s *siege) foreignBuild(t *testing.T, id wire.BuildID, none bool) {
	build := "/v1/builds/" + string(id)
	body := func() *bytes.Reader { return bytes.NewReader(s.victimInputs.frames(0, 1)) }
	answers := map[string]answer{
		"state":   s.attacker.ask(http.MethodGet, build, nil),
		"events":  s.attacker.ask(http.MethodGet, build+"/events?from=1", nil),
		"inputs":  s.attacker.ask(http.MethodPut, build+"/inputs", body()),
		"cancel":  s.attacker.ask(http.MethodDelete, build, nil),
		"closure": s.attacker.ask(http.MethodGet, "/v1/cache/closure?build="+string(id), nil),
	}
	if !none {
		answers["attach"] = s.attacker.ask(http.MethodPut, build, document(t, s.victimInputs.request()))
		answers["replace"] = s.attacker.ask(http.MethodPut, build, document(t, with("mine").request()))
	}
	for what, a := range answers {
		if a.code != wire.CodeNotFound {
			t.Errorf("%s: %d %q %s %.200q", what, a.status, a.code, a.text, a.body)
		}
		if strings.Contains(a.text, string(s.victimOutput.Path)) || strings.Contains(a.text, s.victim.id.ID().String()) {
			t.Errorf("%s tells of the victim: %s", what, a.text)
		}
	}
}

// foreignCache asks for what others built and for what else is in the store.
func (s *siege) foreignCache(t *testing.T) {
	drv := s.victimInputs[1]
	out := nix.Path(s.victimOutput.Path)
	outNar := nix.SumHash(fileNar("of the victim"))
	for what, path := range map[string]string{
		"narinfo of an output":     "/v1/cache/narinfo/" + out.Hash(),
		"narinfo of a derivation":  "/v1/cache/narinfo/" + drv.Path.Hash(),
		"narinfo of a source":      "/v1/cache/narinfo/" + s.victimInputs[0].Path.Hash(),
		"narinfo of nothing":       "/v1/cache/narinfo/" + strings.Repeat("0", nix.HashPartLen),
		"narinfo with a wildcard":  "/v1/cache/narinfo/%25",
		"narinfo with dots":        "/v1/cache/narinfo/..%2f..%2finfo",
		"log":                      "/v1/cache/log/" + drv.Path.Base(),
		"log outside of the store": "/v1/cache/log/..%2f..%2f..%2fetc%2fpasswd",
		"a file":                   "/v1/cache/../../etc/passwd",
		"the admin's routes":       "/v1/tickets",
	} {
		// A path that is cleaned is answered with its clean form: not found either.
		if a := s.attacker.ask(http.MethodGet, path, nil); a.code != wire.CodeNotFound && a.status/100 != 3 {
			t.Errorf("%s: %d %q %s %.200q", what, a.status, a.code, a.text, a.body)
		}
	}
	// What others built cannot be told from what nobody has.
	req := wire.ManifestsRequest{Nars: []string{
		outNar.Nix32(), s.victimInputs[0].NarHash.Nix32(), drv.NarHash.Nix32(), "../secret.key", strings.Repeat("0", 52),
	}}
	a := s.attacker.ask(http.MethodPost, wire.RouteManifests, document(t, &req))
	if want := bytes.Repeat([]byte{wire.ManifestUnavailable}, len(req.Nars)); !bytes.Equal(a.body, want) {
		t.Errorf("manifests: %d %q %.200q", a.status, a.code, a.body)
	}
	var chunks wire.ChunksRequest
	for _, hash := range req.Nars {
		chunks.Nars = append(chunks.Nars, wire.NarChunks{NarHash: hash, Chunks: []wire.ChunkRange{{0, 1}, {1<<32 - 1, 1}}})
	}
	a = s.attacker.ask(http.MethodPost, wire.RouteChunks, document(t, &chunks))
	if want := make([]byte, 4*2*len(req.Nars)); !bytes.Equal(a.body, want) {
		t.Errorf("chunks: %d %q %.200q", a.status, a.code, a.body)
	}
	// The same requests of the owner have it: one chunk, and nothing behind it.
	a = s.victim.ask(http.MethodPost, wire.RouteManifests, document(t, &req))
	if len(a.body) == 0 || a.body[0] != wire.ManifestFollows {
		t.Errorf("the owner's manifest: %d %q %.200q", a.status, a.code, a.body)
	}
	chunks.Goodput = 1 << 40 // so that nothing is compressed
	a = s.victim.ask(http.MethodPost, wire.RouteChunks, document(t, &chunks))
	if nar := fileNar("of the victim"); len(a.body) < 4+len(nar) || !bytes.Equal(a.body[4:4+len(nar)], nar) {
		t.Errorf("the owner's chunk: %d %q %.200q", a.status, a.code, a.body)
	}
	if a := s.attacker.ask(http.MethodPost, wire.RouteManifests, document(t, &wire.ManifestsRequest{Nars: make([]string, wire.MaxNarsRequest+1)})); a.code != wire.CodeTooLarge {
		t.Errorf("too many NARs: %d %q", a.status, a.code)
	}
	if a := s.attacker.ask(http.MethodPost, wire.RouteChunks, document(t, &wire.ChunksRequest{
		Nars: []wire.NarChunks{{NarHash: outNar.Nix32(), Chunks: []wire.ChunkRange{{0, wire.MaxChunksRequest}, {0, 1}}}},
	})); a.code != wire.CodeTooLarge {
		t.Errorf("too many chunks: %d %q", a.status, a.code)
	}
}

// nameWithoutHash names a path that is there, but does not know what is in it.
func (s *siege) nameWithoutHash(t *testing.T) {
	src := s.victimInputs[0]
	src.NarHash = nix.SumHash([]byte("a guess"))
	in := with("guess", src)
	var plan wire.Plan
	a := s.attacker.ask(http.MethodPost, wire.RoutePlan, document(t, &wire.PlanRequest{Roots: in.request().Roots, Closure: in.request().Closure}))
	if a.decode(t, &plan); len(plan.Wanted) != 2 {
		t.Errorf("of a path named with a wrong hash the plan wants %v", plan.Wanted)
	}
	s.run(t, s.attacker, attack{want: wire.CodeInputHash, inputs: in})
}

// Nothing but a ticket's secret opens the door, and no ticket opens it wider.
func TestHostileHolderGuesses(t *testing.T) {
	s := newSiege(t, lab.Trixie)
	s.startHonest(t, lab.Trixie)
	p := *s.attacker
	tk := p.ticket
	revoked := newPeer(t, s.ticket())
	s.builder.Admin("ticket", "revoke", revoked.ticket.ID().String())
	bound := newPeer(t, s.ticket("--bind-client", s.victim.id.ID().String()))
	used := newPeer(t, s.ticket("--uses", "1"))
	if _, a := used.putBuild(newBuildID(t), with("last-use").request()); a.code != "" {
		t.Fatal(a.text)
	}
	flipped := tk.Secret
	flipped[31] ^= 1
	id := tk.ID()
	for name, c := range map[string]struct {
		peer *peer
		auth string
		want wire.Code
	}{
		"none":         {&p, "", wire.CodeNoCredentials},
		"basic":        {&p, "Basic cm9vdDpyb290", wire.CodeNoCredentials},
		"empty":        {&p, "Bearer ", wire.CodeNoCredentials}, // HTTP/1.1 has no space at the end
		"one bit":      {&p, "Bearer " + flipped.Text(), wire.CodeTicketUnknown},
		"upper case":   {&p, "Bearer " + strings.ToUpper(tk.Secret.Text()), wire.CodeTicketUnknown},
		"the ID":       {&p, "Bearer " + id.String(), wire.CodeTicketUnknown},
		"zeros":        {&p, "Bearer " + ticket.Secret{}.Text(), wire.CodeTicketUnknown},
		"the ticket":   {&p, "Bearer " + tk.String(), wire.CodeTicketUnknown},
		"long":         {&p, "Bearer " + strings.Repeat("a", 10_000), wire.CodeTicketUnknown},
		"SQL":          {&p, "Bearer ' OR 1=1 --", wire.CodeTicketUnknown},
		"revoked":      {revoked, revoked.auth, wire.CodeTicketRevoked},
		"another's":    {bound, bound.auth, wire.CodeTicketBound},
		"used up":      {used, used.auth, wire.CodeTicketUsed},
		"the victim's": {s.victim, s.victim.auth, wire.CodeTicketUsed},
	} {
		t.Run(name, func(t *testing.T) {
			q := *c.peer
			q.t, q.auth = t, c.auth
			paths := []string{"/v1/builds/" + string(newBuildID(t))}
			if c.want != wire.CodeTicketUsed { // its holder may look at what it has built
				paths = append(paths, "/v1/builds/"+string(s.victimBuild), wire.RouteInfo)
			}
			for i, path := range paths {
				method, body := http.MethodGet, (*wire.BuildRequest)(nil)
				if i == 0 {
					method, body = http.MethodPut, with("guess").request()
				}
				var a answer
				if body == nil {
					a = q.ask(method, path, nil)
				} else {
					a = q.ask(method, path, document(t, body))
				}
				if a.code != c.want {
					t.Errorf("%s %s: %d %q %s", method, path, a.status, a.code, a.text)
				}
			}
		})
	}
	t.Run("random", func(t *testing.T) {
		q := p
		q.t = t
		for range 2000 {
			var guess ticket.Secret
			rand.Read(guess[:])
			q.auth = "Bearer " + guess.Text()
			if a := q.ask(http.MethodGet, wire.RouteInfo, nil); a.code != wire.CodeTicketUnknown {
				t.Fatalf("%d %q %s", a.status, a.code, a.text)
			}
		}
	})
	t.Run("version", func(t *testing.T) {
		for _, v := range []string{"", "0", "2", "1.0", "x"} {
			if a := p.ask(http.MethodGet, wire.RouteInfo, nil, wire.HeaderVersion, v); a.code != wire.CodeVersion {
				t.Errorf("version %q: %d %q", v, a.status, a.code)
			}
		}
	})
	s.finishHonest(t)
}
