//go:build e2e

package e2e

import (
	"fmt"
	"io"
	"net"
	"os"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/drv-thru/drv-thru/core/ticket"
	"github.com/drv-thru/drv-thru/e2e/lab"
)

const (
	// The line of BenchmarkMount: 1 Gbit/s and 10 ms there and back.
	lineRate  = 125_000_000
	lineDelay = 5 * time.Millisecond
	lineUnit  = 64 << 10
)

// BenchmarkMount reads NARs through a mount, 64 KiB at a time as Nix does, and
// reports MB/s. first and warm have a builder with the speed of memory: what has
// arrived is read for the first time, and again when it is kept. one and eight read
// through drv-thru mount and a line of 1 Gbit/s with 10 ms of round trip, one file or
// eight at once; their peer is as many bare TCP connections through the same line.
func BenchmarkMount(b *testing.B) {
	b.Run("memory", func(b *testing.B) {
		h := newFuseHost(b)
		const size = 1 << 30
		m := startFuse(b, h, lab.RootUser, fuseConfig{Dir: "/run/view", Sizes: []int64{size}, Disk: "/run/kept"})
		// The time is dd's own: starting a process in a host takes as long as the reading.
		copied := regexp.MustCompile(`copied, ([0-9.e-]+) s`)
		read := func() time.Duration {
			out, err := h.Command(lab.RootUser, "env", "LC_ALL=C", "dd", "if="+m.nar(0), "of=/dev/null", "bs=64k").CombinedOutput()
			found := copied.FindSubmatch(out)
			if err != nil || found == nil {
				b.Fatalf("%v\n%s", err, out)
			}
			took, err := time.ParseDuration(string(found[1]) + "s")
			if err != nil {
				b.Fatal(err)
			}
			return took
		}
		kept := m.outside("/run/kept/nar/" + m.nar(0)[strings.LastIndex(m.nar(0), "/")+1:])
		speed := make(map[string][]time.Duration)
		for b.Loop() {
			for _, way := range []string{"first", "warm"} {
				speed[way] = append(speed[way], read())
				for way == "first" {
					if _, err := os.Stat(kept); err == nil {
						read() // the kernel takes it in
						break
					}
					<-time.After(10 * time.Millisecond)
				}
			}
			m.unmount()
			h.Run(lab.RootUser, "rm", "-r", "/run/kept")
			m = startFuse(b, h, lab.RootUser, m.c)
		}
		m.unmount()
		b.ReportMetric(0, "ns/op")
		for way, took := range speed {
			b.ReportMetric(size/1e6/median(took).Seconds(), way+"-MB/s")
		}
	})
	b.Run("line", func(b *testing.B) {
		const readers, mib = 8, 24
		p := lab.NewPair(b, lab.Trixie, lab.Trixie)
		ch := p.Client.Host
		text := p.Builder.Ticket("--uses", "unlimited")
		files := []string{narFile(p.Client.BuildExpr(text, lab.Blob(readers*mib, "one"))[0])}
		for k := range readers {
			files = append(files, narFile(p.Client.BuildExpr(text, lab.Blob(mib, fmt.Sprint("eight", k)))[0]))
		}
		slow := newLine(b, strings.TrimPrefix(p.Relay.URL, "http://"))
		tk, err := ticket.Parse(text)
		if err != nil {
			b.Fatal(err)
		}
		tk.Relays = []string{"http://" + slow.addr}
		mount := ch.StartCmd(ch.Command(lab.RootUser, "drv-thru", "mount", "--cache-size", "0", mountDir).
			AddEnv("DRV_THRU_TICKET="+tk.String(), "DRV_THRU_CACHE_SIZE=0"))
		mount.WaitFor("(?m)^mounted on", longest)
		speed := make(map[string][]time.Duration)
		for b.Loop() {
			for way, some := range map[string][]string{"one": files[:1], "eight": files[1:]} {
				speed[way] = append(speed[way], together(len(some), func(k int) {
					// The narinfo is what shows the NAR.
					script := "cd " + mountDir + " && nar=$(sed -n 's/^URL: //p' " + some[k] + ") && dd if=$nar of=/dev/null bs=64k status=none"
					if out, err := ch.Command(lab.RootUser, "sh", "-euc", script).CombinedOutput(); err != nil {
						b.Errorf("%v\n%s", err, out)
					}
				}))
				speed[way+"-tcp"] = append(speed[way+"-tcp"], together(len(some), func(int) { slow.bare(b, readers*mib/len(some)<<20) }))
			}
		}
		b.ReportMetric(0, "ns/op")
		for _, way := range []string{"one", "eight"} {
			b.ReportMetric(readers*mib<<20/1e6/median(speed[way]).Seconds(), way+"-MB/s")
			b.ReportMetric(median(speed[way+"-tcp"]).Seconds()/median(speed[way]).Seconds(), way+"-x-tcp")
		}
	})
}

