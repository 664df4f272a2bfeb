//go:build e2e

// Package relaybench measures what the relay costs: the same bytes once as
// TLS 1.3 over TCP through a bare copying relay, and once as a session (HTTP/2
// in TLS 1.3 in a WebSocket circuit) through ours. Each of client, relay and
// builder is a process of its own, because in one process the wake-ups between
// them vanish and with them most of the cost.
//
//	go test -tags e2e -run '^$' -bench Relay -benchtime 5x ./e2e/relaybench
package relaybench

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"os/signal"
	"runtime/debug"
	"runtime/pprof"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/drv-thru/drv-thru/core/key"
	"github.com/drv-thru/drv-thru/core/link"
	"github.com/drv-thru/drv-thru/relay"
)

const (
	// roleVar makes this binary one of the processes; argVar is its argument.
	roleVar = "RELAYBENCH_ROLE"
	argVar  = "RELAYBENCH_ARG"
	// profileVar names a directory for a CPU profile of each process.
	profileVar = "RELAYBENCH_PROFILE"

	chunk    = 256 << 10
	transfer = 512 << 20 // bytes of one measurement, all streams together
)

func TestMain(m *testing.M) {
	role := os.Getenv(roleVar)
	if role == "" {
		os.Exit(m.Run())
	}
	stop := profile(role)
	ready := func(address string) { fmt.Println(address) }
	var err error
	switch role {
	case "relay":
		err = runRelay("127.0.0.1:0", ready)
	case "relayat":
		err = runRelay(os.Getenv(argVar), ready)
	case "builder":
		err = runBuilder(os.Getenv(argVar), ready)
	case "rawbuilder":
		err = runRawBuilder(os.Getenv(argVar), ready)
	case "copyrelay":
		err = runCopyRelay(os.Getenv(argVar), ready)
	case "tlsserver":
		err = runTLSServer(ready)
	case "directbuilder":
		err = runDirectBuilder(os.Getenv(argVar), ready)
	case "lineclient":
		err = runLineClient(os.Getenv(argVar), ready)
	default:
		err = errors.New("unknown role " + role)
	}
	stop()
	if err != nil {
		log.Fatal(err)
	}
}

// secret is a fixed key for each name: the processes need no other way to agree.
func secret(name string) key.Secret {
	s, err := key.NewSecret(strings.NewReader(fmt.Sprintf("%-32s", name)))
	if err != nil {
		panic(err)
	}
	return s
}

// untilParentExits returns when the benchmark closes our standard input.
func untilParentExits() { _, _ = io.Copy(io.Discard, os.Stdin) }

func profile(name string) func() {
	dir := os.Getenv(profileVar)
	if dir == "" {
		return func() {}
	}
	f, err := os.Create(dir + "/" + name + ".pprof")
	if err != nil {
		log.Fatal(err)
	}
	if err := pprof.StartCPUProfile(f); err != nil {
		log.Fatal(err)
	}
	return func() {
		pprof.StopCPUProfile()
		_ = f.Close()
	}
}

func runRelay(address string, ready func(string)) error {
	l, err := net.Listen("tcp", address)
	if err != nil {
		return err
	}
	// Everybody comes from one address here.
	limits := relay.Limits{Registrations: 1e6, RegistrationsPerAddress: 1e6, CircuitsPerAddress: 1e6, CircuitsPerBuilder: 1e6, HandshakeBurst: 1e6, HandshakesPerSecond: 1e6}
	go func() { _ = relay.New(relay.Config{Limits: limits}).Serve(l) }()
	settle := make(chan os.Signal, 1)
	signal.Notify(settle, syscall.SIGUSR1)
	go func() {
		for range settle {
			for range 3 {
				debug.FreeOSMemory()
			}
		}
	}()
	ready("http://" + l.Addr().String())
	untilParentExits()
	return nil
}

func runBuilder(relayURL string, ready func(string)) error {
	l, err := link.Listen(link.ListenConfig{Identity: secret("builder"), Relays: []string{relayURL}})
	if err != nil {
		return err
	}
	srv, err := link.NewServer(secret("builder"), http.HandlerFunc(serveBytes), slog.Default())
	if err != nil {
		return err
	}
	go func() { _ = srv.ServeTLS(l, "", "") }()
	return registered(l, ready)
}

// registered says that a builder is ready once the relay knows it.
func registered(l *link.Listener, ready func(string)) error {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if err := l.Registered(ctx); err != nil {
		return err
	}
	ready("ok")
	untilParentExits()
	return nil
}

