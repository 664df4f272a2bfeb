//go:build e2e

package e2e

import (
	"context"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/drv-thru/drv-thru/core/client"
	"github.com/drv-thru/drv-thru/core/nix"
	"github.com/drv-thru/drv-thru/core/nix/daemon"
	"github.com/drv-thru/drv-thru/e2e/lab"
)

// derivations is how many .drv files the derivation has below it.
const derivations = 3000

// A graph of thousands of derivations costs one request that says what it is,
// one that sends it, and the second time nothing is sent at all.
func TestThreeThousandDerivations(t *testing.T) {
	p := lab.NewPair(t, lab.Trixie, lab.Trixie)
	expr := string(lab.Deep(derivations, "requests"))
	build := func() (string, string) {
		cmd := p.Client.BuildCmd(p.Builder.Ticket(), "-v", "--no-link", "--print-out-paths", "--impure", "--expr", expr).
			AddEnv("DRV_THRU_CACHE_SIZE=0") // or the second would ask nobody
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		text := strings.TrimSpace(string(out))
		return text[strings.LastIndexByte(text, '\n')+1:], text
	}
	path, text := build()
	want := slices.Clone(requestOrder)
	if got := requests(text); !slices.Equal(got, want) {
		t.Errorf("the first build asks %q, want %q", got, want)
	}
	says(t, text, fmt.Sprintf("sending %d paths", derivations+1))

	p.Client.Host.Delete(path)
	again, text := build()
	if again != path {
		t.Errorf("the second build has %s, not %s", again, path)
	}
	want = slices.DeleteFunc(want, func(r string) bool { return r == "PUT inputs" })
	if got := requests(text); !slices.Equal(got, want) {
		t.Errorf("the second build asks %q, want %q", got, want)
	}
	says(t, text, fmt.Sprintf("inputs sent  0 B of %d paths", derivations+1))
	p.Verify(t)
}

var requestOrder = []string{"GET info", "PUT build", "GET events", "PUT inputs", "GET closure", "POST manifests", "POST chunks"}

var requestLine = regexp.MustCompile(`msg=request method=([A-Z]+) path=\S*/v1/(\S+)`)

// requests lists what a client with -v has asked the builder, sorted by the
// order of a build. Those of a kind that overlap come in any order.
func requests(text string) (kinds []string) {
	for _, m := range requestLine.FindAllStringSubmatch(text, -1) {
		route := strings.Split(m[2], "/")
		kind := route[len(route)-1]
		if route[0] == "builds" && len(route) == 2 {
			kind = "build"
		}
		kinds = append(kinds, m[1]+" "+kind)
	}
	slices.SortStableFunc(kinds, func(a, b string) int {
		return slices.Index(requestOrder, a) - slices.Index(requestOrder, b)
	})
	return kinds
}

// BenchmarkDerivations prints how long thousands of new derivations take to be
// on the builder once they are evaluated, and how long its Nix daemon takes to
// add the same ones when nothing else is done.
func BenchmarkDerivations(b *testing.B) {
	for _, root := range lab.Roots {
		b.Run(string(root), func(b *testing.B) {
			p := lab.NewPair(b, root, root)
			alone := lab.NewHost(b, root, lab.WithName("alone"))
			alone.StartDaemon()
			var ours, daemons time.Duration
			for i := range b.N {
				expr := string(lab.Deep(derivations, fmt.Sprintf("bench%d", i)))
				drv := p.Client.Host.Must(p.Client.Host.Command(lab.Alice, "nix-instantiate", "--expr", expr))
				daemons += addAlone(b, p.Client.Host, alone, nix.Path(drv))
				out, err := p.Client.BuildCmd(p.Builder.Ticket(), "-v", "--no-link", drv+"^*").CombinedOutput()
				if err != nil {
					b.Fatalf("%v\n%s", err, out)
				}
				ours += logged(b, string(out), `PUT path=/v1/builds/\w+/inputs`).Sub(logged(b, string(out), `msg=evaluated`))
			}
			perBuild := func(d time.Duration) float64 { return d.Seconds() / float64(b.N) }
			b.ReportMetric(perBuild(ours), "s/upload")
			b.ReportMetric(perBuild(daemons), "s/daemon-alone")
			b.ReportMetric(perBuild(ours-daemons), "s/beyond-daemon")
			b.ReportMetric(0, "ns/op")
		})
	}
}

// addAlone times how long a host's daemon takes to add the closure of a
// derivation of another host, from memory.
func addAlone(b *testing.B, from, to *lab.Host, drv nix.Path) time.Duration {
	b.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), longest)
	defer cancel()
	files := client.StoreFiles{Root: rootOf(from)}
	in, err := client.Collect(ctx, files, nil, []nix.Path{drv})
	if err != nil {
		b.Fatal(err)
	}
	infos, nars := make([]nix.PathInfo, len(in.Paths)), make([]string, len(in.Paths))
	for i, w := range in.Wire {
		hash, err := nix.ParseHash("sha256:" + w.NarHash)
		if err != nil {
			b.Fatal(err)
		}
		infos[i] = nix.PathInfo{Path: in.Paths[i], NarHash: hash, NarSize: w.NarSize, CA: w.CA}
		for _, r := range w.References {
			infos[i].References = append(infos[i].References, in.Paths[r])
		}
		infos[i].References = nix.SortedPaths(infos[i].References)
		nar, err := files.OpenNar(ctx, in.Paths[i])
		if err != nil {
			b.Fatal(err)
		}
		data, err := io.ReadAll(io.NewSectionReader(nar, 0, nar.Size()))
		if err != nil {
			b.Fatal(err)
		}
		nar.Close()
		nars[i] = string(data)
	}
	conn, err := daemon.Dial(ctx, daemon.Config{Dial: daemon.UnixDialer(rootOf(to) + daemon.DefaultSocket)})
	if err != nil {
		b.Fatal(err)
	}
	defer conn.Close()
	begun, next := time.Now(), 0
	err = conn.AddMultipleToStore(ctx, len(infos), func() (nix.PathInfo, io.Reader, error) {
		next++
		return infos[next-1], strings.NewReader(nars[next-1]), nil
	})
	if err != nil {
		b.Fatal(err)
	}
	return time.Since(begun)
}

// rootOf is a host's root directory as this process sees it.
func rootOf(h *lab.Host) string { return fmt.Sprintf("/proc/%d/root", h.Pid()) }

// logged is when the line of a log that matches was written.
func logged(b *testing.B, text, expr string) time.Time {
	b.Helper()
	m := regexp.MustCompile(`time=(\S+) .*(?:` + strings.ReplaceAll(expr, "PUT ", "method=PUT ") + `)`).FindStringSubmatch(text)
	if m == nil {
		b.Fatalf("no line has %s:\n%s", expr, text)
	}
	at, err := time.Parse(time.RFC3339Nano, m[1])
	if err != nil {
		b.Fatal(err)
	}
	return at
}
