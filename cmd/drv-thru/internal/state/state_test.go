package state

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/drv-thru/drv-thru/core/builder"
	"github.com/drv-thru/drv-thru/core/key"
	"github.com/drv-thru/drv-thru/core/ticket"
	"github.com/drv-thru/drv-thru/core/wire"
)

var now = time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC)

func timeNow() time.Time { return now }

func openTemp(t *testing.T) *DB {
	t.Helper()
	d, err := Open(t.Context(), filepath.Join(t.TempDir(), "state.db"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.Close() })
	return d
}

// recorded reads a build's record.
func recorded(t *testing.T, d *DB, id wire.BuildID) (builder.BuildRecord, error) {
	t.Helper()
	return scanBuild(d.db.QueryRowContext(t.Context(), "SELECT "+buildColumns+" FROM builds WHERE id = ?", string(id)))
}

func makeTicket(t *testing.T, d *DB, change func(*builder.TicketRecord)) builder.TicketRecord {
	t.Helper()
	rec := builder.TicketRecord{
		Secret: ticket.Secret{1, 2, 3}, Name: "test", Created: now, Expires: now.Add(time.Hour), MaxUses: 1,
		Limits: ticket.Limits{MaxBuildTime: ticket.DefaultMaxBuildTime, Systems: []string{"x86_64-linux"}, NoFixedOutput: true},
	}
	rec.ID = rec.Secret.ID()
	if change != nil {
		change(&rec)
	}
	if err := d.CreateTicket(t.Context(), rec); err != nil {
		t.Fatal(err)
	}
	return rec
}

func buildOf(id byte, tk builder.TicketRecord) builder.BuildRecord {
	raw := make([]byte, 16)
	raw[0] = id
	bid, err := wire.NewBuildID(reader(raw))
	if err != nil {
		panic(err)
	}
	return builder.BuildRecord{
		ID: bid, Client: key.ID{9}, Ticket: tk.ID, Content: [32]byte{7}, State: wire.StateUploading, Created: now,
		Roots: []wire.Root{{Drv: "/nix/store/x.drv", Outputs: []string{"out"}}},
	}
}

type reader []byte

func (r reader) Read(p []byte) (int, error) { return copy(p, r), nil }

func TestTicketRoundTrip(t *testing.T) {
	d := openTemp(t)
	want := makeTicket(t, d, func(r *builder.TicketRecord) { r.Bind = key.ID{4} })
	got, err := d.Ticket(t.Context(), want.ID)
	if err != nil {
		t.Fatal(err)
	}
	if got.Secret != want.Secret || got.Bind != want.Bind || !got.Expires.Equal(want.Expires) ||
		got.Limits.MaxBuildTime != want.Limits.MaxBuildTime || !got.Limits.NoFixedOutput || got.Limits.Systems[0] != "x86_64-linux" {
		t.Errorf("got %+v\nwant %+v", got, want)
	}
	if _, err := d.Ticket(t.Context(), ticket.ID{}); !errors.Is(err, builder.ErrNoRecord) {
		t.Errorf("unknown ticket: %v", err)
	}
}

// A ticket may be made for longer than nanoseconds can count: it must not come out
// as one of the past.
func TestTicketOfCenturies(t *testing.T) {
	d := openTemp(t)
	long, err := ticket.ParseDuration("99999d")
	if err != nil {
		t.Fatal(err)
	}
	tk := makeTicket(t, d, func(r *builder.TicketRecord) { r.Expires = now.Add(long.Std()) })
	if got, err := d.Ticket(t.Context(), tk.ID); err != nil || got.Expires.Before(now.AddDate(200, 0, 0)) {
		t.Errorf("it expires at %s, %v", got.Expires, err)
	}
	if err := d.Admit(t.Context(), buildOf(1, tk)); err != nil {
		t.Error(err)
	}
}

