//go:build e2e

package e2e

import (
	"bytes"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"math"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/nix-community/go-nix/pkg/narinfo/signature"

	"github.com/drv-thru/drv-thru/core/nix"
	"github.com/drv-thru/drv-thru/core/ticket"
	"github.com/drv-thru/drv-thru/core/wire"
	"github.com/drv-thru/drv-thru/e2e/lab"
)

// mostMemory is what no request may make the builder's process need.
const mostMemory = 512 << 20

// siege is a builder under attack: an honest client's build waits at a gate in
// it, a victim has built something there, and an attacker has a good ticket.
type siege struct {
	builder *lab.Builder
	relay   *lab.Relay
	host    *lab.Host
	client  *lab.Client
	friend  nix.SecretKey // trusted by the builder's Nix
	gate    *lab.Gate
	honest  *lab.Process

	victim       *peer
	victimBuild  wire.BuildID
	victimOutput wire.Output
	victimInputs closure

	attacker *peer
	tickets  []string // every one that was made
	before   []string // the builder's valid paths
}

func newSigningKey(t *testing.T, name string) nix.SecretKey {
	t.Helper()
	k, _, err := signature.GenerateKeypair(name, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func newSiege(t *testing.T, root lab.Root, conf ...string) *siege {
	t.Helper()
	s := &siege{friend: newSigningKey(t, "friend-1")}
	s.host = lab.NewHost(t, root, lab.WithName("builder"))
	s.host.StartDaemon(append(conf, "trusted-public-keys = "+s.friend.ToPublicKey().String())...)
	s.relay = lab.StartRelay(t, s.host)
	s.builder = lab.StartBuilder(t, s.host, lab.BuilderConfig{Relays: []string{s.relay.URL}, Args: []string{"--verbose"}})
	s.attacker = newPeer(t, s.ticket("--uses", "unlimited", "--max-upload-bytes", "64M"))
	s.build(t)
	s.before = s.host.Paths()
	return s
}

func (s *siege) ticket(args ...string) string {
	text := s.builder.Ticket(args...)
	s.tickets = append(s.tickets, text)
	return text
}

// build makes the victim's build.
func (s *siege) build(t *testing.T) {
	t.Helper()
	s.victim = newPeer(t, s.ticket())
	src := addressed("secret-source", dirNar("secret"))
	s.victimInputs = closure{src, printer("secret-output", "of the victim", src.Path)}
	s.victimBuild = newBuildID(t)
	if _, a := s.victim.putBuild(s.victimBuild, s.victimInputs.request()); a.code != "" {
		t.Fatalf("the victim's build: %s", a.text)
	}
	if a := s.victim.putInputs(s.victimBuild, bytes.NewReader(s.victimInputs.frames(0, 1))); a.code != "" {
		t.Fatalf("the victim's inputs: %s", a.text)
	}
	result := s.victim.wait(s.victimBuild)
	if result.Error != nil || len(result.Outputs) != 1 {
		t.Fatalf("the victim's build ended with %+v", result)
	}
	s.victimOutput = result.Outputs[0]
}

// startHonest lets a real client begin a build that ends after the attacks.
func (s *siege) startHonest(t *testing.T, root lab.Root) {
	t.Helper()
	c := lab.NewHost(t, root, lab.WithName("client"))
	c.StartDaemon("trusted-public-keys = " + s.builder.PublicKey())
	s.client = lab.NewClient(t, c)
	s.gate = lab.NewGate(t, s.host, "honest")
	s.honest = s.client.StartBuild(s.ticket(), "-L", "--no-link", "--print-out-paths", "--impure", "--expr", string(lab.Waiting(s.gate, "honest")))
	s.honest.WaitFor("waiting at honest", patience)
	s.before = s.host.Paths()
}

// finishHonest opens the gate and checks that nothing came of the attacks.
func (s *siege) finishHonest(t *testing.T) {
	t.Helper()
	s.gate.Open()
	if err := s.honest.Wait(patience); err != nil {
		t.Fatalf("the honest build: %v", err)
	}
	out := s.honest.WaitFor(`/nix/store/[a-z0-9]{32}-waiting\n`, patience)[0]
	if !s.client.Host.Has(strings.TrimSpace(out)) {
		t.Errorf("%s was not imported", out)
	}
	s.before = append(s.before, strings.TrimSpace(out))
	slices.Sort(s.before)
	s.unharmed(t)
	if err := s.client.Host.Verify(); err != nil {
		t.Error(err)
	}
}

// unharmed checks that the builder's store holds what it did, whole, and that
// its process has stayed small and kept its secrets.
func (s *siege) unharmed(t *testing.T) {
	t.Helper()
	s.unchanged(t)
	if err := s.host.Verify(); err != nil {
		t.Error(err)
	}
	if most := peak(t, s.host, "drv-thru", "serve"); most > mostMemory {
		t.Errorf("the builder needed %d MiB", most>>20)
	} else {
		t.Logf("the builder needed %d MiB", most>>20)
	}
	for _, p := range []*lab.Process{s.builder.Process, s.relay.Process} {
		for _, text := range s.tickets {
			tk, err := ticket.Parse(text)
			if err != nil {
				t.Fatal(err)
			}
			if out := p.Output(); strings.Contains(out, text) || strings.Contains(out, tk.Secret.Text()) {
				t.Error("a ticket's secret is in a log")
			}
		}
	}
	for _, file := range []string{"secret.key", "signing-secret.key"} {
		b, err := s.host.ReadFile("/var/lib/drv-thru/state/" + file)
		if err != nil {
			t.Fatal(err)
		}
		_, secret, _ := strings.Cut(strings.TrimSpace(string(b)), ":")
		if len(secret) < 32 || strings.Contains(s.builder.Output(), secret) {
			t.Errorf("%s is in the log, or no secret", file)
		}
	}
	if strings.Contains(s.builder.Output(), "panic") {
		t.Errorf("the builder panicked:\n%s", s.builder.Output())
	}
}

// unchanged compares the builder's valid paths with those of the beginning.
func (s *siege) unchanged(t *testing.T) {
	t.Helper()
	if gone, come := difference(s.before, s.host.Paths()); len(gone)+len(come) > 0 {
		t.Errorf("the builder's store lost %v and gained %v", gone, come)
	}
}

// attack is a build that must be refused.
type attack struct {
	want   wire.Code
	inputs closure
	edit   func(*wire.BuildRequest) // nil: an honest document
	// body is what is sent in frames; nil: all of inputs, in frames and chunks.
	body []byte
}

// run makes the request and sends the inputs, and checks that one of the two is
// refused for the right reason and that the connection goes on.
func (s *siege) run(t *testing.T, p *peer, a attack) {
	t.Helper()
	req := a.inputs.request()
	if a.edit != nil {
		a.edit(req)
	}
	if a.want == wire.CodeInputUnsigned {
		plan := p.ask(http.MethodPost, wire.RoutePlan, document(t, wire.PlanRequest{Roots: req.Roots, Closure: req.Closure}))
		if plan.code != a.want {
			t.Errorf("planned as %q (%s), want %q", plan.code, plan.text, a.want)
		}
	}
	id := newBuildID(t)
	build, got := p.putBuild(id, req)
	if got.code == "" {
		if a.body == nil {
			got = p.send(id, a.inputs, build.Wanted...)
		} else {
			got = p.putInputs(id, bytes.NewReader(a.body))
		}
		if got.code == "" {
			got.code, got.text = wire.CodeOf(p.result(id)), "the build's result"
		}
		p.ask(http.MethodDelete, "/v1/builds/"+string(id), nil)
	}
	if got.code != a.want {
		t.Errorf("refused as %q (%s), want %q", got.code, got.text, a.want)
	}
	if got.code == wire.CodeInternal {
		t.Errorf("the builder calls it its own failure: %s", got.text)
	}
	p.alive(t)
}

// result is why a build that took all inputs failed after all.
func (p *peer) result(id wire.BuildID) error {
	if r := p.wait(id); r.Error != nil {
		return r.Error
	}
	return nil
}

// alive checks that the same connection still answers.
func (p *peer) alive(t *testing.T) {
	t.Helper()
	if a := p.ask(http.MethodGet, wire.RouteInfo, nil); a.status != http.StatusOK {
		t.Errorf("afterwards the builder answers %d: %s", a.status, a.text)
	}
}

// with is a closure of entries and a derivation that needs them all.
func with(name string, entries ...entry) closure {
	var paths []nix.Path
	for _, e := range entries {
		paths = append(paths, e.Path)
	}
	return append(slices.Clone(closure(entries)), printer("needs-"+name, name, paths...))
}

// Whoever holds a ticket brings nothing into the builder's store but what its
// own contents vouch for.
func TestHostileHolderInputs(t *testing.T) {
	forEachRoot(t, func(t *testing.T, root lab.Root) {
		s := newSiege(t, root)
		s.startHonest(t, root)
		for name, a := range s.inputAttacks(t) {
			t.Run(name, func(t *testing.T) { s.run(t, s.attacker, a) })
		}
		s.finishHonest(t)
	})
}

func (s *siege) inputAttacks(t *testing.T) map[string]attack {
	attacks := make(map[string]attack)
	for name, nar := range malformed() {
		attacks["nar-"+name] = attack{want: wire.CodeInputNar, inputs: with(name, addressed(name, nar))}
		if bytes.HasPrefix(nar, words("nix-archive-1", "(", "type", "directory")) {
			big := addressed(name+"-large", afterMiB(nar))
			attacks["nar-"+name+"-large"] = attack{want: wire.CodeInputNar, inputs: with(name+"-large", big)}
		}
	}
	s.forged(t, attacks)
	s.derivations(attacks)
	s.sizes(attacks)
	return attacks
}

// malformed are archives that must not be unpacked.
func malformed() map[string][]byte {
	wrap := func(tokens ...string) []byte { return words(append([]string{"nix-archive-1"}, tokens...)...) }
	padded := fileNar("x")
	padded[len(padded)-len(words(")"))-1] = 1
	return map[string][]byte{
		"dotdot":     dirNar(".."),
		"dot":        dirNar("."),
		"slash":      dirNar("a/b"),
		"escape":     dirNar("../../../home/builder/.profile"),
		"absolute":   dirNar("/etc/profile"),
		"empty-name": dirNar(""),
		"nul":        dirNar("a\x00b"),
		"long-name":  dirNar(strings.Repeat("n", 256)),
		"duplicate":  dirNar("a", "a"),
		"unsorted":   dirNar("b", "a"),
		"deep":       deepNar(10_000, "d"),
		"too-deep":   deepNar(64, "d"),
		"long-path":  deepNar(16, strings.Repeat("n", 255)),
		"unclosed":   wrap("(", "type", "directory"),
		"trailing":   append(dirNar("a"), words("more")...),
		"padding":    padded,
		"device":     wrap("(", "type", "device", ")"),
		"no-target":  wrap("(", "type", "symlink", "target", "", ")"),
		// A link that a later entry then goes through.
		"through-link": wrap("(", "type", "directory",
			"entry", "(", "name", "l", "node", "(", "type", "symlink", "target", "/etc", ")", ")",
			"entry", "(", "name", "l/passwd", "node", "(", "type", "regular", "contents", "x", ")", ")", ")"),
		"magic": words("nix-archive-2", "(", "type", "regular", "contents", "x", ")"),
		"text":  []byte("hello, this is no archive at all"),
	}
}

// forged adds attacks with paths that are not what they are called.
func (s *siege) forged(t *testing.T, attacks map[string]attack) {
	stranger := newSigningKey(t, "friend-1") // of the same name
	for size, contents := range map[string]string{"small": "forged", "large": strings.Repeat("forged!!", 128<<10)} {
		forged := inputAddressed("tool-"+size, fileNar(contents))
		attacks["unsigned-"+size] = attack{want: wire.CodeInputUnsigned, inputs: with("unsigned", forged)}

		forged.Sigs = []string{forged.Sign(stranger)}
		attacks["untrusted-"+size] = attack{want: wire.CodeInputUnsigned, inputs: with("untrusted", forged)}

		genuine := inputAddressed("tool-"+size, fileNar(strings.Repeat("G", len(contents))))
		forged.Sigs = []string{genuine.Sign(s.friend)}
		attacks["signature-of-another-"+size] = attack{want: wire.CodeInputUnsigned, inputs: with("other-signature", forged)}

		genuine.Sigs = []string{genuine.Sign(s.friend)}
		genuine.nar = forged.nar
		attacks["signed-other-contents-"+size] = attack{want: wire.CodeInputHash, inputs: with("signed", genuine)}

		wrong := addressed("wrong-hash-"+size, fileNar(contents))
		wrong.nar = fileNar(strings.Repeat("W", len(contents)))
		attacks["nar-hash-"+size] = attack{want: wire.CodeInputHash, inputs: with("wrong-hash", wrong)}

		// The right hash of the wrong contents: only the address tells.
		other := addressed("wrong-address-"+size, fileNar(contents))
		other.nar = fileNar(strings.Repeat("W", len(contents)))
		other.NarHash = nix.SumHash(other.nar)
		attacks["content-address-"+size] = attack{want: wire.CodeInputAddress, inputs: with("wrong-address", other)}
	}
	e := addressed("named", fileNar("x"))
	e.Path = addressed("named", fileNar("y")).Path
	attacks["address-of-another-path"] = attack{want: wire.CodeInputAddress, inputs: with("renamed", e)}

	a, b := addressed("first", fileNar("first")), addressed("second", fileNar("second"))
	in := with("not-asked", a, b)
	have := with("had", s.victimInputs[0])
	attacks["not-in-the-closure"] = attack{want: wire.CodeInputUnasked, inputs: in, body: frame(nil, 99, 8, a.nar)}
	attacks["index-huge"] = attack{want: wire.CodeInputUnasked, inputs: in, body: frame(nil, math.MaxUint32, uint64(len(a.nar)), a.nar)}
	attacks["there-already"] = attack{want: wire.CodeInputUnasked, inputs: have, body: have.frames(0)}
	attacks["before-its-references"] = attack{want: wire.CodeInputReferences, inputs: in, body: in.frames(2)}
}

// derivations adds attacks with .drv files.
func (s *siege) derivations(attacks map[string]attack) {
	one, two := printer("one", "one"), printer("two", "two")
	swapped := one
	swapped.nar = two.nar
	attacks["drv-contents"] = attack{want: wire.CodeInputHash, inputs: closure{swapped}}
	swapped.NarHash = nix.SumHash(two.nar)
	attacks["drv-contents-address"] = attack{want: wire.CodeInputAddress, inputs: closure{swapped}}
	attacks["drv-not-one"] = attack{want: wire.CodeInputDerivation, inputs: closure{text("junk.drv", "Derive([(")}}
	attacks["drv-as-source"] = attack{want: wire.CodeInputDerivation, inputs: closure{addressed("source.drv", one.nar)}}

	executable := words("nix-archive-1", "(", "type", "regular", "executable", "", "contents", "x", ")")
	odd := text("executable.drv", "x")
	odd.nar, odd.NarHash, odd.NarSize = executable, nix.SumHash(executable), uint64(len(executable))
	attacks["drv-executable"] = attack{want: wire.CodeInputAddress, inputs: closure{odd}}

	src := addressed("needed", fileNar("needed"))
	drv, _ := printerText("liar", "liar", "", src.Path)
	attacks["drv-hides-its-inputs"] = attack{want: wire.CodeInputDerivation, inputs: closure{text("liar.drv", drv)}}

	// What it would build is another's output: Nix itself must refuse that.
	_, victims := printerText("secret-output", "of the victim", "")
	drv, _ = printerText("secret-output", "something else", victims)
	attacks["drv-claims-output"] = attack{want: wire.CodeInputDerivation, inputs: closure{text("secret-output.drv", drv)}}

	big := text("big.drv", strings.Repeat("x", 100))
	attacks["drv-huge"] = attack{want: wire.CodeInputDerivation, inputs: closure{big}, edit: func(r *wire.BuildRequest) {
		r.Closure[0].NarSize = 33 << 20
	}, body: frame(nil, 0, 33<<20, big.nar)}
}

// sizes adds attacks with sizes that lie.
func (s *siege) sizes(attacks map[string]attack) {
	e := addressed("sized", fileNar("sized"))
	in := with("sized", e)
	state := func(size uint64) func(*wire.BuildRequest) {
		return func(r *wire.BuildRequest) { r.Closure[0].NarSize = size }
	}
	n := uint64(len(e.nar))
	attacks["size-frame-larger"] = attack{want: wire.CodeInputSize, inputs: in, body: frame(nil, 0, n+8, append(slices.Clone(e.nar), make([]byte, 8)...))}
	attacks["size-frame-smaller"] = attack{want: wire.CodeInputSize, inputs: in, body: frame(nil, 0, n-8, e.nar[:n-8])}
	attacks["size-frame-huge"] = attack{want: wire.CodeInputSize, inputs: in, body: frame(nil, 0, math.MaxUint64, e.nar)}
	attacks["size-stated-zero"] = attack{want: wire.CodeBadRequest, inputs: in, edit: state(0)}
	attacks["size-stated-huge"] = attack{want: wire.CodeBadRequest, inputs: in, edit: state(math.MaxUint64)}
	attacks["size-stated-int64"] = attack{want: wire.CodeUploadLimit, inputs: in, edit: state(math.MaxInt64)}
	attacks["size-stated-larger"] = attack{want: wire.CodeInputNar, inputs: in, edit: state(n + 8),
		body: frame(nil, 0, n+8, append(slices.Clone(e.nar), make([]byte, 8)...))}
	attacks["size-stated-smaller"] = attack{want: wire.CodeInputNar, inputs: in, edit: state(n - 8), body: frame(nil, 0, n-8, e.nar)}
	attacks["size-cut-short"] = attack{want: wire.CodeBadRequest, inputs: in, body: frame(nil, 0, n, e.nar[:n-8])}
	attacks["size-head-cut-short"] = attack{want: wire.CodeBadRequest, inputs: in, body: in.frames(0)[:5]}

	// A file inside the NAR that says that it is larger than everything.
	for name, size := range map[string]uint64{"huge": math.MaxUint64, "int64": math.MaxInt64, "larger": 1 << 30} {
		want := wire.CodeInputNar // no file can be that large
		if size < math.MaxInt64 {
			want = wire.CodeInputSize
		}
		nar := words("nix-archive-1", "(", "type", "regular", "contents")
		for i := range 8 {
			nar = append(nar, byte(size>>(8*i)))
		}
		nar = append(nar, make([]byte, 64)...)
		attacks["size-inside-"+name] = attack{want: want, inputs: with(name, addressed("inside-"+name, nar))}
	}
	over := addressed("over", fileNar(strings.Repeat("x", 65<<20)))
	attacks["over-the-limit"] = attack{want: wire.CodeUploadLimit, inputs: with("over", over)}
	half := func(i int) entry { return addressed(fmt.Sprintf("half-%d", i), fileNar(strings.Repeat("x", 33<<20))) }
	attacks["over-the-limit-together"] = attack{want: wire.CodeUploadLimit, inputs: with("halves", half(1), half(2))}
}

// The builder's own check of signatures holds even where its Nix has none.
func TestHostileHolderWithoutSigs(t *testing.T) {
	forEachRoot(t, func(t *testing.T, root lab.Root) {
		s := newSiege(t, root, "require-sigs = false")
		attacks := make(map[string]attack)
		s.forged(t, attacks)
		for name, a := range attacks {
			t.Run(name, func(t *testing.T) { s.run(t, s.attacker, a) })
		}
		s.unharmed(t)
	})
}

// A document that breaks the rules is refused before anything comes of it.
func TestHostileHolderDocuments(t *testing.T) {
	s := newSiege(t, lab.Sid)
	s.startHonest(t, lab.Sid)
	a, b := addressed("a", fileNar("a")), addressed("b", fileNar("b"))
	in := with("document", a, b)
	for name, c := range map[string]struct {
		want wire.Code
		edit func(*wire.BuildRequest)
	}{
		"cycle":            {wire.CodeInputReferences, func(r *wire.BuildRequest) { r.Closure[0].References = []int{1}; r.Closure[1].References = []int{0} }},
		"reference-ahead":  {wire.CodeInputReferences, func(r *wire.BuildRequest) { r.Closure[0].References = []int{2} }},
		"reference-beyond": {wire.CodeInputReferences, func(r *wire.BuildRequest) { r.Closure[2].References = []int{0, 99} }},
		"reference-below":  {wire.CodeInputReferences, func(r *wire.BuildRequest) { r.Closure[2].References = []int{-1} }},
		"reference-twice":  {wire.CodeBadRequest, func(r *wire.BuildRequest) { r.Closure[2].References = []int{0, 0} }},
		"path-twice":       {wire.CodeBadRequest, func(r *wire.BuildRequest) { r.Closure[1] = r.Closure[0] }},
		"root-outside":     {wire.CodeInputReferences, func(r *wire.BuildRequest) { r.Roots[0].Drv = string(printer("outside", "x").Path) }},
		"root-source":      {wire.CodeBadRequest, func(r *wire.BuildRequest) { r.Roots[0].Drv = string(a.Path) }},
		"root-relative":    {wire.CodeBadRequest, func(r *wire.BuildRequest) { r.Roots[0].Drv = "/nix/store/../../etc/x.drv" }},
		"no-roots":         {wire.CodeBadRequest, func(r *wire.BuildRequest) { r.Roots = nil }},
		"no-outputs":       {wire.CodeBadRequest, func(r *wire.BuildRequest) { r.Roots[0].Outputs = nil }},
		"bad-output":       {wire.CodeBadRequest, func(r *wire.BuildRequest) { r.Roots[0].Outputs = []string{"../x"} }},
		"many-roots":       {wire.CodeTooLarge, func(r *wire.BuildRequest) { r.Roots = slices.Repeat(r.Roots, wire.MaxRoots+1) }},
		"long-label":       {wire.CodeTooLarge, func(r *wire.BuildRequest) { r.Roots[0].Label = strings.Repeat("x", wire.MaxLabel+1) }},
		"mode":             {wire.CodeBadRequest, func(r *wire.BuildRequest) { r.Mode = "repair" }},
		"path":             {wire.CodeBadRequest, func(r *wire.BuildRequest) { r.Closure[0].Path = "/etc/passwd" }},
		"path-dots":        {wire.CodeBadRequest, func(r *wire.BuildRequest) { r.Closure[0].Path += "/../x" }},
		"path-newline":     {wire.CodeBadRequest, func(r *wire.BuildRequest) { r.Closure[0].Path += "\nSig: x" }},
		"hash":             {wire.CodeBadRequest, func(r *wire.BuildRequest) { r.Closure[0].NarHash = strings.Repeat("e", 52) }},
		"address":          {wire.CodeInputAddress, func(r *wire.BuildRequest) { r.Closure[0].CA = "fixed:r:sha256:x" }},
		"address-kind":     {wire.CodeInputAddress, func(r *wire.BuildRequest) { r.Closure[0].CA = "made-up:" + r.Closure[0].CA }},
		"many-signatures":  {wire.CodeTooLarge, func(r *wire.BuildRequest) { r.Closure[0].Sigs = slices.Repeat([]string{"a:b"}, 65) }},
		"many-paths": {wire.CodeTooLarge, func(r *wire.BuildRequest) {
			r.Closure = append(slices.Repeat(r.Closure[:1], wire.MaxClosurePaths), r.Closure...)
		}},
		"many-references": {wire.CodeTooLarge, func(r *wire.BuildRequest) { r.Closure[2].References = make([]int, wire.MaxReferences+1) }},
	} {
		t.Run(name, func(t *testing.T) {
			s.run(t, s.attacker, attack{want: c.want, inputs: in, edit: c.edit})
		})
	}
	s.rawDocuments(t, in)
	s.finishHonest(t)
}

// rawDocuments sends what no encoder makes.
func (s *siege) rawDocuments(t *testing.T, in closure) {
	good, err := json.Marshal(in.request())
	if err != nil {
		t.Fatal(err)
	}
	const most = wire.MaxClosureDocument
	zst := []string{"Content-Encoding", "zstd"}
	wide := []byte{0x28, 0xb5, 0x2f, 0xfd, 0x00, 0xa8} // a window of 2 GiB
	for name, c := range map[string]struct {
		want    wire.Code
		body    []byte
		headers []string
	}{
		"junk":         {wire.CodeBadRequest, []byte("junk"), nil},
		"empty":        {wire.CodeBadRequest, nil, nil},
		"null":         {wire.CodeBadRequest, []byte("null"), nil},
		"cut-off":      {wire.CodeBadRequest, good[:len(good)/2], nil},
		"trailing":     {wire.CodeBadRequest, append(slices.Clone(good), good...), nil},
		"number-huge":  {wire.CodeBadRequest, bytes.Replace(good, []byte(`"nar_size":`), []byte(`"nar_size":99999999999999999999999`), 1), nil},
		"number-minus": {wire.CodeBadRequest, bytes.Replace(good, []byte(`"nar_size":`), []byte(`"nar_size":-`), 1), nil},
		"nested":       {wire.CodeBadRequest, []byte(`{"roots":` + strings.Repeat("[", 1<<20)), nil},
		"gzip":         {wire.CodeBadRequest, good, []string{"Content-Encoding", "gzip"}},
		"zstd-junk":    {wire.CodeBadRequest, []byte("junk"), zst},
		"zstd-window":  {wire.CodeBadRequest, wide, zst},
		"bomb-spaces":  {wire.CodeTooLarge, bomb(t, "", " ", most+most/4, ""), zst},
		"bomb-label":   {wire.CodeTooLarge, bomb(t, `{"roots":[{"label":"`, "x", most+most/4, `"}]}`), zst},
		"bomb-entries": {wire.CodeTooLarge, bomb(t, `{"closure":[{}`, ",{}", most-most/8, `]}`), zst},
		"bomb-roots":   {wire.CodeTooLarge, bomb(t, `{"roots":[{}`, ",{}", most-most/8, `]}`), zst},
		"bomb-refs":    {wire.CodeTooLarge, bomb(t, `{"closure":[{"refs":[0`, ",0", most-most/8, `]}]}`), zst},
		"bomb-sigs":    {wire.CodeTooLarge, bomb(t, `{"closure":[{"sigs":[""`, `,""`, most-most/8, `]}]}`), zst},
		"bomb-unknown": {wire.CodeTooLarge, bomb(t, `{"unknown":[0`, ",0", most-most/8, `]}`), zst},
		"bomb-key":     {wire.CodeTooLarge, bomb(t, `{"`, "x", most+most/4, `":0}`), zst},
		"bomb-number":  {wire.CodeTooLarge, bomb(t, `{"detach":`, "1", most+most/4, `}`), zst},
		"bomb-nested":  {wire.CodeBadRequest, bomb(t, `{"closure":[`, "[", most+most/4, ""), zst},
	} {
		t.Run("raw-"+name, func(t *testing.T) {
			for _, path := range []string{"/v1/builds/" + string(newBuildID(t)), wire.RoutePlan} {
				method := http.MethodPut
				if path == wire.RoutePlan {
					method = http.MethodPost
				}
				got := s.attacker.ask(method, path, bytes.NewReader(c.body), c.headers...)
				if got.code != c.want {
					t.Errorf("%s: refused as %q (%s), want %q", path, got.code, got.text, c.want)
				}
			}
			s.attacker.alive(t)
		})
	}
}
