//go:build e2e

package e2e

import (
	"net/http"
	"net/http/httptest"
	"regexp"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/drv-thru/drv-thru/e2e/lab"
)

// What comes over the wire is only what the client lacks, and whatever happens
// to the chunk store, the outputs come.
func TestChunkStore(t *testing.T) {
	second := new(secondCache)
	web := httptest.NewServer(second)
	t.Cleanup(web.Close)

	bh := lab.NewHost(t, lab.Trixie, lab.WithName("builder"))
	bh.StartDaemon()
	ch := lab.NewHost(t, lab.Trixie, lab.WithName("client"))
	p := lab.Join(t, bh, ch, lab.BuilderConfig{}, "substituters = "+web.URL, "narinfo-cache-negative-ttl = 0")
	c := p.Client
	ticket := p.Builder.Ticket("--uses", "unlimited")

	const mib = 5
	args := []string{"--no-link", "--impure", "--expr", string(lab.Blob(mib, "chunks"))}
	outputs := c.Build(ticket, args[1:]...)
	packs := "/home/" + lab.Alice + "/.cache/drv-thru/chunks"
	// again brings the outputs once more and returns what it says.
	again := func(t *testing.T, env ...string) string {
		t.Helper()
		ch.Delete(outputs...)
		text, err := c.BuildCmd(ticket, args...).AddEnv(env...).CombinedOutput()
		if err != nil {
			t.Fatalf("%v\n%s", err, text)
		}
		if !ch.Has(outputs[0]) {
			t.Fatalf("the output did not come:\n%s", text)
		}
		return string(text)
	}
	little := regexp.MustCompile(`(?m)^received +[0-9.]+ (B|KiB) for 1 path, 5(\.0)? MiB unpacked`)
	much := regexp.MustCompile(`(?m)^received +5(\.0)? MiB for 1 path, 5(\.0)? MiB unpacked`)
	expect := func(t *testing.T, text string, want *regexp.Regexp) {
		t.Helper()
		if !want.MatchString(text) {
			t.Errorf("it does not say %s:\n%s", want, text)
		}
	}

	t.Run("warm", func(t *testing.T) { expect(t, again(t), little) })
	t.Run("flipped", func(t *testing.T) {
		must(t, ch.Command(lab.RootUser, "sh", "-c", `for f in "$1"/*.pack; do
			for at in 100000 2000000 3000000; do printf XXXX | dd of="$f" bs=1 seek=$at conv=notrunc 2>/dev/null || exit 1; done
		done`, "sh", packs))
		expect(t, again(t), regexp.MustCompile(`(?m)^received +[1-9][0-9.]+ KiB for 1 path`))
		// It has been put there anew.
		expect(t, again(t), little)
	})
	t.Run("off", func(t *testing.T) { expect(t, again(t, "DRV_THRU_CACHE_SIZE=0"), much) })
	t.Run("full", func(t *testing.T) {
		must(t, ch.Command(lab.RootUser, "sh", "-c", "mkdir /nix/small && mount -t tmpfs -o size=1m,mode=777 tmpfs /nix/small"))
		text := again(t, "XDG_CACHE_HOME=/nix/small")
		expect(t, text, much)
		if n := strings.Count(text, "nothing more is kept"); n != 1 {
			t.Errorf("%d warnings:\n%s", n, text)
		}
	})
	t.Run("unwritable", func(t *testing.T) {
		text := again(t, "XDG_CACHE_HOME=/proc")
		expect(t, text, much)
		if n := strings.Count(text, "nothing more is kept") + strings.Count(text, "without the chunk cache"); n != 1 {
			t.Errorf("%d warnings:\n%s", n, text)
		}
	})
	t.Run("wrong size", func(t *testing.T) {
		text, err := c.BuildCmd(ticket, args...).AddEnv("DRV_THRU_CACHE_SIZE=plenty").CombinedOutput()
		if lab.ExitCode(err) != 2 || !strings.Contains(string(text), "DRV_THRU_CACHE_SIZE") || !strings.Contains(string(text), "hint:") {
			t.Errorf("%v\n%s", err, text)
		}
	})
	t.Run("two at once", func(t *testing.T) {
		ch.Delete(outputs...)
		must(t, ch.Command(lab.RootUser, "rm", "-r", packs))
		one, other := c.StartBuild(ticket, args...), c.StartBuild(ticket, args...)
		for _, p := range []*lab.Process{one, other} {
			if err := p.Wait(longest); err != nil {
				t.Errorf("%v\n%s", err, p.Output())
			}
		}
		expect(t, again(t), little)
	})
	t.Run("substituter", func(t *testing.T) {
		must(t, ch.Command(lab.RootUser, "nix", "copy", "--to", "file:///nix/second?compression=none", outputs[0]))
		second.from.Store(ch)
		text := again(t)
		expect(t, text, regexp.MustCompile(`(?m)^received +0 B for 0 paths.*; 1 path from this machine's own substituters`))
		if second.nars.Load() == 0 {
			t.Error("nobody asked the substituter for the NAR")
		}
	})
	p.Verify(t)
}

// secondCache serves a binary cache in a host's /nix/second, once there is one,
// and counts the NARs that it was asked for.
type secondCache struct {
	from atomic.Pointer[lab.Host]
	nars atomic.Int32
}

func (s *secondCache) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.URL.Path == "/nix-cache-info" {
		_, _ = w.Write([]byte("StoreDir: /nix/store\n")) // the client may be gone
		return
	}
	h := s.from.Load()
	if h == nil {
		http.NotFound(w, r)
		return
	}
	text, err := h.ReadFile("/nix/second" + r.URL.Path)
	if err != nil {
		http.NotFound(w, r)
		return
	}
	if strings.HasPrefix(r.URL.Path, "/nar/") && r.Method == http.MethodGet {
		s.nars.Add(1)
	}
	_, _ = w.Write(text) // the client may be gone
}