func TestAdmitDenials(t *testing.T) {
	for _, tt := range []struct {
		name   string
		change func(*builder.TicketRecord)
		want   wire.Code
	}{
		{"good", func(*builder.TicketRecord) {}, ""},
		{"never expires", func(r *builder.TicketRecord) { r.Expires = time.Time{} }, ""},
		{"bound here", func(r *builder.TicketRecord) { r.Bind = key.ID{9} }, ""},
		{"expired", func(r *builder.TicketRecord) { r.Expires = now }, wire.CodeTicketExpired},
		{"used", func(r *builder.TicketRecord) { r.Used = 1 }, wire.CodeTicketUsed},
		{"bound", func(r *builder.TicketRecord) { r.Bind = key.ID{8} }, wire.CodeTicketBound},
		{"revoked and expired", func(r *builder.TicketRecord) { r.Revoked, r.Expires = now, now }, wire.CodeTicketRevoked},
	} {
		t.Run(tt.name, func(t *testing.T) {
			d := openTemp(t)
			tk := makeTicket(t, d, tt.change)
			err := d.Admit(t.Context(), buildOf(1, tk))
			if wire.CodeOf(err) != tt.want || tt.want == "" && err != nil {
				t.Errorf("got %v, want %q", err, tt.want)
			}
			if _, err := recorded(t, d, buildOf(1, tk).ID); (err == nil) != (tt.want == "") {
				t.Errorf("recorded: %v", err)
			}
		})
	}
}

