//go:build e2e

package e2e

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"math"
	"net/http"
	"path"
	"regexp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/drv-thru/drv-thru/core/nix"
	"github.com/drv-thru/drv-thru/core/nix/nar"
	"github.com/drv-thru/drv-thru/core/wire"
	"github.com/drv-thru/drv-thru/e2e/lab"
)

// mostClientMemory is what no builder can make a client need: several times the
// largest answer that it reads.
const mostClientMemory = 640 << 20

// fraud is clients whose Nix trusts a builder that lies.
type fraud struct {
	builder *lab.Builder
	honest  *peer
	own     nix.SecretKey // the impostor's own; the clients' Nix trusts it too
	clients map[lab.Root]*victim
}

// victim is one of its clients.
type victim struct {
	*lab.Client
	outputs []string
	before  []string // valid paths, when the derivations are there and no output is
}

// deceived is what is built: three paths, one of some MiB.
var deceived = lab.Concat("deceived", "a", lab.Hello("deceived"), lab.Blob(3, "deceived"))

func newFraud(t *testing.T, roots ...lab.Root) *fraud {
	t.Helper()
	f := &fraud{own: newSigningKey(t, "fraud-1"), clients: make(map[lab.Root]*victim)}
	host := lab.NewHost(t, lab.Trixie, lab.WithName("builder"))
	host.StartDaemon()
	relay := lab.StartRelay(t, host)
	f.builder = lab.StartBuilder(t, host, lab.BuilderConfig{Relays: []string{relay.URL}})
	f.honest = newPeer(t, f.builder.Ticket("--uses", "unlimited"))
	for _, root := range roots {
		c := lab.NewHost(t, root, lab.WithName("client-"+string(root)))
		c.StartDaemon("trusted-public-keys = " + f.builder.PublicKey() + " " + f.own.ToPublicKey().String())
		v := &victim{Client: lab.NewClient(t, c)}
		f.clients[root] = v
		// An impostor that changes nothing is as good as the builder.
		im := newImpostor(t, f.honest, nil)
		v.outputs = c.Closure(v.BuildExpr(im.ticket, deceived)...)
		c.Delete(v.outputs...)
		v.before = c.Paths()
	}
	return f
}

// deceit is one way to lie.
type deceit struct {
	tamper func(*exchange) bool
	// says is what the client must say, an expression; exit is its exit code,
	// 0 for any but success.
	says string
	exit int
	args []string
	// expr is what is built, by default deceived.
	expr lab.Expr
}

// on answers the requests of one route.
func on(route string, answer func(*exchange) bool) func(*exchange) bool {
	return func(x *exchange) bool { return x.route() == route && answer(x) }
}

// attempt is a build with an impostor.
type attempt struct {
	*lab.Process
	deceit
	victim *victim
	memory *atomic.Int64
}

func (f *fraud) start(t *testing.T, root lab.Root, d deceit) *attempt {
	t.Helper()
	v := f.clients[root]
	im := newImpostor(t, f.honest, d.tamper)
	if d.expr == "" {
		d.expr = deceived
	}
	p := v.Host.StartCmd(v.forgetful(im.ticket, append([]string{"--no-link", "--impure", "--expr", string(d.expr)}, d.args...)...))
	return &attempt{Process: p, deceit: d, victim: v, memory: watchMemory(p)}
}

// forgetful is a build that has nothing from earlier ones.
func (v *victim) forgetful(ticket string, args ...string) *lab.Cmd {
	return v.BuildCmd(ticket, args...).AddEnv("DRV_THRU_CACHE_SIZE=0")
}

// finish checks that the build fails, says why, and brings nothing.
func (a *attempt) finish(t *testing.T) {
	t.Helper()
	code := lab.ExitCode(a.Wait(2 * patience))
	if code == 0 || a.exit != 0 && code != a.exit {
		t.Errorf("exit code %d, want %d", code, a.exit)
	}
	if !regexp.MustCompile(`(?s)` + a.says).MatchString(a.Output()) {
		t.Errorf("it does not say %q:\n%.3000s", a.says, a.Output())
	}
	a.small(t)
	a.victim.unchanged(t)
}

func (a *attempt) small(t *testing.T) {
	t.Helper()
	if n := a.memory.Load(); n > mostClientMemory {
		t.Errorf("the client needed %d MiB", n>>20)
	} else if n > mostClientMemory/4 {
		t.Logf("the client needed %d MiB", n>>20)
	}
}

