//go:build e2e

package relaybench

import (
	"context"
	"io"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/drv-thru/drv-thru/core/link/wsconn"
	"github.com/drv-thru/drv-thru/core/wire"
)

// BenchmarkFair moves bytes through 1,000 circuits at once and reports how much
// the slowest and the fastest got, of the mean. Without TLS, what is short is
// the relay and the turns that all three processes give their goroutines.
//
//	go test -tags e2e -run '^$' -bench Fair -benchtime 1x ./e2e/relaybench
func BenchmarkFair(b *testing.B) {
	const circuits, lasts = 1000, 20 * time.Second
	relayURL := spawn(b, "relay", "")
	spawn(b, "rawbuilder", relayURL)
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	for b.Loop() {
		conns := make([]*wsconn.Conn, circuits)
		for i := range conns {
			conns[i] = dialRaw(b, ctx, relayURL)
		}
		var counts [circuits]atomic.Int64
		var wg sync.WaitGroup
		for i, c := range conns {
			wg.Go(func() {
				_, _ = c.Write([]byte{1}) // go
				buf := make([]byte, 64<<10)
				for {
					n, err := c.Read(buf)
					counts[i].Add(int64(n))
					if err != nil {
						return
					}
				}
			})
		}
		// From when all have begun to an end that is the same for all.
		for i := range counts {
			for counts[i].Load() == 0 {
				time.Sleep(time.Millisecond)
			}
		}
		var before, moved [circuits]int64
		for i := range counts {
			before[i] = counts[i].Load()
		}
		time.Sleep(lasts)
		var sum, least, most int64
		for i := range counts {
			moved[i] = counts[i].Load() - before[i]
			sum += moved[i]
			most = max(most, moved[i])
			if i == 0 || moved[i] < least {
				least = moved[i]
			}
		}
		peak := resident(b)
		for _, c := range conns {
			wg.Go(func() { _ = c.Close() })
		}
		wg.Wait()
		mean := float64(sum) / circuits
		b.ReportMetric(float64(least)/mean, "slowest/mean")
		b.ReportMetric(float64(most)/mean, "fastest/mean")
		b.ReportMetric(float64(sum)/1e6/lasts.Seconds(), "MB/s")
		b.ReportMetric(float64(peak)/1024, "relay-MiB")
		b.ReportMetric(0, "ns/op")
	}
}

// dialRaw opens a circuit without TLS and HTTP.
func dialRaw(b *testing.B, ctx context.Context, relayURL string) *wsconn.Conn {
	b.Helper()
	route := relayURL + strings.Replace(wire.RouteRelayDial, "{endpoint}", secret("builder").ID().String(), 1)
	ws, _, err := wsconn.Dial(ctx, route, wsconn.DialOptions{Protocols: []string{wire.RelayProtocol}})
	if err != nil {
		b.Fatal(err)
	}
	return wsconn.New(ws, wire.RelayMaxMessage)
}

// sendForever answers the first byte of a circuit with bytes without end.
func sendForever(c io.ReadWriteCloser) {
	defer c.Close()
	var first [1]byte
	if _, err := io.ReadFull(c, first[:]); err != nil {
		return
	}
	for {
		if _, err := c.Write(zeros[:]); err != nil {
			return
		}
	}
}
