//go:build e2e

package relaybench

import (
	"context"
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/drv-thru/drv-thru/core/link"
	"github.com/drv-thru/drv-thru/core/link/wsconn"
)

// BenchmarkIdle reports what the relay's process keeps in memory for each
// builder that is registered and for each circuit on which nothing happens,
// after a garbage collection, and the CPU that 10,000 idle builders need.
//
//	go test -tags e2e -run '^$' -bench Idle -benchtime 1x ./e2e/relaybench
func BenchmarkIdle(b *testing.B) {
	const registrations, circuits, lasts = 10_000, 1_000, 12 * time.Second
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Minute)
	defer cancel()
	relayURL := spawn(b, "relay", "")
	spawn(b, "rawbuilder", relayURL)
	for b.Loop() {
		empty := settled(b)
		// Without HTTP/2, which pings.
		conns := make([]*wsconn.Conn, circuits)
		for i := range conns {
			conns[i] = dialRaw(b, ctx, relayURL)
		}
		open := settled(b)
		var wg sync.WaitGroup
		for _, c := range conns {
			wg.Go(func() { _ = c.Close() })
		}
		wg.Wait()

		before := settled(b)
		listeners := make([]*link.Listener, registrations)
		for i := range listeners {
			l, err := link.Listen(link.ListenConfig{Identity: secret("idle" + strconv.Itoa(i)), Relays: []string{relayURL}})
			if err != nil {
				b.Fatal(err)
			}
			defer l.Close()
			if err := l.Registered(ctx); err != nil {
				b.Fatal(err)
			}
			listeners[i] = l
		}
		registered := settled(b)
		busy := -processTime(b, "relay")
		time.Sleep(lasts)
		busy += processTime(b, "relay")
		b.ReportMetric(float64(registered)/1024, "MiB-registered")
		b.ReportMetric(100*busy.Seconds()/lasts.Seconds(), "%core")
		b.ReportMetric(float64(registered-before)/registrations, "KiB/registration")
		b.ReportMetric(float64(open-empty)/circuits, "KiB/circuit")
		b.ReportMetric(0, "ns/op")
	}
}

// settled is what the relay's process holds once it has collected its garbage twice
// (stacks shrink by half each time).
func settled(b *testing.B) int {
	b.Helper()
	if err := syscall.Kill(processes["relay"], syscall.SIGUSR1); err != nil {
		b.Fatal(err)
	}
	time.Sleep(3 * time.Second)
	return resident(b)
}

// resident is its VmRSS of proc_pid_status(5), KiB.
func resident(b *testing.B) int {
	b.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", processes["relay"]))
	if err != nil {
		b.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(status), "VmRSS:")
	n, err := strconv.Atoi(strings.Fields(rest)[0])
	if err != nil {
		b.Fatal(err)
	}
	return n
}
