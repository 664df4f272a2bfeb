//go:build e2e

package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/drv-thru/drv-thru/e2e/lab"
)

// BenchmarkImport measures what it costs to bring outputs home that the builder
// has built before: relay, builder, client and both Nix daemons are separate
// processes, stores lie on tmpfs. Each round deletes the client's copy and
// imports it five times: from a raw binary cache on the client's own tmpfs, the
// least that Nix itself needs; from the builder's store over ssh-ng; and with
// drv-thru build, through the relay or on a direct path by TCP: cold, when the
// builder does not know yet which chunks there are; again, with an empty chunk
// store; and warm, with the chunk store that this has filled. It reports the
// medians of the rounds and the ratios of the medians: of the time that passes, and
// (cpu) of the core-seconds that all processes of the three hosts take together,
// which a busy machine changes less.
func BenchmarkImport(b *testing.B) {
	for _, path := range []string{"relay", "direct"} {
		b.Run(path, func(b *testing.B) { benchmarkImport(b, path == "direct") })
	}
}

func benchmarkImport(b *testing.B, direct bool) {
	p := newImportPair(b, direct)
	for _, c := range []struct {
		name string
		expr lab.Expr
	}{{"blob", lab.BlobExpr}, {"big", lab.BigExpr}, {"wide", lab.WideExpr}} {
		b.Run(c.name, func(b *testing.B) {
			closure := p.build(c.expr)
			ways := []string{"raw", "ssh-ng", "cold", "repeat", "warm"}
			took, spent := make(map[string][]time.Duration), make(map[string][]time.Duration)
			for b.Loop() {
				for _, way := range ways {
					t, cpu := p.timed(closure, p.prepare(way, closure))
					took[way], spent[way] = append(took[way], t), append(spent[way], cpu)
				}
			}
			b.ReportMetric(0, "ns/op") // means nothing: five imports are one op
			for unit, all := range map[string]map[string][]time.Duration{"": took, "-cpu": spent} {
				raw, ssh := median(all["raw"]).Seconds(), median(all["ssh-ng"]).Seconds()
				for _, way := range ways {
					b.ReportMetric(median(all[way]).Seconds(), way+unit+"-s")
				}
				for _, way := range ways[2:] {
					b.ReportMetric(median(all[way]).Seconds()/raw, way+unit+"-x-raw")
					b.ReportMetric(median(all[way]).Seconds()/ssh, way+unit+"-x-ssh-ng")
				}
			}
		})
	}
}

// TestMemoryOfLargeOutput builds and moves an output of 1 GiB in one file: neither end
// may hold more of it than its buffers.
func TestMemoryOfLargeOutput(t *testing.T) {
	const mib = 1 << 10
	builder, client := memoryOf(t, lab.NewPair(t, lab.Trixie, lab.Trixie), mib, "memory")
	t.Logf("peak resident memory while %d MiB moved: builder %d MiB, client %d MiB", mib, builder>>20, client>>20)
	if builder > 150<<20 {
		t.Errorf("the builder took %d MiB, at most 150", builder>>20)
	}
	if client > 200<<20 {
		t.Errorf("the client took %d MiB, at most 200", client>>20)
	}
}

// BenchmarkMemory reports the most that builder and client hold while an output
// of 5 GiB in one file is built and moved, with chunks of the last GiB kept.
func BenchmarkMemory(b *testing.B) {
	for k := 0; b.Loop(); k++ {
		builder, client := memoryOf(b, lab.NewPair(b, lab.Trixie, lab.Trixie), 5<<10, fmt.Sprint(k), "DRV_THRU_CACHE_SIZE=1G")
		b.ReportMetric(float64(builder>>20), "builder-MiB")
		b.ReportMetric(float64(client>>20), "client-MiB")
	}
	b.ReportMetric(0, "ns/op")
}

// memoryOf is the most that builder and client hold while a blob is built and moved.
func memoryOf(t testing.TB, p *lab.Pair, mib int, salt string, env ...string) (builder, client int64) {
	t.Helper()
	build := p.Client.Host.StartCmd(p.Client.BuildCmd(p.Builder.Ticket(), "--no-link", "--impure", "--expr", string(lab.Blob(mib, salt))).AddEnv(env...))
	most := watchMemory(build)
	if err := build.Wait(longest); err != nil {
		t.Fatalf("%v\n%s", err, build.Output())
	}
	return peak(t, p.Builder.Host, "drv-thru", "serve"), most.Load()
}

// An importPair is a builder and a client that trusts it, with the two other
// ways to bring a path from the one to the other.
type importPair struct {
	t        testing.TB
	builder  *lab.Builder
	client   *lab.Client
	hosts    []*lab.Host
	ticket   string
	raw      string   // URL of a binary cache without compression in the client's tmpfs
	sshStore string   // URL of the builder's store
	sshEnv   []string // what copying from it needs
	drv      string
	outputs  []string
}

// newImportPair makes one; with direct, the client's ticket has addresses and no
// relay.
func newImportPair(t testing.TB, direct bool) *importPair {
	t.Helper()
	p := &importPair{t: t}
	bh := lab.NewHost(t, lab.Trixie, lab.WithName("builder"))
	bh.StartDaemon()
	rh := lab.NewHost(t, lab.Trixie, lab.WithName("relay"))
	relay := lab.StartRelay(t, rh)
	config := lab.BuilderConfig{Relays: []string{relay.URL}, Direct: direct}
	if direct {
		config.Args = []string{"--listen", ":" + strconv.Itoa(bh.FreePort())}
	}
	p.builder = lab.StartBuilder(t, bh, config)
	ch := lab.NewHost(t, lab.Trixie, lab.WithName("client"))
	ch.StartDaemon("trusted-public-keys = " + p.builder.PublicKey())
	p.client = lab.NewClient(t, ch)
	p.hosts = []*lab.Host{bh, rh, ch}
	ticket := []string{"--uses", "unlimited"}
	if direct {
		ticket = append(ticket, "--direct")
	}
	p.ticket = p.builder.Ticket(ticket...)
	p.sshStore, p.sshEnv = bh.SSHD(lab.BuilderUser).Allow(ch)
	return p
}