// unchanged checks that nothing came into the store but derivations, which the
// evaluation brings.
func (v *victim) unchanged(t *testing.T) {
	t.Helper()
	gone, come := difference(v.before, v.Host.Paths())
	come = slices.DeleteFunc(come, func(p string) bool { return strings.HasSuffix(p, ".drv") })
	if len(gone)+len(come) > 0 {
		t.Errorf("the client's store lost %v and gained %v", gone, come)
	}
}

// idle checks that no mount and no process stays.
func (v *victim) idle(t *testing.T) {
	t.Helper()
	if mounts := v.Host.FuseMounts(); len(mounts) > 0 {
		t.Errorf("mounted: %v", mounts)
	}
	for deadline := time.Now().Add(patience); ; <-time.After(10 * time.Millisecond) {
		daemons := 0
		left := slices.DeleteFunc(v.Host.Processes(), func(p lab.ProcessInfo) bool {
			if len(p.Args) > 0 && path.Base(p.Args[0]) == "nix-daemon" {
				daemons++ // the first is the one that listens
				return daemons == 1
			}
			return len(p.Args) == 0
		})
		if len(left) == 0 {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("processes left: %v", left)
		}
	}
}

func (f *fraud) verify(t *testing.T) {
	t.Helper()
	for _, v := range f.clients {
		v.idle(t)
		v.unchanged(t)
		if err := v.Host.Verify(); err != nil {
			t.Error(err)
		}
	}
}

// What reaches the client's own Nix is checked by it, whatever its version, and
// a builder that stops in the middle does not make it hang.
func TestHostileBuilderNars(t *testing.T) {
	t.Parallel() // it mostly waits, until clients give up
	f := newFraud(t, lab.Roots...)
	const sixth = 5 // of some sixty chunks
	flip := on(onChunks, func(x *exchange) bool {
		return chunks(x, func(c chunkFrame) bool {
			if c.ordinal == sixth {
				c.payload[len(c.payload)/2] ^= 1
			}
			return c.pass()
		})
	})
	// half sends the first chunks, and no more however often they are asked for.
	half := func(end func(*exchange)) func(*exchange) bool {
		return on(onChunks, func(x *exchange) bool {
			return chunks(x, func(c chunkFrame) bool {
				if c.ordinal < sixth {
					return c.pass()
				}
				end(x)
				return false
			})
		})
	}
	junk := func(nar func(size int) []byte) func(*exchange) bool { return (&forger{nar: nar}).tamper }
	running := make(map[string]*attempt)
	slow := map[string]deceit{
		"truncated":    {tamper: half(func(*exchange) {}), says: "importing again.*unexpected EOF"},
		"reset":        {tamper: half(func(*exchange) { panic(http.ErrAbortHandler) }), says: "importing again.*import the outputs: .*(stream|reset|EOF)"},
		"stalled":      {tamper: half((*exchange).stall), says: "no data from the builder|sends nothing"},
		"stalled-http": {tamper: half((*exchange).stall), says: "no data from the builder|sends nothing", args: []string{"--import", "http"}},
	}
	// Each builds something of its own, a single path: nothing of it may come.
	start := func(name string, root lab.Root, d deceit) *attempt {
		d.expr = lab.Blob(3, name+string(root))
		return f.start(t, root, d)
	}
	for name, d := range slow {
		for _, root := range lab.Roots {
			running[name+"/"+string(root)] = start(name, root, d)
		}
	}
	// Nix 2.29 and later map a small NAR, and are ended before they miss a page of it.
	never := deceit{
		tamper: on(onChunks, func(x *exchange) bool { x.stall(); return true }),
		says:   `nix copy has ended" err="not all can be read".*(no data from the builder|sends nothing)`,
		args:   []string{"-v"},
		expr:   lab.Hello("never"),
	}
	for _, root := range lab.Roots {
		running["never/"+string(root)] = f.start(t, root, never)
	}
	for name, d := range map[string]deceit{
		"flipped":      {tamper: flip, says: "import the outputs: .*malformed answer.*chunk 5 of the NAR"},
		"flipped-http": {tamper: flip, says: "import the outputs: .*malformed answer.*chunk 5 of the NAR", args: []string{"--import", "http"}},
		"other":        {tamper: junk(blankNar), says: "did not import.*hash mismatch"},
		"other-http":   {tamper: junk(blankNar), says: "did not import.*hash mismatch", args: []string{"--import", "http"}},
		"zeros":        {tamper: junk(func(int) []byte { return nil }), says: "did not import.*(NAR|archive)"},
		"dotdot":       {tamper: junk(func(int) []byte { return dirNar("..") }), says: "did not import.*(NAR|file name)"},
		"slash":        {tamper: junk(func(int) []byte { return dirNar("../../../../home/alice/x") }), says: "did not import.*(NAR|file name)"},
	} {
		for _, root := range lab.Roots {
			t.Run(name+"/"+string(root), func(t *testing.T) { start(name, root, d).finish(t) })
		}
	}
	for name, a := range running {
		t.Run(name, func(t *testing.T) { a.finish(t) })
	}
	// Nix unpacks where a path is to be, and leaves what it does not take there
	// until the path is imported after all.
	for root, v := range f.clients {
		v.idle(t)
		v.unchanged(t)
		v.whole(t, "-blob")
		im := newImpostor(t, f.honest, nil)
		for name := range slow {
			v.BuildExpr(im.ticket, lab.Blob(3, name+string(root)))
		}
	}
}

