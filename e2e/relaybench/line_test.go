//go:build e2e

package relaybench

import (
	"bufio"
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strconv"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/drv-thru/drv-thru/core/cache"
	"github.com/drv-thru/drv-thru/core/link"
)

// A client and a builder at the two ends of a line. The relay is at the builder's
// end, so all paths have the same line to fill.
const (
	clientEnd  = "10.77.0.1"
	builderEnd = "10.77.0.2"
	relayPort  = "7411"
	directPort = 7412
	// lineQueue is what a router keeps before it drops: the round trip.
	lineRate  = 100e6 // bits a second
	lineDelay = 30 * time.Millisecond
	lineQueue = 60 * time.Millisecond
	mtu       = 1500
	// tick is the pause between lines of a log.
	tick = 50 * time.Millisecond
)

// BenchmarkLine fills a line of 100 Mbit/s with a round trip of 60 ms by each
// path, while a log's lines come: by one long answer, by one long request, and by
// an import, which makes many short requests. It reports how much of the line is
// payload, and how long the log's lines take.
//
//	e2e/test bench -bench Line -benchtime 1x
func BenchmarkLine(b *testing.B) {
	l := newEnds(b)
	l.delayed(b)
	l.measure(b, lineRate, 100<<20)
}

// BenchmarkGigabit fills a line of 1 Gbit/s without a delay worth the name.
func BenchmarkGigabit(b *testing.B) {
	l := newEnds(b)
	l.throttled(b, "1gbit")
	l.measure(b, 1e9, 1<<30)
}

// ends are two network namespaces.
type ends struct{ client, builder *exec.Cmd }

func newEnds(b *testing.B) *ends {
	b.Helper()
	if os.Geteuid() != 0 {
		b.Fatal("this needs root, for network namespaces: run e2e/test bench")
	}
	namespace := func() *exec.Cmd {
		// It lives as long as its standard input.
		cmd := exec.Command("cat")
		cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET}
		end, err := cmd.StdinPipe()
		if err == nil {
			err = cmd.Start()
		}
		if err != nil {
			b.Fatal(err)
		}
		b.Cleanup(func() {
			_ = end.Close()
			_ = cmd.Wait()
		})
		return cmd
	}
	return &ends{namespace(), namespace()}
}

// in is the beginning of a command that runs in a namespace.
func in(ns *exec.Cmd, argv ...string) []string {
	return append([]string{"nsenter", "-t", strconv.Itoa(ns.Process.Pid), "-n", "--"}, argv...)
}

func sh(b *testing.B, ns *exec.Cmd, script string) {
	b.Helper()
	argv := in(ns, "sh", "-euc", script)
	if out, err := exec.Command(argv[0], argv[1:]...).CombinedOutput(); err != nil {
		b.Fatalf("%s: %v\n%s", script, err, out)
	}
}

// throttled joins the ends by a wire of the kernel's.
func (l *ends) throttled(b *testing.B, rate string) {
	b.Helper()
	sh(b, l.client, "ip link set lo up; ip link add line type veth peer name line netns "+strconv.Itoa(l.builder.Process.Pid))
	for at, ns := range map[string]*exec.Cmd{clientEnd: l.client, builderEnd: l.builder} {
		sh(b, ns, "ip link set lo up; ip addr add "+at+"/24 dev line; ip link set line up; tc qdisc add dev line root tbf rate "+rate+" burst 256k latency 20ms")
	}
}

// delayed joins the ends by a line that this process runs: the kernel's own means
// of delaying packets is not in every kernel.
func (l *ends) delayed(b *testing.B) {
	b.Helper()
	a, z := tun(b, l.client, clientEnd, builderEnd), tun(b, l.builder, builderEnd, clientEnd)
	var work sync.WaitGroup
	for _, way := range [][2]*os.File{{a, z}, {z, a}} {
		packets := make(chan late, 64<<10)
		work.Go(func() { take(way[0], packets) })
		work.Go(func() { give(way[1], packets) })
	}
	b.Cleanup(func() {
		_ = a.Close()
		_ = z.Close()
		work.Wait()
	})
}