// build builds expr on the builder, brings it to the client, and makes it ready
// to come the other ways. It returns the closure of the outputs.
func (p *importPair) build(expr lab.Expr) []string {
	p.t.Helper()
	ch, bh := p.client.Host, p.builder.Host
	ch.WriteFile(lab.Alice, "/tmp/import.nix", string(expr))
	p.drv = ch.Run(lab.Alice, "nix-instantiate", "/tmp/import.nix")
	p.outputs = strings.Fields(ch.Must(p.client.BuildCmd(p.ticket, "--no-link", "--print-out-paths", p.drv+"^*")))
	closure := ch.Closure(p.outputs...)
	// Of each path Nix checks every signature by a key that it trusts, so it is the same one
	// whichever way the path comes.
	bh.Run(lab.RootUser, append([]string{"nix", "store", "sign", "--key-file", builderData + "/signing-secret.key"}, closure...)...)
	const cache = "/nix/raw-cache"
	ch.Run(lab.RootUser, "rm", "-rf", cache)
	ch.Run(lab.RootUser, append([]string{"nix", "copy", "--no-check-sigs", "--to", "file://" + cache + "?compression=none"}, closure...)...)
	p.raw = "file://" + cache
	return closure
}

// again builds what is built there already.
func (p *importPair) again() *lab.Cmd {
	return p.client.BuildCmd(p.ticket, "--no-link", p.drv+"^*").AddEnv("XDG_CACHE_HOME=" + clientCache)
}

// builderData is the builder's data directory, and builderIndex what it knows of its
// store.
const (
	builderData  = "/var/lib/drv-thru/state"
	builderIndex = builderData + "/index"
)

// clientCache is where the client's chunk store is: on its tmpfs, too.
const clientCache = "/nix/client-cache"

// prepare returns what imports the closure one way, when it is ready for that.
func (p *importPair) prepare(way string, closure []string) *lab.Cmd {
	p.t.Helper()
	switch way {
	case "raw":
		return p.copyFrom(p.raw, closure)
	case "ssh-ng":
		return p.copyFrom(p.sshStore, closure)
	case "cold":
		if err := p.builder.Stop(longest); err != nil {
			p.t.Fatal(err)
		}
		p.builder.Host.Run(lab.RootUser, "rm", "-rf", builderIndex)
		p.builder.Start()
		p.builder.WaitFor("registered at relay", longest)
	}
	if way != "warm" {
		p.client.Host.Run(lab.RootUser, "rm", "-rf", clientCache)
		p.client.Host.Run(lab.RootUser, "install", "-d", "-o", lab.Alice, clientCache)
	}
	return p.again()
}

func (p *importPair) copyFrom(store string, closure []string) *lab.Cmd {
	c := p.client.Host.Command(lab.Alice, append([]string{"nix", "copy", "--from", store}, closure...)...)
	if store == p.sshStore {
		c = c.AddEnv(p.sshEnv...)
	}
	return c
}

// timed deletes the client's copy and measures how long c takes to bring it back,
// and how much CPU time everybody spends on it.
func (p *importPair) timed(closure []string, c *lab.Cmd) (took, cpu time.Duration) {
	p.t.Helper()
	_, begun, ended, cpu := p.brought(closure, c)
	return ended.Sub(begun), cpu
}

// brought is timed that tells also what c printed, and when it began and ended.
func (p *importPair) brought(closure []string, c *lab.Cmd) (text string, begun, ended time.Time, cpu time.Duration) {
	p.t.Helper()
	p.client.Host.Delete(closure...)
	spent := func() (sum time.Duration) {
		for _, h := range p.hosts {
			sum += h.CPU()
		}
		return sum
	}
	before := spent()
	begun = time.Now()
	out, err := c.CombinedOutput()
	ended = time.Now()
	if c.ProcessState != nil {
		cpu = spent() - before + c.ProcessState.UserTime() + c.ProcessState.SystemTime()
	}
	if err != nil {
		p.t.Fatalf("%v\n%s", err, out)
	}
	for _, path := range []string{closure[0], closure[len(closure)-1]} {
		if !p.client.Host.Has(path) {
			p.t.Fatalf("%s did not come:\n%s", path, out)
		}
	}
	return string(out), begun, ended, cpu
}

func median(all []time.Duration) time.Duration {
	all = slices.Sorted(slices.Values(all))
	return all[len(all)/2]
}

// watchMemory polls the peak of a process's resident memory until it ends.
func watchMemory(p *lab.Process) *atomic.Int64 {
	peak := new(atomic.Int64)
	go func() {
		for {
			select {
			case <-p.Done():
				return
			case <-time.After(20 * time.Millisecond):
				if n, err := residentPeak(p.PID()); err == nil {
					peak.Store(n)
				}
			}
		}
	}()
	return peak
}

// residentPeak reads VmHWM of proc_pid_status(5).
func residentPeak(pid int) (int64, error) {
	text, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "status"))
	if err != nil {
		return 0, err
	}
	_, rest, _ := strings.Cut(string(text), "VmHWM:")
	var kib int64
	if _, err := fmt.Sscanf(rest, "%d kB", &kib); err != nil {
		return 0, fmt.Errorf("no VmHWM of process %d: %w", pid, err)
	}
	return kib << 10, nil
}