// blankNar is a NAR of one file of zeros, of that size in all.
func blankNar(size int) []byte {
	var b bytes.Buffer
	if err := nar.WriteFile(&b, make([]byte, size-int(nar.FileSize(0, false))), false); err != nil {
		panic(err)
	}
	return b.Bytes()
}

// whole checks the store as Nix does. Only paths of the given ending may be
// there without being valid.
func (v *victim) whole(t *testing.T, except string) {
	t.Helper()
	out, err := v.Host.Command(lab.RootUser, "nix-store", "--verify", "--check-contents").AddEnv("NIX_REMOTE=local").CombinedOutput()
	if err != nil || strings.Contains(string(out), "disappeared") || strings.Contains(string(out), "was modified") {
		t.Errorf("the store of %s: %v\n%s", v.Host.Name(), err, out)
	}
	for _, p := range v.Host.Litter() {
		if !strings.HasSuffix(p, except) {
			t.Errorf("%s has %s, which is not valid", v.Host.Name(), p)
		}
	}
}

// The closure that a builder shows is taken for no more than it proves.
func TestHostileBuilderClosure(t *testing.T) {
	f := newFraud(t, lab.Sid)
	stranger := newSigningKey(t, "stranger-1")
	name, _, _ := strings.Cut(f.builder.PublicKey(), ":")
	namesake := newSigningKey(t, name)
	foreign := f.foreign(t)
	same := func(list []nix.PathInfo) []nix.PathInfo { return list }
	// lie changes the closure; announced is the key that the builder says it
	// signs with and does sign with, nil for the honest one.
	lie := func(announced, key *nix.SecretKey, change func([]nix.PathInfo) []nix.PathInfo) func(*exchange) bool {
		return func(x *exchange) bool {
			switch {
			case x.route() == onInfo && announced != nil:
				return edit(x, func(i *wire.Info) { i.SigningKey = announced.ToPublicKey().String() })
			case x.route() == onClosure:
				return infos(x, key, change)
			}
			return false
		}
	}
	own := func(change func([]nix.PathInfo) []nix.PathInfo) func(*exchange) bool {
		return lie(&f.own, &f.own, change)
	}
	last := func(list []nix.PathInfo) *nix.PathInfo { return &list[len(list)-1] }
	for name, d := range map[string]deceit{
		"untrusted-key": {tamper: func(x *exchange) bool {
			if x.route() != onInfo && x.route() != onPath {
				t.Errorf("%s: the build was asked for although its outputs could not be imported", x.route())
			}
			return lie(&stranger, &stranger, same)(x)
		}, says: "would not import what the builder signs.*" + regexp.QuoteMeta(stranger.ToPublicKey().String())},
		"namesake-key":       {tamper: lie(&namesake, &namesake, same), says: "another key of the same name"},
		"signed-by-own":      {tamper: lie(nil, &stranger, same), says: "is not signed by"},
		"signed-by-namesake": {tamper: lie(nil, &namesake, same), says: "wrong signature.*does not fit"},
		"unsigned": {tamper: lie(nil, nil, func(list []nix.PathInfo) []nix.PathInfo {
			for i := range list {
				list[i].Sigs = nil
			}
			return list
		}), says: "is not signed by"},
		"damaged-signature": {tamper: lie(nil, nil, func(list []nix.PathInfo) []nix.PathInfo {
			for i, s := range last(list).Sigs {
				b := []byte(s)
				b[len(b)-10] ^= 1
				last(list).Sigs[i] = string(b)
			}
			return list
		}), says: "signature"},
		"other-contents": {tamper: lie(nil, nil, func(list []nix.PathInfo) []nix.PathInfo {
			last(list).NarHash[0] ^= 1
			return list
		}), says: "wrong signature"},
		"foreign-path": {tamper: lie(nil, nil, func(list []nix.PathInfo) []nix.PathInfo {
			return append([]nix.PathInfo{foreign}, list...)
		}), says: "is in the closure although nothing refers to it"},
		"foreign-instead": {tamper: lie(nil, nil, func([]nix.PathInfo) []nix.PathInfo {
			return []nix.PathInfo{foreign}
		}), says: "is not in its own closure"},
		"empty":      {tamper: lie(nil, nil, func([]nix.PathInfo) []nix.PathInfo { return nil }), says: "is not in its own closure"},
		"incomplete": {tamper: lie(nil, nil, func(list []nix.PathInfo) []nix.PathInfo { return list[1:] }), says: "or without it"},
		"backwards": {tamper: lie(nil, nil, func(list []nix.PathInfo) []nix.PathInfo {
			slices.Reverse(list)
			return list
		}), says: "comes before"},
		"twice": {tamper: lie(nil, nil, func(list []nix.PathInfo) []nix.PathInfo { return append(list, *last(list)) }), says: "twice"},
		"cycle": {tamper: own(func(list []nix.PathInfo) []nix.PathInfo {
			list[0].References = nix.SortedPaths(append(list[0].References, last(list).Path))
			return list
		}), says: "comes before"},
		"size-huge": {tamper: own(func(list []nix.PathInfo) []nix.PathInfo {
			list[0].NarSize = math.MaxInt64
			return list
		}), says: "absurd|of a NAR of|too large"},
		"size-larger": {tamper: own(func(list []nix.PathInfo) []nix.PathInfo {
			for i := range list {
				list[i].NarSize += 8
			}
			return list
		}), says: "of a NAR of|more than the NAR"},
		"size-smaller": {tamper: own(func(list []nix.PathInfo) []nix.PathInfo {
			for i := range list {
				list[i].NarSize -= 8
			}
			return list
		}), says: "of a NAR of|more than the NAR"},
		"hash-of-another": {tamper: own(func(list []nix.PathInfo) []nix.PathInfo {
			for i := range list {
				list[i].NarHash = nix.SumHash([]byte{byte(i)})
			}
			return list
		}), says: "no longer has this path"},
		"narinfo-huge": {tamper: on(onClosure, func(x *exchange) bool {
			return edit(x, func(c *wire.Closure) { c.NarInfos[0] += "X-Filler: " + strings.Repeat("x", 100<<20) + "\n" })
		}), says: "a part of its answer is larger than"},
		"narinfo-references": {tamper: own(func(list []nix.PathInfo) []nix.PathInfo {
			for range 200_000 {
				list[0].References = append(list[0].References, foreign.Path)
			}
			return list
		}), says: "malformed|larger|wrong signature|without it"},
		"narinfo-junk": {tamper: on(onClosure, func(x *exchange) bool {
			return edit(x, func(c *wire.Closure) { c.NarInfos[0] = "StorePath: /etc/passwd\n" })
		}), says: "malformed"},
		"narinfo-compressed": {tamper: on(onClosure, func(x *exchange) bool {
			return edit(x, func(c *wire.Closure) {
				c.NarInfos[0] = strings.Replace(c.NarInfos[0], "Compression: none", "Compression: xz", 1)
			})
		}), says: "malformed.*compression"},
		"narinfo-url": {tamper: on(onClosure, func(x *exchange) bool {
			return edit(x, func(c *wire.Closure) {
				c.NarInfos[0] = strings.Replace(c.NarInfos[0], "URL: nar/", "URL: ../../../../etc/", 1)
			})
		}), says: "malformed.*URL"},
		"narinfos-many": {tamper: on(onClosure, func(x *exchange) bool {
			return edit(x, func(c *wire.Closure) { c.NarInfos = slices.Repeat(c.NarInfos, 100_000) })
		}), says: "more than|malformed|larger"},
		"endless": {tamper: on(onClosure, func(x *exchange) bool {
			x.Header().Set("Content-Type", wire.TypeJSON)
			piece := []byte(strings.Repeat(`"",`, 64<<10))
			for _, err := x.Write([]byte(`{"narinfos":[`)); err == nil; _, err = x.Write(piece) {
			}
			return true
		}), says: "larger than|more than"},
	} {
		t.Run(name, func(t *testing.T) { f.start(t, lab.Sid, d).finish(t) })
	}
	f.verify(t)
}