// runRawBuilder answers circuits without TLS and HTTP.
func runRawBuilder(relayURL string, ready func(string)) error {
	l, err := link.Listen(link.ListenConfig{Identity: secret("builder"), Relays: []string{relayURL}})
	if err != nil {
		return err
	}
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go sendForever(c)
		}
	}()
	return registered(l, ready)
}

var zeros [chunk]byte

// serveBytes answers GET /N with N bytes, and PUT by reading the body.
func serveBytes(w http.ResponseWriter, r *http.Request) {
	if r.Method == http.MethodPut {
		if _, err := io.CopyBuffer(struct{ io.Writer }{io.Discard}, struct{ io.Reader }{r.Body}, make([]byte, chunk)); err != nil {
			panic(http.ErrAbortHandler)
		}
		return
	}
	n, _ := strconv.ParseInt(strings.TrimPrefix(r.URL.Path, "/"), 10, 64)
	w.Header().Set("Content-Length", strconv.FormatInt(n, 10))
	for ; n > 0; n -= chunk {
		if _, err := w.Write(zeros[:min(n, chunk)]); err != nil {
			return
		}
	}
}

func runCopyRelay(target string, ready func(string)) error {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	go func() {
		for {
			a, err := l.Accept()
			if err != nil {
				return
			}
			b, err := net.Dial("tcp", target)
			if err != nil {
				_ = a.Close()
				continue
			}
			pipe := func(dst, src net.Conn) {
				_, _ = io.Copy(dst, src)
				_ = dst.Close()
			}
			go pipe(a, b)
			go pipe(b, a)
		}
	}()
	ready(l.Addr().String())
	untilParentExits()
	return nil
}

// runTLSServer sends or receives what the first 9 bytes of a connection say.
func runTLSServer(ready func(string)) error {
	cfg, err := secret("builder").ServerTLS()
	if err != nil {
		return err
	}
	l, err := tls.Listen("tcp", "127.0.0.1:0", cfg)
	if err != nil {
		return err
	}
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go serveTLS(c)
		}
	}()
	ready(l.Addr().String())
	untilParentExits()
	return nil
}

func serveTLS(c net.Conn) {
	defer c.Close()
	var head [9]byte
	if _, err := io.ReadFull(c, head[:]); err != nil {
		return
	}
	n := int64(binary.BigEndian.Uint64(head[1:]))
	if head[0] == 'u' {
		_, _ = io.CopyBuffer(struct{ io.Writer }{io.Discard}, struct{ io.Reader }{io.LimitReader(c, n)}, make([]byte, chunk))
		_, _ = c.Write([]byte{1})
		return
	}
	for ; n > 0; n -= chunk {
		if _, err := c.Write(zeros[:min(n, chunk)]); err != nil {
			return
		}
	}
}

// spawn starts this binary in a role and returns the address that it prints.
func spawn(b *testing.B, role, arg string) string {
	b.Helper()
	return spawnAs(b, []string{os.Args[0]}, role, arg)
}

// spawnAs is spawn with a command that leads to this binary.
func spawnAs(b *testing.B, argv []string, role, arg string) string {
	b.Helper()
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Env = append(os.Environ(), roleVar+"="+role, argVar+"="+arg)
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		b.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		b.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		_ = in.Close()
		_ = cmd.Wait()
	})
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		b.Fatalf("%s did not start: %v", role, err)
	}
	processes[role] = cmd.Process.Pid
	return strings.TrimSpace(line)
}

var processes = map[string]int{}

// cpuTime is what this process and those of the given roles have used so far
// (utime and stime of proc_pid_stat(5), in hundredths of a second).
func cpuTime(b *testing.B, roles ...string) time.Duration {
	b.Helper()
	used := ticksOf(b, os.Getpid())
	for _, r := range roles {
		used += processTime(b, r)
	}
	return used
}

// processTime is what the process of a role has used so far.
func processTime(b *testing.B, role string) time.Duration { return ticksOf(b, processes[role]) }

func ticksOf(b *testing.B, pid int) time.Duration {
	b.Helper()
	var ticks int64
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		b.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(stat), ") ")
	fields := strings.Fields(rest)
	for _, f := range fields[11:13] {
		n, err := strconv.ParseInt(f, 10, 64)
		if err != nil {
			b.Fatal(err)
		}
		ticks += n
	}
	return time.Duration(ticks) * 10 * time.Millisecond
}

