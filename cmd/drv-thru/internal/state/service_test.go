package state

import (
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/nix-community/go-nix/pkg/narinfo/signature"

	"github.com/drv-thru/drv-thru/core/builder"
	bt "github.com/drv-thru/drv-thru/core/builder/buildertest"
	"github.com/drv-thru/drv-thru/core/key"
	"github.com/drv-thru/drv-thru/core/wire"
)

// TestServiceOnSQLite races a hundred redemptions of ten uses through the whole
// service, and finds the same ten after a restart.
func TestServiceOnSQLite(t *testing.T) {
	dir := t.TempDir()
	signing, _, err := signature.GenerateKeypair("test-1", strings.NewReader(strings.Repeat("k", 64)))
	if err != nil {
		t.Fatal(err)
	}
	store := bt.NewStore()
	object, _ := bt.Derivation(bt.Drv{Name: "a"})
	store.Add(object)
	start := func() (*DB, *builder.Service, *httptest.Server) {
		d, err := Open(t.Context(), filepath.Join(dir, "state.db"))
		if err != nil {
			t.Fatal(err)
		}
		svc, err := builder.New(t.Context(), builder.Config{
			SigningKey: signing, Store: store, Records: d, Dir: filepath.Join(dir, "builds"), Peer: bt.Peer,
			Systems: []string{bt.System}, Tuning: builder.Tuning{Slots: 4, RecentBuilds: 100},
			FreeDisk: func() (uint64, error) { return 1 << 40, nil }, Now: timeNow,
		})
		if err != nil {
			t.Fatal(err)
		}
		return d, svc, bt.NewServer(svc)
	}
	d, svc, server := start()
	tk := makeTicket(t, d, func(r *builder.TicketRecord) { r.MaxUses = 10 })
	client := &bt.Client{Server: server, ID: key.ID{9}, Secret: &tk.Secret}
	var mu sync.Mutex
	var admitted []uint32
	var wg sync.WaitGroup
	for i := range uint32(100) {
		wg.Go(func() {
			_, err := client.Put(bt.ID(i), bt.Request(object))
			mu.Lock()
			defer mu.Unlock()
			if err == nil {
				admitted = append(admitted, i)
			} else if wire.CodeOf(err) != wire.CodeTicketUsed {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if len(admitted) != 10 {
		t.Fatalf("%d admitted", len(admitted))
	}
	for _, i := range admitted {
		events, err := client.Events(bt.ID(i), 1)
		if err != nil {
			t.Fatal(err)
		}
		if r, err := events.Finish(); err != nil || r.Error != nil {
			t.Errorf("%+v, %v", r, err)
		}
	}
	svc.Close()
	server.Close()
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	d, svc, server = start()
	defer d.Close()
	defer server.Close()
	defer svc.Close()
	client.Server = server
	if got, err := d.Ticket(t.Context(), tk.ID); err != nil || got.Used != 10 {
		t.Errorf("%d uses, %v", got.Used, err)
	}
	for _, i := range admitted {
		if b, err := client.Get(bt.ID(i)); err != nil || b.State != wire.StateBuilt || len(b.Result.Outputs) != 1 {
			t.Errorf("%+v, %v", b, err)
		}
	}
}