// foreign is a path that the builder has signed, but not for this client.
func (f *fraud) foreign(t *testing.T) nix.PathInfo {
	t.Helper()
	id := newBuildID(t)
	in := closure{printer("foreign", "foreign")}
	if _, a := f.honest.putBuild(id, in.request()); a.code != "" {
		t.Fatal(a.text)
	}
	if a := f.honest.putInputs(id, strings.NewReader(string(in.frames(0)))); a.code != "" {
		t.Fatal(a.text)
	}
	f.honest.wait(id)
	var c wire.Closure
	f.honest.ask(http.MethodGet, "/v1/cache/closure?build="+string(id), nil).decode(t, &c)
	info, err := nix.ParseNarInfo([]byte(c.NarInfos[0]))
	if err != nil {
		t.Fatal(err)
	}
	return info
}

// An answer that the protocol does not allow ends the build with a message.
func TestHostileBuilderAnswers(t *testing.T) {
	f := newFraud(t, lab.Sid)
	const protocol = "broke the protocol"
	build := func(change func(*wire.Build)) func(*exchange) bool {
		return on(onBuild, func(x *exchange) bool { return edit(x, change) })
	}
	raw := func(route string, status int, contentType, body string) func(*exchange) bool {
		return on(route, func(x *exchange) bool { x.text(status, contentType, body); return true })
	}
	event := func(change func(*wire.Event) *wire.Event) func(*exchange) bool {
		return on(onEvents, func(x *exchange) bool { return events(x, change) })
	}
	finish := func(change func(*wire.Result)) func(*exchange) bool {
		return event(func(e *wire.Event) *wire.Event {
			if e.Result != nil {
				change(e.Result)
			}
			return e
		})
	}
	frames := func(change func(head []byte)) func(*exchange) bool {
		return on(onChunks, func(x *exchange) bool {
			return chunks(x, func(c chunkFrame) bool { change(c.head[:]); return c.pass() })
		})
	}
	unavailable := []byte{wire.ManifestUnavailable, wire.ManifestUnavailable, wire.ManifestUnavailable}
	for name, d := range map[string]deceit{
		"info-html":        {tamper: raw(onInfo, 200, "text/html", "<html>log in first</html>"), says: protocol},
		"info-large":       {tamper: raw(onInfo, 200, wire.TypeJSON, `{"software":"`+strings.Repeat("x", 2<<20)+`"}`), says: protocol},
		"info-redirect":    {tamper: raw(onInfo, 302, "text/html", ""), says: protocol},
		"info-unexplained": {tamper: raw(onInfo, 500, "text/html", "oops"), says: "without saying why"},
		"info-empty":       {tamper: raw(onInfo, 200, wire.TypeJSON, "{}"), says: "."},

		"build-of-another": {tamper: build(func(b *wire.Build) { b.ID = newBuildID(t) }), says: protocol},
		"wanted-beyond":    {tamper: build(func(b *wire.Build) { b.Wanted = []int{5000} }), says: protocol},
		"wanted-below":     {tamper: build(func(b *wire.Build) { b.Wanted = []int{-1} }), says: protocol},
		"wanted-falling":   {tamper: build(func(b *wire.Build) { b.Wanted = []int{1, 0} }), says: protocol},
		"wanted-twice":     {tamper: build(func(b *wire.Build) { b.Wanted = []int{0, 0} }), says: protocol},
		"wanted-endless":   {tamper: raw(onBuild, 200, wire.TypeJSON, `{"wanted":[0`+strings.Repeat(",0", 16<<20)+`]}`), says: protocol},
		"counters":         {tamper: build(func(b *wire.Build) { b.LastEvent = -5 }), says: protocol},
		"wanted-again": {tamper: func(x *exchange) bool {
			switch x.route() {
			case onBuild, onInputs:
				_, _ = io.Copy(io.Discard, x.r.Body)
				id := wire.BuildID(strings.Split(x.r.URL.Path, "/")[3])
				x.json(wire.Build{ID: id, State: wire.StateUploading, Wanted: []int{0}})
				return true
			case onEvents:
				x.stall()
				return true
			}
			return false
		}, says: "again and again"},

		"events-gap":  {tamper: event(func(e *wire.Event) *wire.Event { e.Seq++; return e }), says: protocol},
		"events-back": {tamper: event(func(e *wire.Event) *wire.Event { e.Seq = min(e.Seq, 1); return e }), says: protocol},
		"events-junk": {tamper: raw(onEvents, 200, wire.TypeEvents, "junk\n"), says: protocol},
		"events-long": {tamper: raw(onEvents, 200, wire.TypeEvents, `{"seq":1,"type":"log","log":{"text":"`+strings.Repeat("x", 5<<20)), says: protocol},
		"events-empty": {tamper: event(func(e *wire.Event) *wire.Event {
			e.Type, e.Log, e.Result = wire.EventLog, nil, nil
			return e
		}), says: protocol},
		"finished-empty": {tamper: func(x *exchange) bool {
			switch x.route() {
			case onEvents:
				return events(x, func(e *wire.Event) *wire.Event { e.Result = nil; return e })
			case onBuild:
				return edit(x, func(b *wire.Build) { b.Result = nil })
			}
			return false
		}, says: protocol},

		"output-missing":  {tamper: finish(func(r *wire.Result) { r.Outputs = nil }), says: protocol},
		"output-other":    {tamper: finish(func(r *wire.Result) { r.Outputs[0].Path = string(printer("x", "x").Path) }), says: protocol},
		"output-outside":  {tamper: finish(func(r *wire.Result) { r.Outputs[0].Path = "/etc/passwd" }), says: protocol},
		"output-renamed":  {tamper: finish(func(r *wire.Result) { r.Outputs[0].Name = "../out" }), says: protocol},
		"output-drv":      {tamper: finish(func(r *wire.Result) { r.Outputs[0].Drv = r.Outputs[0].Path }), says: protocol},
		"closure-missing": {tamper: raw(onClosure, 404, wire.TypeProblem, `{"code":"request.not_found","detail":"gone"}`), says: "not found: gone"},
		"closure-junk":    {tamper: raw(onClosure, 200, wire.TypeJSON, `{"narinfos":{}}`), says: protocol},

		"frame-size":           {tamper: frames(func(h []byte) { h[3] ^= 8 }), says: "malformed answer"},
		"frame-size-huge":      {tamper: frames(func(h []byte) { binary.BigEndian.PutUint32(h, 1<<31-1) }), says: "malformed answer"},
		"frame-compressed":     {tamper: frames(func(h []byte) { h[0] ^= 0x80 }), says: "malformed answer"},
		"frame-unavailable":    {tamper: frames(func(h []byte) { clear(h) }), says: "no longer has this path|malformed answer"},
		"chunks-refused":       {tamper: raw(onChunks, 404, wire.TypeProblem, `{"code":"request.not_found","detail":"gone"}`), says: "not found: gone"},
		"chunks-html":          {tamper: raw(onChunks, 200, "text/html", strings.Repeat("<html>", 100)), says: "malformed answer"},
		"manifest-unavailable": {tamper: raw(onManifests, 200, wire.TypeFrames, string(unavailable)), says: "no longer has this path"},
		"manifest-refused":     {tamper: raw(onManifests, 404, wire.TypeProblem, `{"code":"request.not_found","detail":"gone"}`), says: "not found: gone"},
		"manifest-html":        {tamper: raw(onManifests, 200, "text/html", strings.Repeat("<html>", 100)), says: "malformed answer"},
		"manifest-of-another":  {tamper: (&forger{nar: func(int) []byte { return nil }, extra: 1}).tamper, says: "malformed answer.*manifest.*NAR"},
		"problem-large":        {tamper: raw(onBuild, 403, wire.TypeProblem, `{"code":"ticket.expired","detail":"`+strings.Repeat("x", 100<<20)+`"}`), says: "without saying why|ticket expired"},
		"problem-unknown":      {tamper: raw(onBuild, 418, wire.TypeProblem, `{"code":"made.up","detail":"a teapot"}`), says: "made.up.*teapot"},
	} {
		t.Run(name, func(t *testing.T) { f.start(t, lab.Sid, d).finish(t) })
	}
	f.verify(t)
}