// Tickets are remembered: whoever has changed one reads it as it is now, whatever
// others read meanwhile.
func TestTicketIsReadAsItIs(t *testing.T) {
	d := openTemp(t)
	tk := makeTicket(t, d, func(r *builder.TicketRecord) { r.MaxUses = 0 })
	done := make(chan struct{})
	var readers sync.WaitGroup
	defer func() { close(done); readers.Wait() }()
	for range 4 {
		readers.Go(func() {
			for {
				select {
				case <-done:
					return
				default:
				}
				if _, err := d.Ticket(t.Context(), tk.ID); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	for i := range 50 {
		if err := d.Admit(t.Context(), buildOf(byte(i), tk)); err != nil {
			t.Fatal(err)
		}
		if got, err := d.Ticket(t.Context(), tk.ID); err != nil || got.Used != int64(i)+1 {
			t.Fatalf("after %d uses: %d, %v", i+1, got.Used, err)
		}
	}
	if err := d.RevokeTicket(t.Context(), tk.ID, now); err != nil {
		t.Fatal(err)
	}
	if err := d.RevokeTicket(t.Context(), tk.ID, now.Add(time.Hour)); err != nil {
		t.Fatal(err)
	}
	if got, err := d.Ticket(t.Context(), tk.ID); err != nil || !got.Revoked.Equal(now) {
		t.Errorf("revoked %v, %v", got.Revoked, err)
	}
	if err := d.RevokeTicket(t.Context(), ticket.ID{1}, now); !errors.Is(err, builder.ErrNoRecord) {
		t.Errorf("a ticket that there is not: %v", err)
	}
}

// What was read before a change is not remembered after it, and not everything is.
func TestRemembered(t *testing.T) {
	var r remembered
	id := ticket.ID{1}
	_, _, before := r.get(id)
	r.forget(id)
	r.put(builder.TicketRecord{ID: id}, before)
	if _, ok, _ := r.get(id); ok {
		t.Error("a ticket from before its change is remembered")
	}
	_, _, after := r.get(id)
	for i := range maxRemembered + 1 {
		r.put(builder.TicketRecord{ID: ticket.ID{byte(i), byte(i >> 8)}}, after)
	}
	if n := len(r.tickets); n > maxRemembered {
		t.Errorf("%d are remembered", n)
	}
}

func TestAdmitUnknownTicket(t *testing.T) {
	d := openTemp(t)
	if err := d.Admit(t.Context(), buildOf(1, builder.TicketRecord{ID: ticket.ID{1}})); wire.CodeOf(err) != wire.CodeTicketUnknown {
		t.Errorf("got %v", err)
	}
}

func TestHundredRacersTenUses(t *testing.T) {
	d := openTemp(t)
	tk := makeTicket(t, d, func(r *builder.TicketRecord) { r.MaxUses = 10 })
	var wg sync.WaitGroup
	errs := make([]error, 100)
	for i := range errs {
		wg.Go(func() { errs[i] = d.Admit(t.Context(), buildOf(byte(i), tk)) })
	}
	wg.Wait()
	admitted := 0
	for _, err := range errs {
		if err == nil {
			admitted++
		} else if wire.CodeOf(err) != wire.CodeTicketUsed {
			t.Error(err)
		}
	}
	if admitted != 10 {
		t.Errorf("%d admitted, want 10", admitted)
	}
	if got, err := d.Ticket(t.Context(), tk.ID); err != nil || got.Used != 10 {
		t.Errorf("used %d, %v", got.Used, err)
	}
}

func TestReviveSpendsNothing(t *testing.T) {
	d := openTemp(t)
	tk := makeTicket(t, d, nil)
	b := buildOf(1, tk)
	if err := d.Admit(t.Context(), b); err != nil {
		t.Fatal(err)
	}
	if err := d.Admit(t.Context(), b); !errors.Is(err, builder.ErrBuildExists) {
		t.Errorf("twice: %v", err)
	}
	b.State = wire.StateInterrupted
	b.Result = &wire.Result{Error: wire.CodeRestarted.Err()}
	if err := d.UpdateBuild(t.Context(), b); err != nil {
		t.Fatal(err)
	}
	two := makeTicket(t, d, func(r *builder.TicketRecord) { r.Secret, r.ID = ticket.Secret{2}, ticket.Secret{2}.ID() })
	for name, change := range map[string]func(*builder.BuildRecord){
		"content": func(b *builder.BuildRecord) { b.Content = [32]byte{8} },
		"client":  func(b *builder.BuildRecord) { b.Client = key.ID{8} },
		"ticket":  func(b *builder.BuildRecord) { b.Ticket = two.ID },
	} {
		other := b
		change(&other)
		if err := d.Admit(t.Context(), other); !errors.Is(err, builder.ErrBuildExists) {
			t.Errorf("other %s: %v", name, err)
		}
	}
	if err := d.UpdateBuild(t.Context(), buildOf(2, tk)); !errors.Is(err, builder.ErrNoRecord) {
		t.Errorf("a build that there is not: %v", err)
	}
	b.State, b.Result = wire.StateUploading, nil
	if err := d.Admit(t.Context(), b); err != nil {
		t.Errorf("revive: %v", err)
	}
	got, err := recorded(t, d, b.ID)
	if err != nil || got.State != wire.StateUploading || got.Result != nil {
		t.Errorf("got %+v, %v", got, err)
	}
	if tk, err := d.Ticket(t.Context(), tk.ID); err != nil || tk.Used != 1 {
		t.Errorf("used %d, %v", tk.Used, err)
	}
}

func TestReopen(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state.db")
	d, err := Open(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	tk := makeTicket(t, d, nil)
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	// Whoever has copied it back may have opened it to others.
	if err := os.Chmod(path, 0o644); err != nil {
		t.Fatal(err)
	}
	if d, err = Open(t.Context(), path); err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	if _, err := d.Ticket(t.Context(), tk.ID); err != nil {
		t.Error(err)
	}
}

func TestDamagedFileStops(t *testing.T) {
	dir := t.TempDir()
	good := filepath.Join(dir, "good.db")
	d, err := Open(t.Context(), good)
	if err != nil {
		t.Fatal(err)
	}
	for i := range 200 {
		makeTicket(t, d, func(r *builder.TicketRecord) {
			r.Secret = ticket.Secret{byte(i)}
			r.ID = r.Secret.ID()
		})
	}
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(good)
	if err != nil {
		t.Fatal(err)
	}
	for name, spoil := range map[string]func([]byte) []byte{
		"empty":        func([]byte) []byte { return nil },
		"another file": func([]byte) []byte { return []byte("this is certainly not a database, but a text") },
		"page":         func(b []byte) []byte { copy(b[4096:], make([]byte, 8192)); return b },
		"truncated":    func(b []byte) []byte { return b[:len(b)/2] },
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(dir, name)
			spoiled := spoil(append([]byte(nil), data...))
			if err := os.WriteFile(path, spoiled, 0o600); err != nil {
				t.Fatal(err)
			}
			d, err := Open(t.Context(), path)
			if err == nil {
				d.Close()
			}
			var corrupt *CorruptError
			if !errors.As(err, &corrupt) || corrupt.Hint() == "" || !errors.Is(err, ErrCorrupt) {
				t.Fatalf("got %v", err)
			}
			if after, err := os.ReadFile(path); err != nil || string(after) != string(spoiled) {
				t.Error("the damaged file was changed")
			}
		})
	}
}

// What a killed builder has not moved into a file that is gone, or was moved away as
// the hint says, is not moved into the new one: it is pages of another database.
func TestLogOfLostFile(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "state.db")
	d, err := Open(t.Context(), filepath.Join(dir, "killed.db"))
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	for i := range byte(200) {
		if i == 100 {
			if _, err := d.db.ExecContext(t.Context(), "PRAGMA wal_checkpoint(TRUNCATE)"); err != nil {
				t.Fatal(err)
			}
		}
		makeTicket(t, d, func(r *builder.TicketRecord) {
			r.Secret = ticket.Secret{i}
			r.ID = r.Secret.ID()
		})
	}
	for _, end := range []string{"-wal", "-shm"} {
		left, err := os.ReadFile(filepath.Join(dir, "killed.db"+end))
		if err != nil || len(left) == 0 {
			t.Fatalf("%s has %d bytes, %v", end, len(left), err)
		}
		if err := os.WriteFile(path+end, left, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for range 2 {
		fresh, err := Open(t.Context(), path)
		if err != nil {
			t.Fatal(err)
		}
		if all, err := fresh.Tickets(t.Context()); err != nil || len(all) > 0 {
			t.Errorf("%d tickets in a new file, %v", len(all), err)
		}
		if err := fresh.Close(); err != nil {
			t.Error(err)
		}
	}
}

func TestNewerVersionStops(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state.db")
	d, err := Open(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := d.db.ExecContext(t.Context(), "PRAGMA user_version = 99"); err != nil {
		t.Fatal(err)
	}
	d.Close()
	if d, err = Open(t.Context(), path); !errors.Is(err, ErrNewer) {
		if err == nil {
			d.Close()
		}
		t.Errorf("got %v", err)
	}
	if h := (interface{ Hint() string })(nil); !errors.As(err, &h) || h.Hint() == "" {
		t.Errorf("%v does not say what to do", err)
	}
}

// TestOpensOlderVersions opens a file as each version wrote it. The files are
// never made again: what they hold must be read for ever.
func TestOpensOlderVersions(t *testing.T) {
	for v := 1; v <= len(migrations); v++ {
		name := fmt.Sprintf("v%d.db", v)
		data, err := os.ReadFile(filepath.Join("testdata", name))
		if err != nil {
			t.Fatal(err)
		}
		path := filepath.Join(t.TempDir(), name)
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
		d, err := Open(t.Context(), path)
		if err != nil {
			t.Fatal(err)
		}
		tickets, err := d.Tickets(t.Context())
		if err != nil || len(tickets) != 1 || tickets[0].Name != "kept" || tickets[0].Used != 1 || tickets[0].MaxUses != 3 ||
			tickets[0].Bind != (key.ID{9}) || !tickets[0].Limits.NoFixedOutput || tickets[0].Secret.ID() != tickets[0].ID {
			t.Errorf("%s: tickets %+v, %v", name, tickets, err)
		}
		builds, err := d.Builds(t.Context())
		if err != nil || len(builds) != 1 || builds[0].Ticket != tickets[0].ID || builds[0].State != wire.StateFailed ||
			builds[0].Result.Error.Code != wire.CodeBuildFailed || builds[0].Roots[0].Label != "hello" || builds[0].Ended.IsZero() {
			t.Errorf("%s: builds %+v, %v", name, builds, err)
		}
		if u := usageOf(t, d, tickets[0], now, ""); u.Ticket.Builds != 1 || u.Name.Builds != 1 || u.Client.Builds != 1 || u.Client.Active != 0 {
			t.Errorf("%s: usage %+v", name, u)
		}
		if b := builds[0]; v >= 4 && (!b.KeepGoing || !b.Detach || b.Limits == nil || b.Limits.MaxBuildTime != ticket.DefaultMaxBuildTime) {
			t.Errorf("%s: build %+v", name, b)
		}
		if all, err := d.Decisions(t.Context(), 10); err != nil || v >= 2 && (len(all) == 0 || all[0].Policy != "night") {
			t.Errorf("%s: decisions %+v, %v", name, all, err)
		}
		if pinned := tickets[0].Policy; v >= 2 && (pinned.Name != "night" || pinned.Hash == "" || string(pinned.Settings) != `{"from":22}`) {
			t.Errorf("%s: policy %+v", name, pinned)
		}
		if tickets[0].Direct != (v >= 3) {
			t.Errorf("%s: direct %t", name, tickets[0].Direct)
		}
		if err := d.Close(); err != nil {
			t.Error(err)
		}
	}
}