// late is a packet and when it arrives.
type late struct {
	packet []byte
	at     time.Time
}

// take takes packets in: each waits until those before it have left, unless that
// is longer than the queue.
func take(from *os.File, to chan<- late) {
	defer close(to)
	var free time.Time // when all before have left
	buf := make([]byte, 64<<10)
	for {
		n, err := from.Read(buf)
		if err != nil {
			return
		}
		now := time.Now()
		if free.Before(now) {
			free = now
		}
		if free.Sub(now) > lineQueue {
			continue
		}
		free = free.Add(time.Duration(float64(n) * 8 / lineRate * float64(time.Second)))
		to <- late{slices.Clone(buf[:n]), free.Add(lineDelay)}
	}
}

func give(to *os.File, from <-chan late) {
	for p := range from {
		time.Sleep(time.Until(p.at))
		_, _ = to.Write(p.packet) // a packet that is lost is one that is lost
	}
}

// tun makes a network interface in a namespace whose packets are read and written
// here (Documentation/networking/tuntap.rst).
func tun(b *testing.B, ns *exec.Cmd, at, peer string) *os.File {
	b.Helper()
	type made struct {
		f   *os.File
		err error
	}
	done := make(chan made)
	go func() {
		// The thread is of no use for anything else, and ends with the goroutine.
		runtime.LockOSThread()
		f, err := tunHere(ns.Process.Pid)
		done <- made{f, err}
	}()
	m := <-done
	if m.err != nil {
		b.Fatal(m.err)
	}
	sh(b, ns, fmt.Sprintf("ip link set lo up; ip link set line mtu %d txqueuelen 10000 up; ip addr add %s peer %s dev line", mtu, at, peer))
	return m.f
}

func tunHere(pid int) (*os.File, error) {
	ns, err := os.Open(fmt.Sprintf("/proc/%d/ns/net", pid))
	if err != nil {
		return nil, err
	}
	defer ns.Close()
	if err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET); err != nil {
		return nil, fmt.Errorf("setns: %w", err)
	}
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	req, err := unix.NewIfreq("line")
	if err == nil {
		req.SetUint16(unix.IFF_TUN | unix.IFF_NO_PI)
		err = unix.IoctlIfreq(fd, unix.TUNSETIFF, req)
	}
	if err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("tun: %w", err)
	}
	return os.NewFile(uintptr(fd), "tun"), nil
}

// measure runs builder and relay at one end and clients at the other.
func (l *ends) measure(b *testing.B, rate float64, bytes int64) {
	relayAt := spawnAs(b, in(l.builder, os.Args[0]), "relayat", builderEnd+":"+relayPort)
	spawnAs(b, in(l.builder, os.Args[0]), "directbuilder", relayAt)
	for _, path := range []link.PathKind{link.PathRelay, link.PathDirectTCP, link.PathDirectQUIC} {
		if path == link.PathDirectQUIC {
			// Where TCP comes through, it is preferred.
			sh(b, l.builder, fmt.Sprintf(`nft 'table inet line { chain in { type filter hook input priority filter; tcp dport %d drop; }; }'`, directPort))
		}
		for _, way := range []string{"download", "upload", "import"} {
			b.Run(string(path)+"/"+way, func(b *testing.B) {
				var total lineResult
				rounds := 0
				for b.Loop() {
					arg, err := json.Marshal(lineJob{path, way, relayAt, bytes})
					if err != nil {
						b.Fatal(err)
					}
					var r lineResult
					if err := json.Unmarshal([]byte(spawnAs(b, in(l.client, os.Args[0]), "lineclient", string(arg))), &r); err != nil {
						b.Fatal(err)
					}
					if r.Path != path {
						b.Fatalf("the path is %s", r.Path)
					}
					total.Seconds += r.Seconds
					total.Lines = append(total.Lines, r.Lines...)
					rounds++
				}
				slices.Sort(total.Lines)
				b.ReportMetric(float64(rounds)*float64(bytes)*8/total.Seconds/rate*100, "%-of-line")
				if n := len(total.Lines); n > 0 {
					b.ReportMetric(total.Lines[n/2]*1000, "ms/log-line-p50")
					b.ReportMetric(total.Lines[n*95/100]*1000, "ms/log-line-p95")
					b.ReportMetric(total.Lines[n*99/100]*1000, "ms/log-line-p99")
				}
				b.ReportMetric(0, "ns/op")
			})
		}
	}
}