// What a builder sends without end is read in bounded memory, and Ctrl-C ends it.
func TestHostileBuilderEndless(t *testing.T) {
	f := newFraud(t, lab.Sid)
	activity := func(i int64, fields string) string {
		return fmt.Sprintf(`{"seq":%d,"type":"start","activity":{"id":%[1]d,"type":105,"text":"building","fields":[%s]}}`, i, fields)
	}
	for name, event := range map[string]func(int64) string{
		"log": func(i int64) string { return fmt.Sprintf(`{"seq":%d,"type":"log","log":{"text":"line %[1]d"}}`, i) },
		"one-line": func(i int64) string {
			return fmt.Sprintf(`{"seq":%d,"type":"log","log":{"activity":1,"text":"xxxxxxxx","more":true}}`, i)
		},
		"activities": func(i int64) string { return activity(i, `"/nix/store/00000000000000000000000000000000-x.drv"`) },
		"fields":     func(i int64) string { return activity(i, strings.Repeat("0,", 1000)+"0") },
		"unknown":    func(i int64) string { return fmt.Sprintf(`{"seq":%d,"type":"made-up","new":{}}`, i) },
		"keepalive":  func(int64) string { return "" },
	} {
		t.Run(name, func(t *testing.T) {
			var sent atomic.Int64
			a := f.start(t, lab.Sid, deceit{args: []string{"-L"}, tamper: on(onEvents, func(x *exchange) bool {
				x.WriteHeader(http.StatusOK)
				var b []byte
				for i := int64(1); ; i++ {
					if b = append(append(b, event(i)...), '\n'); len(b) > 64<<10 {
						if _, err := x.Write(b); err != nil {
							return true
						}
						b = b[:0]
						sent.Add(64 << 10)
					}
				}
			})})
			for deadline := time.Now().Add(patience); sent.Load() < 24<<20; <-time.After(time.Millisecond) {
				if time.Now().After(deadline) {
					t.Fatalf("the client has read %d bytes", sent.Load())
				}
			}
			a.Interrupt()
			if code := lab.ExitCode(a.Wait(patience)); code != 130 {
				t.Errorf("exit code %d", code)
			}
			a.small(t)
			a.victim.unchanged(t)
		})
	}
	f.verify(t)
}

