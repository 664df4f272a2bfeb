//go:build e2e

package e2e

import (
	"crypto/sha256"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/drv-thru/drv-thru/e2e/lab"
)

// A phase is when a build is interrupted.
type phase string

const (
	midUpload phase = "mid-upload"
	midBuild  phase = "mid-build"
	midImport phase = "mid-import"
)

const (
	// Of the sources of an upload, some have arrived whole when it stands
	// still, in the middle of the next.
	sourceCount    = 6
	sourcesArrived = 3
	sourceBytes    = 8 << 20
	// blobBytes of output are imported, and stand still at blobStop.
	blobBytes = 64 << 20
	blobStop  = 40 << 20
	// logPart is how many lines a build prints before each gate.
	logPart = 200
	// transferCost is what a transfer may cost beyond its bytes: TLS, HTTP and
	// WebSocket frames, documents, events.
	transferCost = 2 << 20
	// underWay is what may be when connections are cut: of eight requests.
	underWay = 16 << 20
)

// A work is a build that stands still in one of its phases.
type work struct {
	stage  *stage
	phase  phase
	client *lab.Process
	name   string // of the ticket, which has two uses
	id     string // of the build
	ticket string
	dir    string
	out    string // store path
	gates  []*lab.Gate
}

func (s *stage) eachPhase(t *testing.T, strike func(*testing.T, *work)) {
	for _, p := range []phase{midUpload, midBuild, midImport} {
		t.Run(string(p), func(t *testing.T) { s.during(t, p, strike) })
	}
}

// during starts a build, calls strike when it is in the phase, and checks what
// is left in the end.
func (s *stage) during(t *testing.T, p phase, strike func(*testing.T, *work)) {
	s.valve.open()
	t.Cleanup(s.valve.open)
	s.works++
	w := &work{stage: s, phase: p, name: fmt.Sprintf("work-%d", s.works)}
	w.dir = "/home/alice/" + w.name
	w.ticket = s.valve.ticket(t, s.pair.Builder.Ticket("--name", w.name, "--uses", "2"))
	c := s.pair.Client.Host
	c.WriteFile(lab.Alice, w.dir+"/default.nix", string(w.expr(t)))
	drv := must(t, c.Command(lab.Alice, "nix-instantiate", "default.nix").In(w.dir))
	w.out = must(t, c.Command(lab.Alice, "nix-store", "--query", "--outputs", drv))

	switch p {
	case midUpload:
		s.valve.stopAt(up, sourcesArrived*sourceBytes+sourceBytes/2)
	case midImport:
		s.valve.stopAt(down, blobStop)
	}
	w.client = c.StartCmd(w.command())
	switch p {
	case midUpload:
		w.standsStill(t)
		refs := strings.Fields(must(t, c.Command(lab.Alice, "nix-store", "--query", "--references", drv)))
		eventually(t, "the first sources are in the builder's store", func() bool {
			there := slices.DeleteFunc(slices.Clone(refs), func(p string) bool { return !s.pair.Builder.Host.Has(p) })
			return len(there) == sourcesArrived
		})
	case midBuild:
		w.client.WaitFor(fmt.Sprintf(`log> line %d\n`, logPart), longest)
	case midImport:
		w.standsStill(t)
		if len(c.FuseMounts()) != 1 {
			t.Fatalf("the client imports without a mount")
		}
	}
	if w.id = statusOf(t, s.pair.Builder).newest(); w.id == "" {
		t.Fatal("the builder knows of no build")
	}
	s.valve.count()
	strike(t, w)
	s.idle(t)
	s.pair.Verify(t)
	s.mountless(t)
}

// newest is the ID of the build that runs, or of the one that ran last.
func (st builderState) newest() string {
	for _, b := range slices.Concat(st.Active, st.Recent) {
		return b.ID
	}
	return ""
}

func (w *work) expr(t *testing.T) lab.Expr {
	t.Helper()
	switch w.phase {
	case midUpload:
		c := w.stage.pair.Client.Host
		var srcs strings.Builder
		for i := range sourceCount {
			name := fmt.Sprintf("source-%d", i)
			c.WriteFile(lab.Alice, w.dir+"/"+name, noise(w.name+name, sourceBytes))
			fmt.Fprintf(&srcs, `(builtins.path { path = ./%s; name = "%[1]s"; }) `, name)
		}
		return lab.Expr(fmt.Sprintf(`derivation { name = %q; system = %q; builder = "/bin/sh"; srcs = [ %s];
			args = [ "-euc" "cat $srcs | wc -c > $out" ]; }`, w.name, lab.System, srcs.String()))
	case midBuild:
		var script strings.Builder
		for i := range 3 {
			fmt.Fprintf(&script, "seq %d %d | sed 's/^/line /'\n", i*logPart+1, (i+1)*logPart)
			if i < 2 {
				gate := fmt.Sprintf("%s-%d", w.name, i)
				w.gates = append(w.gates, lab.NewGate(t, w.stage.pair.Builder.Host, gate))
				fmt.Fprintf(&script, "read line < /gate/%s\n", gate)
			}
		}
		return lab.Log(w.name, script.String())
	default:
		return lab.Blob(blobBytes>>20, w.name)
	}
}