// BenchmarkRelay alternates between the bare relay and ours, so that both see
// the same machine, and reports MB/s of each and their ratio.
func BenchmarkRelay(b *testing.B) {
	bare := spawn(b, "copyrelay", spawn(b, "tlsserver", ""))
	relayURL := spawn(b, "relay", "")
	spawn(b, "builder", relayURL)
	defer profile("client")()

	ctx := context.Background()
	session, err := link.Dial(ctx, link.Config{Identity: secret("client"), Peer: secret("builder").ID(), Relays: []string{relayURL}})
	if err != nil {
		b.Fatal(err)
	}
	defer session.Close()

	for _, direction := range []string{"download", "upload"} {
		for _, streams := range []int{1, 8} {
			b.Run(fmt.Sprintf("%s/streams=%d", direction, streams), func(b *testing.B) {
				var bareTime, oursTime, bareCPU, oursCPU, relayCPU time.Duration
				bareRoles, oursRoles := []string{"copyrelay", "tlsserver"}, []string{"relay", "builder"}
				run := func(one func(n int64) error) time.Duration {
					begin := time.Now()
					var wg sync.WaitGroup
					for range streams {
						wg.Go(func() {
							if err := one(transfer / int64(streams)); err != nil {
								b.Error(err)
							}
						})
					}
					wg.Wait()
					return time.Since(begin)
				}
				// Connections and buffers warm up outside of the measurement.
				run(func(n int64) error { return throughBare(bare, direction, n/8) })
				run(func(n int64) error { return throughOurs(session.Bulk(), direction, n/8) })
				rounds := 0
				b.ResetTimer()
				for b.Loop() {
					bareCPU -= cpuTime(b, bareRoles...)
					bareTime += run(func(n int64) error { return throughBare(bare, direction, n) })
					bareCPU += cpuTime(b, bareRoles...)
					oursCPU -= cpuTime(b, oursRoles...)
					relayCPU -= processTime(b, "relay")
					oursTime += run(func(n int64) error { return throughOurs(session.Bulk(), direction, n) })
					oursCPU += cpuTime(b, oursRoles...)
					relayCPU += processTime(b, "relay")
					rounds++
				}
				mb := float64(rounds) * transfer / 1e6
				b.ReportMetric(mb/bareTime.Seconds(), "bare-MB/s")
				b.ReportMetric(mb/oursTime.Seconds(), "ours-MB/s")
				b.ReportMetric(bareTime.Seconds()/oursTime.Seconds(), "ratio")
				// What a machine that does other things as well is left with.
				b.ReportMetric(bareCPU.Seconds()/mb*1000, "bare-cpu-s/GB")
				b.ReportMetric(oursCPU.Seconds()/mb*1000, "ours-cpu-s/GB")
				b.ReportMetric(relayCPU.Seconds()/mb*1000, "relay-cpu-s/GB")
				b.ReportMetric(bareCPU.Seconds()/oursCPU.Seconds(), "cpu-ratio")
				b.ReportMetric(0, "ns/op")
			})
		}
	}
}

func throughBare(address, direction string, n int64) error {
	cfg, err := secret("client").ClientTLS(secret("builder").ID())
	if err != nil {
		return err
	}
	c, err := tls.Dial("tcp", address, cfg)
	if err != nil {
		return err
	}
	defer c.Close()
	head := binary.BigEndian.AppendUint64([]byte(direction[:1]), uint64(n))
	if _, err := c.Write(head); err != nil {
		return err
	}
	if direction == "download" {
		return discard(c, n)
	}
	if _, err := io.CopyBuffer(struct{ io.Writer }{c}, &zeroReader{n}, make([]byte, chunk)); err != nil {
		return err
	}
	_, err = io.ReadFull(c, head[:1])
	return err
}

func throughOurs(rt http.RoundTripper, direction string, n int64) error {
	req := httptest.NewRequest(http.MethodGet, link.BaseURL+strconv.FormatInt(n, 10), nil)
	if direction == "upload" {
		req = httptest.NewRequest(http.MethodPut, link.BaseURL+"upload", io.NopCloser(&zeroReader{n}))
		req.ContentLength = n
	}
	req.RequestURI = ""
	resp, err := rt.RoundTrip(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return errors.New(resp.Status)
	}
	if direction == "upload" {
		n = 0
	}
	return discard(resp.Body, n)
}

func discard(r io.Reader, want int64) error {
	got, err := io.CopyBuffer(struct{ io.Writer }{io.Discard}, struct{ io.Reader }{r}, make([]byte, chunk))
	if err == nil && got != want {
		err = fmt.Errorf("got %d bytes, want %d", got, want)
	}
	return err
}

// zeroReader is n zero bytes, left to right in large pieces.
type zeroReader struct{ n int64 }

func (z *zeroReader) Read(p []byte) (int, error) {
	if z.n == 0 {
		return 0, io.EOF
	}
	n := int(min(int64(len(p)), z.n))
	clear(p[:n])
	z.n -= int64(n)
	return n, nil
}