// A builder that fails once, at whatever point, is asked again.
func TestHostileBuilderInterrupted(t *testing.T) {
	f := newFraud(t, lab.Sid)
	v := f.clients[lab.Sid]
	for way, fail := range map[string]func(*exchange){
		"reset":   func(*exchange) { panic(http.ErrAbortHandler) },
		"dropped": func(x *exchange) { x.im.drop(); panic(http.ErrAbortHandler) },
		"cut-short": func(x *exchange) {
			x.Header().Set("Content-Length", "1000")
			x.WriteHeader(200)
			x.flush()
			panic(http.ErrAbortHandler)
		},
	} {
		for _, route := range []string{onInfo, onBuild, onInputs, onEvents, onClosure, onManifests, onChunks} {
			if route == onInfo && way != "dropped" {
				continue // nothing has begun: the user may as well be told
			}
			t.Run(way+"-"+route, func(t *testing.T) {
				if route == onInputs {
					f.forget(t)
				}
				var once sync.Once
				failed := make(chan struct{})
				im := newImpostor(t, f.honest, on(route, func(x *exchange) bool {
					once.Do(func() {
						close(failed)
						fail(x)
					})
					return false
				}))
				out, err := v.forgetful(im.ticket, "--no-link", "--impure", "--expr", string(deceived)).CombinedOutput()
				select {
				case <-failed:
				default:
					t.Error("the request was never made")
				}
				v.idle(t)
				if err != nil {
					t.Errorf("the build did not survive it: %v\n%s", err, out)
				} else {
					v.Host.Delete(v.outputs...)
				}
				v.unchanged(t)
			})
		}
	}
	f.verify(t)
}

// forget makes the builder lack everything that clients send it.
func (f *fraud) forget(t *testing.T) {
	t.Helper()
	h := f.builder.Host
	h.Delete(h.Paths()...)
}