// noise are bytes that neither compress nor repeat themselves, the same for the
// same seed.
func noise(seed string, n int) string {
	b := make([]byte, n)
	_, _ = rand.NewChaCha8(sha256.Sum256([]byte(seed))).Read(b)
	return string(b)
}

func (w *work) command() *lab.Cmd {
	return w.stage.pair.Client.BuildCmd(w.ticket, "-L", "--no-link", "-f", "default.nix").In(w.dir)
}

// standsStill waits until the transfer has come to where the valve stops it.
func (w *work) standsStill(t *testing.T) {
	t.Helper()
	eventually(t, "the transfer stands still", func() bool {
		select {
		case <-w.client.Done():
			t.Fatalf("the client has ended:\n%s", w.client.Output())
		default:
		}
		return w.stage.valve.stands()
	})
}

// release lets the phase go on.
func (w *work) release() {
	w.stage.valve.open()
	for _, g := range w.gates {
		g.Open()
	}
}

// exits waits for the client's end.
func (w *work) exits(t *testing.T, code int) {
	t.Helper()
	if got := lab.ExitCode(w.client.Wait(longest)); got != code {
		t.Fatalf("the client exits with %d, want %d:\n%s", got, code, w.client.Output())
	}
}

// record is what the builder has recorded of the build.
func (w *work) record(t *testing.T) buildState {
	t.Helper()
	for _, b := range statusOf(t, w.stage.pair.Builder).Recent {
		if b.ID == w.id {
			return b
		}
	}
	t.Fatalf("the builder has no record of the end of %s", w.id)
	return buildState{}
}

// cancelled checks how the builder has ended a build whose client is gone. One
// that was being imported had ended before.
func (w *work) cancelled(t *testing.T, code string) {
	t.Helper()
	w.stage.idle(t)
	state := "cancelled"
	if w.phase == midImport {
		state, code = "built", ""
	}
	b := w.record(t)
	got := ""
	if b.Result.Error != nil {
		got = b.Result.Error.Code
	}
	if b.State != state || got != code {
		t.Errorf("the build ended as %q with code %q, want %q with %q", b.State, got, state, code)
	}
}

// runAgain checks what an ended client has left and runs its command again.
func (w *work) runAgain(t *testing.T) {
	t.Helper()
	s := w.stage
	s.idle(t)
	whole(t, s.pair.Builder.Host, "")
	half := ""
	if w.phase == midImport {
		half = w.out
	}
	whole(t, s.pair.Client.Host, half)
	if s.pair.Client.Host.Has(w.out) {
		t.Errorf("%s is valid on the client", w.out)
	}
	spent(t, s.pair.Builder, w.name, 1)

	w.release()
	out, err := w.command().CombinedOutput()
	if err != nil {
		t.Fatalf("the next run: %v\n%s", err, out)
	}
	w.id = statusOf(t, s.pair.Builder).newest()
	w.arrived(t, string(out))
	if w.phase == midUpload {
		// What had arrived is not sent again. (More than that arrives of a
		// client that is killed: its kernel goes on for a moment.)
		w.sentAtMost(t, (sourceCount-sourcesArrived)*sourceBytes)
	}
}

// goneOn checks a build that was interrupted and went on by itself.
func (w *work) goneOn(t *testing.T) {
	t.Helper()
	s := w.stage
	w.arrived(t, w.client.Output())
	// No second build, no second use.
	if id := statusOf(t, s.pair.Builder).newest(); id != w.id {
		t.Errorf("it went on as build %s, it was %s", id, w.id)
	}
	spent(t, s.pair.Builder, w.name, 1)
	// Where it stood still, the client's connections were cut: what they had
	// carried does not come again, but for the source that was under way and
	// what the client had not read yet.
	switch w.phase {
	case midUpload:
		if got, most := s.valve.passed(up), int64((sourceCount-sourcesArrived)*sourceBytes+transferCost); got > most {
			t.Errorf("%d bytes more were sent, want %d at most", got, most)
		}
		w.sentAtMost(t, sourceCount*sourceBytes)
	case midImport:
		if got, most := s.valve.passed(down), int64(blobBytes-blobStop+underWay+transferCost); got > most {
			t.Errorf("%d bytes more came, want %d at most", got, most)
		}
	}
}

// arrived checks that the client's store has the output, and that the summary
// says so.
func (w *work) arrived(t *testing.T, printed string) {
	t.Helper()
	says(t, printed, "inputs sent", w.out)
	signed(t, w.stage.pair.Client.Host, w.out, w.stage.pair.Builder.PublicKey(), false)
}

// sentAtMost checks the bytes of inputs that the summary tells of.
func (w *work) sentAtMost(t *testing.T, most uint64) {
	t.Helper()
	if got := w.record(t).Result.UploadBytes; got > most+transferCost {
		t.Errorf("%d bytes of inputs were sent, want %d at most", got, most)
	}
}