// narFile is the name of a path's narinfo in a cache.
func narFile(path string) string {
	return strings.TrimPrefix(path, "/nix/store/")[:32] + ".narinfo"
}

// together is how long n calls at once take.
func together(n int, fn func(k int)) time.Duration {
	began := time.Now()
	var wg sync.WaitGroup
	for k := range n {
		wg.Go(func() { fn(k) })
	}
	wg.Wait()
	return time.Since(began)
}

// A line carries connections at a bounded rate, all together, and late.
type line struct {
	addr, bareAddr string

	mu   sync.Mutex
	free [2]time.Time // when each direction can take more
}

// newLine is a line to target, which has a source of bare bytes behind it as well.
func newLine(t testing.TB, target string) *line {
	l := &line{}
	listen := func(serve func(net.Conn)) string {
		lis, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { lis.Close() })
		go func() {
			for {
				c, err := lis.Accept()
				if err != nil {
					return
				}
				go serve(c)
			}
		}()
		return lis.Addr().String()
	}
	// Sends as many bytes as it is asked for.
	source := listen(func(c net.Conn) {
		defer c.Close()
		var n int64
		if _, err := fmt.Fscanln(c, &n); err == nil {
			buf := make([]byte, 256<<10)
			for n > 0 {
				k, err := c.Write(buf[:min(n, int64(len(buf)))])
				if err != nil {
					return
				}
				n -= int64(k)
			}
		}
	})
	l.addr = listen(func(c net.Conn) { l.carry(c, target) })
	l.bareAddr = listen(func(c net.Conn) { l.carry(c, source) })
	return l
}

// bare fetches bytes over TCP and nothing else.
func (l *line) bare(t testing.TB, bytes int) {
	c, err := net.Dial("tcp", l.bareAddr)
	if err != nil {
		t.Error(err)
		return
	}
	defer c.Close()
	fmt.Fprintln(c, bytes)
	if n, err := io.Copy(io.Discard, struct{ io.Reader }{c}); err != nil || n != int64(bytes) {
		t.Errorf("bare TCP: %d bytes, %v", n, err)
	}
}

func (l *line) carry(c net.Conn, target string) {
	defer c.Close()
	d, err := net.Dial("tcp", target)
	if err != nil {
		return
	}
	defer d.Close()
	var wg sync.WaitGroup
	wg.Go(func() { l.copy(d, c, 0) })
	wg.Go(func() { l.copy(c, d, 1) })
	wg.Wait()
}

// copy delays what it carries; it closes both ends for writing or, on an error, at
// all.
func (l *line) copy(to, from net.Conn, direction int) {
	type piece struct {
		b   []byte
		due time.Time
	}
	pieces := make(chan piece, 64)
	go func() {
		defer close(pieces)
		for {
			b := make([]byte, lineUnit)
			n, err := from.Read(b)
			if n > 0 {
				pieces <- piece{b[:n], l.due(n, direction)}
			}
			if err != nil {
				return
			}
		}
	}()
	failed := false
	for p := range pieces {
		if failed {
			continue
		}
		if wait := time.Until(p.due); wait > 0 {
			<-time.After(wait)
		}
		if _, err := to.Write(p.b); err != nil {
			failed = true
			from.Close()
		}
	}
	if tcp, ok := to.(*net.TCPConn); ok {
		_ = tcp.CloseWrite()
	}
}

// due is when the last of n bytes comes out at the other end.
func (l *line) due(n, direction int) time.Time {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := time.Now()
	if l.free[direction].Before(now) {
		l.free[direction] = now
	}
	l.free[direction] = l.free[direction].Add(time.Duration(n) * time.Second / lineRate)
	return l.free[direction].Add(lineDelay)
}
