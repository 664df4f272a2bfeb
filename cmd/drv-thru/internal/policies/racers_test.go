package policies

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nix-community/go-nix/pkg/narinfo/signature"

	"github.com/drv-thru/drv-thru/cmd/drv-thru/internal/state"
	"github.com/drv-thru/drv-thru/core/builder"
	bt "github.com/drv-thru/drv-thru/core/builder/buildertest"
	"github.com/drv-thru/drv-thru/core/key"
	"github.com/drv-thru/drv-thru/core/nix"
	"github.com/drv-thru/drv-thru/core/nix/daemon"
	"github.com/drv-thru/drv-thru/core/wire"
)

const (
	racersEnv = "DRV_THRU_TEST_RACERS" // a directory: the process is the builder
	uses      = 10
	budget    = 7
)

func TestMain(m *testing.M) {
	if dir := os.Getenv(racersEnv); dir != "" {
		if err := race(dir); err != nil {
			fmt.Println(err)
		}
		select {} // until it is killed
	}
	os.Exit(runTests(m))
}

func runTests(m *testing.M) int {
	var err error
	if compiled, err = os.MkdirTemp("", "compiled"); err != nil {
		fmt.Println(err)
		return 1
	}
	defer os.RemoveAll(compiled)
	return m.Run()
}

func openState(ctx context.Context, dir string) (*state.DB, error) {
	return state.Open(ctx, filepath.Join(dir, "state.db"))
}

// newService is a builder on SQLite whose builds do not end.
func newService(ctx context.Context, dir string, d *state.DB) (*builder.Service, []bt.Object, error) {
	m, err := New(ctx, Config{
		Policies: map[string]Policy{"seven": {Settings: json.RawMessage(fmt.Sprintf(`{"ticket":{"builds":%d}}`, budget))}},
		Dir:      filepath.Join(dir, "policies"), Log: slog.New(slog.DiscardHandler), Now: time.Now, Record: d.AddDecision,
	})
	if err != nil {
		return nil, nil, err
	}
	store := bt.NewStore()
	object, _ := bt.Derivation(bt.Drv{Name: "a"})
	store.Add(object)
	store.OnBuild = func(ctx context.Context, _ nix.Path, _ daemon.Sink) error {
		<-ctx.Done()
		return ctx.Err()
	}
	signing, _, err := signature.GenerateKeypair("test-1", strings.NewReader(strings.Repeat("k", 64)))
	if err != nil {
		return nil, nil, err
	}
	svc, err := builder.New(ctx, builder.Config{
		SigningKey: signing, Store: store, Records: d, Policy: m, Dir: filepath.Join(dir, "builds"), Peer: bt.Peer,
		Systems: []string{bt.System}, Tuning: builder.Tuning{Slots: 4, RecentBuilds: 100},
		FreeDisk: func() (uint64, error) { return 1 << 40, nil }, Now: time.Now,
	})
	return svc, []bt.Object{object}, err
}

func racersTicket() *builder.TicketRecord {
	t := newTicket(5)
	t.Created, t.MaxUses = time.Now(), uses
	t.Policy = builder.TicketPolicy{Name: "seven"}
	return t
}

// race redeems a ticket a hundred times at once and prints what came of it.
func race(dir string) error {
	ctx := context.Background()
	d, err := openState(ctx, dir)
	if err != nil {
		return err
	}
	svc, objects, err := newService(ctx, dir, d)
	if err != nil {
		return err
	}
	server := bt.NewServer(svc)
	t := racersTicket()
	client := &bt.Client{Server: server, ID: key.ID{9}, Secret: &t.Secret}
	var mu sync.Mutex
	var wg sync.WaitGroup
	admitted, denied := 0, 0
	for i := range uint32(100) {
		wg.Go(func() {
			_, err := client.Put(bt.ID(i), bt.Request(objects...))
			mu.Lock()
			defer mu.Unlock()
			switch {
			case err == nil:
				admitted++
			case wire.CodeOf(err) == wire.CodePolicyDenied:
				denied++
			default:
				fmt.Println(err)
			}
		})
	}
	wg.Wait()
	fmt.Printf("%d admitted, %d denied\n", admitted, denied)
	return nil
}

// TestHundredRacersBudgetOfSeven: of a hundred redemptions at once of a ticket
// with ten uses whose policy has a budget of seven, seven are admitted, and the
// ledger says so after the builder was killed.
func TestHundredRacersBudgetOfSeven(t *testing.T) {
	dir := t.TempDir()
	d, err := openState(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	tk := racersTicket()
	if err := d.CreateTicket(t.Context(), *tk); err != nil {
		t.Fatal(err)
	}
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), self)
	cmd.Env = append(os.Environ(), racersEnv+"="+dir)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	if want := fmt.Sprintf("%d admitted, %d denied\n", budget, 100-budget); line != want || err != nil {
		t.Errorf("%q, %v; want %q", line, err, want)
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_, _ = io.Copy(io.Discard, out)
	_ = cmd.Wait() // it was killed

	if d, err = openState(t.Context(), dir); err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	q := builder.UsageQuery{Ticket: tk.ID, Name: tk.Name, Client: key.ID{9}, Now: time.Now()}
	u, err := d.Usage(t.Context(), q)
	if err != nil || u.Ticket.Builds != budget || u.Name.Builds != budget || u.Client.Builds != budget || u.Ticket.Active != budget {
		t.Errorf("after the kill: %+v, %v", u, err)
	}
	if got, err := d.Ticket(t.Context(), tk.ID); err != nil || got.Used != budget {
		t.Errorf("%d uses, %v", got.Used, err)
	}
	// The builder that starts again knows that none is under way, and that
	// nothing is left.
	svc, objects, err := newService(t.Context(), dir, d)
	if err != nil {
		t.Fatal(err)
	}
	defer svc.Close()
	if u, err = d.Usage(t.Context(), q); err != nil || u.Ticket.Builds != budget || u.Ticket.Active != 0 {
		t.Errorf("after the restart: %+v, %v", u, err)
	}
	server := bt.NewServer(svc)
	defer server.Close()
	client := &bt.Client{Server: server, ID: key.ID{9}, Secret: &tk.Secret}
	if _, err := client.Put(bt.ID(1000), bt.Request(objects...)); wire.CodeOf(err) != wire.CodePolicyDenied {
		t.Errorf("one more: %v", err)
	}
}
