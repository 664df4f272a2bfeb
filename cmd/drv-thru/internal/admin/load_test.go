package admin

import (
	"bufio"
	"context"
	"crypto/rand"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nix-community/go-nix/pkg/narinfo/signature"

	"github.com/drv-thru/drv-thru/cmd/drv-thru/internal/policies"
	"github.com/drv-thru/drv-thru/cmd/drv-thru/internal/state"
	"github.com/drv-thru/drv-thru/core/builder"
	bt "github.com/drv-thru/drv-thru/core/builder/buildertest"
	"github.com/drv-thru/drv-thru/core/key"
	"github.com/drv-thru/drv-thru/core/nix"
	"github.com/drv-thru/drv-thru/core/nix/daemon"
)

const (
	loadClients = 50
	loadEach    = 20
	// loadEnv is the directory of the builder that this program is instead of
	// testing.
	loadEnv = "DRV_THRU_TEST_BUILDER"
)

func TestMain(m *testing.M) {
	if dir := os.Getenv(loadEnv); dir != "" {
		if err := serveLoad(dir); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func loadObject(i int) bt.Object {
	o, _ := bt.Derivation(bt.Drv{Name: "load", Text: strconv.Itoa(i)})
	return o
}

func loadTicket(client int) builder.TicketRecord {
	t := bt.Ticket(byte(client+1), time.Now())
	t.MaxUses, t.Name = 0, fmt.Sprint("load-", client)
	return t
}

// serveLoad is a builder with everything but Nix and a relay: the service, its
// database and policies, and the admin socket. It prints its address, and the
// derivations in the order in which they are built, and ends with its stdin.
func serveLoad(dir string) error {
	ctx := context.Background()
	db, err := state.Open(ctx, filepath.Join(dir, "state.db"))
	if err != nil {
		return err
	}
	defer db.Close()
	for i := range loadClients {
		if err := db.CreateTicket(ctx, loadTicket(i)); err != nil {
			return err
		}
	}
	decider, err := policies.New(ctx, policies.Config{
		Dir: filepath.Join(dir, "policies"), Log: slog.New(slog.DiscardHandler), Now: time.Now, Record: db.AddDecision,
	})
	if err != nil {
		return err
	}
	defer decider.Close()
	signing, _, err := signature.GenerateKeypair("test-1", rand.Reader)
	if err != nil {
		return err
	}
	store := bt.NewStore()
	for i := range loadClients * loadEach {
		store.Add(loadObject(i))
	}
	var mu sync.Mutex
	store.OnBuild = func(_ context.Context, drv nix.Path, _ daemon.Sink) error {
		mu.Lock()
		defer mu.Unlock()
		fmt.Println("built", drv)
		return nil
	}
	svc, err := builder.New(ctx, builder.Config{
		SigningKey: signing, Store: store, Records: db, Policy: decider, Dir: filepath.Join(dir, "builds"), Peer: bt.Peer,
		Systems: []string{bt.System}, Now: time.Now, FreeDisk: func() (uint64, error) { return 1 << 40, nil },
	})
	if err != nil {
		return err
	}
	defer svc.Close()
	svc.Pause(true)
	server := bt.NewServer(svc)
	l, err := Listen(filepath.Join(dir, "s"))
	if err != nil {
		return err
	}
	adminServer := &http.Server{ReadHeaderTimeout: time.Minute, Handler: NewHandler(Config{
		Tickets: db, Service: svc, Policies: decider, Decisions: db, State: db, Builder: key.ID{1},
		Describe: func(*Status) {}, Now: time.Now, Rand: rand.Reader,
	})}
	go func() { _ = adminServer.Serve(l) }() // it ends with the process
	fmt.Println("at", server.URL)
	_, err = io.Copy(io.Discard, os.Stdin)
	return err
}

// BenchmarkThousandQueued has 50 clients queue 20 builds each, all of one
// client before the next one's, and follow them. It reports by how many turns a
// client was ever ahead of another one (1 is as fair as turns can be); how far that
// is from an equal share, at most, in per cent, from half of the builds on, when a
// turn is a tenth of a share; the builder's peak resident memory; and how long
// drv-thru status takes while all wait. (The budgets are 10 %, 200 MiB and 100 ms.)
func BenchmarkThousandQueued(b *testing.B) {
	var unfair float64
	var ahead int
	var status time.Duration
	var memory int64
	for b.Loop() {
		a, u, s, m := thousandQueued(b)
		ahead, unfair, status, memory = max(ahead, a), max(unfair, u), max(status, s), max(memory, m)
	}
	b.ReportMetric(float64(ahead), "turns-ahead")
	b.ReportMetric(unfair, "unfair-%")
	b.ReportMetric(float64(status.Microseconds())/1000, "status-ms")
	b.ReportMetric(float64(memory)/(1<<20), "builder-MiB")
}

func thousandQueued(b *testing.B) (ahead int, unfair float64, status time.Duration, memory int64) {
	dir := b.TempDir()
	child := exec.CommandContext(b.Context(), os.Args[0])
	child.Env = append(os.Environ(), loadEnv+"="+dir)
	child.Stderr = os.Stderr
	stdin, err := child.StdinPipe()
	if err != nil {
		b.Fatal(err)
	}
	stdout, err := child.StdoutPipe()
	if err != nil {
		b.Fatal(err)
	}
	if err := child.Start(); err != nil {
		b.Fatal(err)
	}
	lines := bufio.NewScanner(stdout)
	next := func() string {
		lines.Scan()
		return lines.Text()
	}
	at, ok := strings.CutPrefix(next(), "at ")
	if !ok {
		b.Fatal("the builder did not start")
	}
	of := make(map[string]int)
	var followed sync.WaitGroup
	for client := range loadClients {
		c := loadClient(at, client)
		for k := range loadEach {
			i := client*loadEach + k
			o := loadObject(i)
			of[string(o.Info.Path)] = client
			if _, err := c.Put(bt.ID(uint32(i)), bt.Request(o)); err != nil {
				b.Fatal(err)
			}
			ev, err := c.Events(bt.ID(uint32(i)), 1)
			if err != nil {
				b.Fatal(err)
			}
			followed.Go(func() {
				if r, err := ev.Finish(); err != nil || r.Error != nil {
					b.Errorf("%+v, %v", r, err)
				}
			})
		}
	}
	socket := NewClient(filepath.Join(dir, "s"))
	var took []time.Duration
	for range 20 {
		begun := time.Now()
		st, err := socket.Status(b.Context())
		if err != nil || st.Waiting != loadClients*loadEach || len(st.Active) != st.Waiting {
			b.Fatalf("%d wait, %v", st.Waiting, err)
		}
		took = append(took, time.Since(begun))
	}
	if _, err := socket.Steer(b.Context(), "resume"); err != nil {
		b.Fatal(err)
	}
	turns := make([]int, loadClients)
	for n := range loadClients * loadEach {
		drv, ok := strings.CutPrefix(next(), "built ")
		if !ok {
			b.Fatal("the builder ended")
		}
		turns[of[drv]]++
		ahead = max(ahead, slices.Max(turns)-slices.Min(turns))
		if n+1 >= loadClients*loadEach/2 {
			share := float64(n+1) / loadClients
			unfair = max(unfair, (float64(slices.Max(turns))-share)/share*100, (share-float64(slices.Min(turns)))/share*100)
		}
	}
	followed.Wait()
	memory = peak(b, child.Process.Pid)
	if err := errors.Join(stdin.Close(), child.Wait()); err != nil {
		b.Error(err)
	}
	slices.Sort(took)
	return ahead, unfair, took[len(took)/2], memory
}

// loadClient is a client with connections of its own.
func loadClient(at string, i int) *bt.Client {
	t := loadTicket(i)
	var protocols http.Protocols
	protocols.SetHTTP2(true)
	return &bt.Client{ID: key.ID{byte(i + 1)}, Secret: &t.Secret, Server: &httptest.Server{URL: at}, HTTP: &http.Client{
		Transport: &http.Transport{Protocols: &protocols, TLSClientConfig: &tls.Config{InsecureSkipVerify: true}},
	}}
}

var peakLine = regexp.MustCompile(`(?m)^VmHWM:\s+(\d+) kB$`)

func peak(b *testing.B, pid int) int64 {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	found := peakLine.FindSubmatch(text)
	if err != nil || found == nil {
		b.Fatalf("no peak memory: %v", err)
	}
	n, err := strconv.ParseInt(string(found[1]), 10, 64)
	if err != nil {
		b.Fatal(err)
	}
	return n << 10
}
