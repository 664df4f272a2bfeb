//go:build linux

package link

import (
	"bufio"
	"context"
	"crypto/rand"
	"crypto/tls"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"
)

// Direct paths are measured with the builder in a process of its own: in one
// process the wake-ups between the two ends vanish, and with them most of the
// cost.
//
//	go test -run '^$' -bench Direct -benchtime 5x ./core/link

// roleVar makes this binary the builder of the benchmark.
const roleVar = "DIRECTBENCH_ROLE"

const (
	benchPiece    = 256 << 10
	benchTransfer = 256 << 20
)

func TestMain(m *testing.M) {
	if os.Getenv(roleVar) == "" {
		os.Exit(m.Run())
	}
	if err := benchBuilder(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// benchBuilder serves bytes by TLS alone and by direct paths until its standard
// input is closed.
func benchBuilder() error {
	identity := secret(nil, 2)
	cfg, err := identity.ServerTLS()
	if err != nil {
		return err
	}
	bare, err := tls.Listen("tcp", "127.0.0.1:0", cfg)
	if err != nil {
		return err
	}
	zeros := make([]byte, benchPiece)
	go func() {
		for {
			c, err := bare.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				for range benchTransfer / benchPiece {
					if _, err := c.Write(zeros); err != nil {
						return
					}
				}
			}()
		}
	}()
	l, err := ListenDirect(DirectConfig{Identity: identity, Listen: netip.MustParseAddrPort("127.0.0.1:0"), loopback: true})
	if err != nil {
		return err
	}
	srv, err := NewServer(identity, l.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodPut {
			_, _ = io.CopyBuffer(struct{ io.Writer }{io.Discard}, struct{ io.Reader }{r.Body}, make([]byte, benchPiece))
			return
		}
		n, _ := strconv.Atoi(strings.TrimPrefix(r.URL.Path, "/"))
		for ; n > 0; n -= benchPiece {
			if _, err := w.Write(zeros[:min(n, benchPiece)]); err != nil {
				return
			}
		}
	})), nil)
	if err != nil {
		return err
	}
	go l.Serve(srv)
	fmt.Println(bare.Addr(), l.Port())
	_, _ = io.Copy(io.Discard, os.Stdin)
	return nil
}

// BenchmarkDirect alternates between TLS alone, HTTP/1.1 and HTTP/3, so that all
// see the same machine, and reports MB/s of each and what they are of TLS.
func BenchmarkDirect(b *testing.B) {
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), roleVar+"=builder", "QUIC_GO_DISABLE_RECEIVE_BUFFER_WARNING=true")
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
	defer func() { in.Close(); _ = cmd.Wait() }()
	var bare string
	var port uint16
	if _, err := fmt.Fscan(bufio.NewReader(out), &bare, &port); err != nil {
		b.Fatal(err)
	}
	at := netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), port)
	open := func(quicOnly bool) *way {
		s := &Session{cfg: Config{Identity: secret(b, 1), Peer: secret(b, 2).ID(), Direct: &Direct{Rand: rand.Reader, loopback: true}}, log: slog.New(slog.DiscardHandler)}
		s.ctx, s.cancel = context.WithCancel(context.Background())
		b.Cleanup(s.cancel)
		f := &search{s: s}
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		if !quicOnly {
			w, err := f.dialTCP(ctx, at)
			if err != nil {
				b.Fatal(err)
			}
			b.Cleanup(w.lose)
			return w
		}
		f.e = openEndpoint(b)
		w, err := f.dialQUIC(ctx, at)
		if err != nil {
			b.Fatal(err)
		}
		b.Cleanup(w.lose)
		return w
	}
	h2, h3 := open(false), open(true)
	for _, direction := range []string{"download", "upload"} {
		b.Run(direction, func(b *testing.B) {
			var times, cpu [3]time.Duration
			rounds := 0
			for b.Loop() {
				for i, run := range []func() error{
					func() error { return benchBare(bare) },
					func() error { return benchHTTP(h2.bulk, direction) },
					func() error { return benchHTTP(h3.bulk, direction) },
				} {
					begin, used := time.Now(), cpuTime(b, cmd.Process.Pid)
					if err := run(); err != nil {
						b.Fatal(err)
					}
					times[i] += time.Since(begin)
					cpu[i] += cpuTime(b, cmd.Process.Pid) - used
				}
				rounds++
			}
			mb := float64(rounds) * benchTransfer / 1e6
			for i, name := range []string{"tls", "tcp", "quic"} {
				b.ReportMetric(mb/times[i].Seconds(), name+"-MB/s")
				b.ReportMetric(cpu[i].Seconds()/mb*1000, name+"-cpu-s/GB")
			}
			b.ReportMetric(times[0].Seconds()/times[1].Seconds(), "tcp/tls")
			b.ReportMetric(times[1].Seconds()/times[2].Seconds(), "quic/tcp")
			b.ReportMetric(0, "ns/op")
		})
	}
}

// cpuTime is what this process and the builder's have used so far (utime and
// stime of proc_pid_stat(5), in hundredths of a second).
func cpuTime(b *testing.B, builder int) time.Duration {
	b.Helper()
	var ticks int64
	for _, pid := range []int{os.Getpid(), builder} {
		stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		if err != nil {
			b.Fatal(err)
		}
		_, rest, _ := strings.Cut(string(stat), ") ")
		for _, f := range strings.Fields(rest)[11:13] {
			n, err := strconv.ParseInt(f, 10, 64)
			if err != nil {
				b.Fatal(err)
			}
			ticks += n
		}
	}
	return time.Duration(ticks) * 10 * time.Millisecond
}

func benchBare(address string) error {
	cfg, err := secret(nil, 1).ClientTLS(secret(nil, 2).ID())
	if err != nil {
		return err
	}
	c, err := tls.Dial("tcp", address, cfg)
	if err != nil {
		return err
	}
	defer c.Close()
	_, err = io.CopyBuffer(struct{ io.Writer }{io.Discard}, struct{ io.Reader }{c}, make([]byte, benchPiece))
	return err
}

func benchHTTP(rt http.RoundTripper, direction string) error {
	req, err := http.NewRequest(http.MethodGet, BaseURL+strconv.Itoa(benchTransfer), nil)
	if direction == "upload" {
		req, err = http.NewRequest(http.MethodPut, BaseURL, io.LimitReader(zeroReader{}, benchTransfer))
		req.ContentLength = benchTransfer
	}
	if err != nil {
		return err
	}
	resp, err := rt.RoundTrip(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	_, err = io.CopyBuffer(struct{ io.Writer }{io.Discard}, struct{ io.Reader }{resp.Body}, make([]byte, benchPiece))
	return err
}

type zeroReader struct{}

func (zeroReader) Read(p []byte) (int, error) { clear(p); return len(p), nil }