type lineJob struct {
	Path       link.PathKind
	Way, Relay string
	Bytes      int64
}

type lineResult struct {
	Path    link.PathKind
	Seconds float64
	Lines   []float64 // how many seconds each took
}

// runDirectBuilder serves bytes and log lines through a relay and directly.
func runDirectBuilder(relayURL string, ready func(string)) error {
	identity := secret("builder")
	circuits, err := link.Listen(link.ListenConfig{Identity: identity, Relays: []string{relayURL}})
	if err != nil {
		return err
	}
	l, err := link.ListenDirect(link.DirectConfig{Identity: identity, Listen: netip.AddrPortFrom(netip.Addr{}, directPort)})
	if err != nil {
		return err
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /log", serveLog)
	mux.HandleFunc("POST /", noiseBuilder())
	mux.HandleFunc("/", serveBytes)
	srv, err := link.NewServer(identity, l.Handler(mux), nil)
	if err != nil {
		return err
	}
	go func() { _ = srv.ServeTLS(circuits, "", "") }()
	go func() { _ = l.Serve(srv) }()
	return registered(circuits, ready)
}

// serveLog prints the time every tick.
func serveLog(w http.ResponseWriter, r *http.Request) {
	c := http.NewResponseController(w)
	t := time.NewTicker(tick)
	defer t.Stop()
	for {
		select {
		case <-r.Context().Done():
			return
		case now := <-t.C:
			if _, err := fmt.Fprintln(w, now.UnixNano()); err != nil || c.Flush() != nil {
				return
			}
		}
	}
}

// runLineClient does a job and prints the result.
func runLineClient(arg string, ready func(string)) error {
	var job lineJob
	if err := json.Unmarshal([]byte(arg), &job); err != nil {
		return err
	}
	cfg := link.Config{Identity: secret("client"), Peer: secret("builder").ID()}
	if job.Path == link.PathRelay {
		cfg.Relays = []string{job.Relay}
	} else {
		cfg.Addresses = []netip.AddrPort{netip.AddrPortFrom(netip.MustParseAddr(builderEnd), directPort)}
		cfg.Direct = &link.Direct{Rand: rand.Reader}
	}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Minute)
	defer cancel()
	s, err := link.Dial(ctx, cfg)
	if err != nil {
		return err
	}
	defer s.Close()
	s.Settled(ctx)
	move := func(n int64) error { return throughOurs(s.Bulk(), job.Way, n) }
	if job.Way == "import" {
		f := cache.NewChunkFetcher(cache.ChunkConfig{Transport: s.Bulk(), Now: time.Now})
		defer f.Close()
		move = func(n int64) error { return importNoise(ctx, f, n) }
	}
	// Windows open and connections find the line's speed before the measurement.
	if err := move(job.Bytes / 8); err != nil {
		return err
	}
	lctx, stop := context.WithCancel(ctx)
	defer stop()
	resp, err := s.Control().RoundTrip(httptest.NewRequestWithContext(lctx, http.MethodGet, link.BaseURL+"log", nil))
	if err != nil {
		return err
	}
	var r lineResult
	read := make(chan struct{})
	go func() {
		defer close(read)
		for lines := bufio.NewScanner(resp.Body); lines.Scan(); {
			if sent, err := strconv.ParseInt(lines.Text(), 10, 64); err == nil {
				r.Lines = append(r.Lines, time.Since(time.Unix(0, sent)).Seconds())
			}
		}
	}()
	begin := time.Now()
	err = move(job.Bytes)
	r.Seconds, r.Path = time.Since(begin).Seconds(), s.Path().Kind
	stop()
	<-read
	_ = resp.Body.Close()
	if err != nil {
		return err
	}
	text, err := json.Marshal(r)
	ready(string(text))
	return err
}
