//go:build e2e

package e2e

import (
	"bufio"
	"bytes"
	"errors"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/drv-thru/drv-thru/core/builder"
	"github.com/drv-thru/drv-thru/core/chunk"
	"github.com/drv-thru/drv-thru/core/wire"
	"github.com/drv-thru/drv-thru/e2e/lab"
)

// stateDir is where a lab's builder keeps its state.
const stateDir = "/var/lib/drv-thru/state"

// builtNar is a path of a builder, as its database has it.
type builtNar struct {
	path string
	hash string // Nix's base32
	size int64
}

func narOf(t *testing.T, h *lab.Host, path string) builtNar {
	t.Helper()
	size, err := strconv.ParseInt(h.Run(lab.BuilderUser, "nix-store", "--query", "--size", path), 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	hash := strings.TrimPrefix(h.Run(lab.BuilderUser, "nix-store", "--query", "--hash", path), "sha256:")
	return builtNar{path, hash, size}
}

// indexOf is the file with what the builder knows of the NAR.
func (n builtNar) indexOf() string { return filepath.Join(stateDir, "index/v1", filepath.Base(n.path)) }

// manifest asks for a NAR's manifest, nil when it cannot be had.
func (p *peer) manifest(n builtNar) *chunk.Manifest {
	p.t.Helper()
	a := p.ask(http.MethodPost, wire.RouteManifests, document(p.t, &wire.ManifestsRequest{Nars: []string{n.hash}}))
	if a.code != "" || len(a.body) == 0 {
		p.t.Fatalf("manifests: %d %q %s", a.status, a.code, a.text)
	}
	if a.body[0] == wire.ManifestUnavailable {
		return nil
	}
	m, err := chunk.ReadManifest(bufio.NewReader(bytes.NewReader(a.body[1:])), n.size)
	if err != nil {
		p.t.Fatal(err)
	}
	return m
}

// chunks asks for some chunks and returns how many came right, and how many
// cannot be had.
func (p *peer) chunks(n builtNar, m *chunk.Manifest, first, count int) (right, unavailable int) {
	p.t.Helper()
	a := p.ask(http.MethodPost, wire.RouteChunks, document(p.t, &wire.ChunksRequest{
		Nars: []wire.NarChunks{{NarHash: n.hash, Chunks: []wire.ChunkRange{{uint32(first), uint32(count)}}}},
	}))
	r := chunk.NewFrameReader(bytes.NewReader(a.body))
	for _, c := range m.Chunks[first : first+count] {
		data, err := r.Next(nil, c.Size)
		switch {
		case errors.Is(err, chunk.ErrUnavailable):
			unavailable++
		case err != nil || chunk.Sum(data) != c.ID:
			p.t.Errorf("a chunk that is not what its manifest says: %v", err)
		default:
			right++
		}
	}
	return right, unavailable
}

// flipByte changes one bit of a file of a host.
func flipByte(t *testing.T, h *lab.Host, name string, at int64) {
	t.Helper()
	err := h.Do(func() error {
		f, err := os.OpenFile(name, os.O_RDWR, 0)
		if err != nil {
			return err
		}
		defer f.Close()
		var b [1]byte
		if _, err := f.ReadAt(b[:], at); err != nil {
			return err
		}
		b[0] ^= 1
		_, err = f.WriteAt(b[:], at)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

func exists(t *testing.T, h *lab.Host, name string) bool {
	t.Helper()
	err := h.Do(func() error {
		_, err := os.Lstat(name)
		return err
	})
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
	return err == nil
}

// What a builder says of its store is checked by whoever gets it: a flipped byte in
// its index or in a store file, and a path that is collected while it is read,
// cost a failed request at most.
func TestBuilderDamage(t *testing.T) {
	p := lab.NewPair(t, lab.Trixie, lab.Trixie)
	b, c := p.Builder, p.Client
	ticket := b.Ticket("--uses", "unlimited")
	expr := lab.Blob(3, "damage")
	out := c.BuildExpr(ticket, expr)[0]
	nar := narOf(t, b.Host, out)
	eventually(t, "what was built is in the index", func() bool { return exists(t, b.Host, nar.indexOf()) })
	var holder *peer
	restart := func() {
		t.Helper()
		if holder != nil {
			holder.session.Close() // the builder would wait for it
		}
		b.Stop(longest)
		b.Start()
		b.WaitFor(`(?m)^ready `, longest) // at its relay, too
		holder = newPeer(t, ticket)
	}

	// The index: what was damaged is found out anew, and no client notices.
	flipByte(t, b.Host, nar.indexOf(), 2000)
	restart()
	c.Host.Delete(out)
	anew := func() *lab.Cmd {
		return c.BuildCmd(ticket, "--no-link", "--print-out-paths", "--impure", "--expr", string(expr)).AddEnv("DRV_THRU_CACHE_SIZE=0")
	}
	if again := must(t, anew()); again != out {
		t.Errorf("it is %s now", again)
	}
	b.WaitFor("index entry is useless", longest)
	saysNot(t, b.Output(), "level=ERROR")
	m := holder.manifest(nar)
	if m == nil {
		t.Fatal("there is no manifest")
	}
	eventually(t, "it is in the index again", func() bool { return exists(t, b.Host, nar.indexOf()) })

	// A store file: the client finds a chunk that is wrong, and the builder that it is
	// the store's fault; the path cannot be had.
	flipByte(t, b.Host, out, 1<<20)
	c.Host.Delete(out)
	says(t, fails(t, anew(), wire.ExitFailed), "no longer has this path")
	b.WaitFor("nix-store --verify-path "+regexp.QuoteMeta(out), longest)
	if right, unavailable := holder.chunks(nar, m, 0, len(m.Chunks)); right != 0 || unavailable != len(m.Chunks) {
		t.Errorf("%d chunks of the damaged path came, %d cannot be had", right, unavailable)
	}
	if holder.manifest(nar) != nil || exists(t, b.Host, nar.indexOf()) {
		t.Error("the damaged path can be had")
	}
	flipByte(t, b.Host, out, 1<<20)
	restart()
	if m = holder.manifest(nar); m == nil {
		t.Fatal("the repaired path cannot be had")
	}
	// This also completes what Nix has left half-made.
	if again := must(t, anew()); again != out {
		t.Errorf("it is %s now", again)
	}

	// Collected between two requests for its chunks.
	if right, _ := holder.chunks(nar, m, 0, 1); right != 1 {
		t.Error("its first chunk cannot be had")
	}
	b.Host.Delete(out)
	holder.chunks(nar, m, 0, 4) // of a file that is open still, perhaps
	if right, unavailable := holder.chunks(nar, m, 8, 4); right+unavailable != 4 {
		t.Errorf("%d chunks came, %d cannot be had", right, unavailable)
	}
	restart()
	if holder.manifest(nar) != nil {
		t.Error("a path that is gone has a manifest")
	}
	eventually(t, "its index is gone", func() bool { return !exists(t, b.Host, nar.indexOf()) })
	p.Verify(t)
}

// gc tells what it would remove, removes it, and then has nothing to do. Logs
// are kept and served.
func TestBuilderRetention(t *testing.T) {
	p := lab.NewPair(t, lab.Trixie, lab.Trixie)
	b, c := p.Builder, p.Client
	ticket := b.Ticket("--uses", "unlimited")
	expr := lab.Blob(1, "retention")
	out := c.BuildExpr(ticket, expr)[0]
	nar := narOf(t, b.Host, out)
	drv := b.Host.Run(lab.BuilderUser, "nix-store", "--query", "--deriver", out)
	if a := newPeer(t, ticket).ask(http.MethodGet, "/v1/cache/log/"+filepath.Base(drv), nil); !bytes.Contains(a.body, []byte("made a blob")) {
		t.Errorf("its log: %d %q %q", a.status, a.code, a.body)
	}
	eventually(t, "what was built is in the index", func() bool { return exists(t, b.Host, nar.indexOf()) })
	// Of many outputs, those that others refer to need no roots of their own.
	c.Host.WriteFile(lab.Alice, "/tmp/many.nix", string(lab.Wide(20, "retention")))
	many := c.Build(ticket, c.Host.Run(lab.Alice, "nix-instantiate", "/tmp/many.nix")+"^*")
	globbed := func(pattern string) (found []string) {
		t.Helper()
		if err := b.Host.Do(func() (err error) { found, err = filepath.Glob(stateDir + "/builds/*/" + pattern); return err }); err != nil {
			t.Fatal(err)
		}
		return found
	}
	if roots := globbed("out-*"); len(many) != 20 || len(roots) != 2 {
		t.Errorf("two builds, the second of %d outputs, have the roots %q", len(many), roots)
	}
	b.Host.Run(lab.BuilderUser, "nix-store", "--gc")
	for _, path := range append(many, out) {
		if !b.Host.Has(path) {
			t.Errorf("%s was collected before its time", path)
		}
	}

	// A builder that keeps nothing lets go of it at its start.
	b.Host.WriteFile(lab.BuilderUser, "/var/lib/drv-thru/config.json", `{"keep_outputs": "1s", "recent_builds_limit": 1}`)
	b.Stop(longest)
	b = lab.StartBuilder(t, b.Host, lab.BuilderConfig{
		Relays: []string{p.Relay.URL}, Args: []string{"--config", "/var/lib/drv-thru/config.json"},
	})
	p.Builder = b
	eventually(t, "its roots are gone", func() bool {
		b.Admin("gc")
		return len(globbed("*-*")) == 0
	})
	if b.Host.Run(lab.BuilderUser, "nix-store", "--gc"); b.Host.Has(out) {
		t.Fatal("an output is kept although its time is over")
	}
	b.Host.WriteFile(lab.BuilderUser, stateDir+"/builds/stray/file", "12345")
	want := map[string]string{builder.GarbageIndex: out, builder.GarbageLeft: stateDir + "/builds/stray"}
	for _, flags := range [][]string{{"--dry-run"}, {}} {
		var got struct {
			DryRun  bool `json:"dry_run"`
			Builder []builder.Garbage
		}
		decode(t, b.Admin(append([]string{"gc", "--json"}, flags...)...), &got)
		if got.DryRun != (len(flags) > 0) || len(got.Builder) != len(want) {
			t.Errorf("gc %v: %+v", flags, got)
		}
		for _, g := range got.Builder {
			if want[g.What] != g.Name || g.Bytes <= 0 {
				t.Errorf("gc %v: %+v", flags, g)
			}
		}
		if there := exists(t, b.Host, nar.indexOf()) && exists(t, b.Host, stateDir+"/builds/stray"); there != got.DryRun {
			t.Errorf("gc %v: there still is what it names: %v", flags, there)
		}
	}
	says(t, b.Admin("gc"), "removed 0 items, 0 B")
	// What it was built from went with it, but it is remembered what was.
	if s := statusOf(t, b); len(s.Recent) != 1 || s.Recent[0].State != string(wire.StateBuilt) {
		t.Errorf("the builder remembers %+v", s.Recent)
	}
	if paths := c.BuildExpr(ticket, lab.Hello("after")); len(paths) != 1 {
		t.Errorf("the builder is no longer of use: %q", paths)
	}
	p.Verify(t)
}
