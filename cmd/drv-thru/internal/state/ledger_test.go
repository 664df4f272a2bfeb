package state

import (
	"encoding/json"
	"fmt"
	"path/filepath"
	"testing"
	"time"

	"github.com/drv-thru/drv-thru/core/builder"
	"github.com/drv-thru/drv-thru/core/key"
	"github.com/drv-thru/drv-thru/core/ticket"
	"github.com/drv-thru/drv-thru/core/wire"
)

func usageOf(t *testing.T, d *DB, tk builder.TicketRecord, at time.Time, except wire.BuildID) builder.Usages {
	t.Helper()
	u, err := d.Usage(t.Context(), builder.UsageQuery{Ticket: tk.ID, Name: tk.Name, Client: key.ID{9}, Now: at, Except: except})
	if err != nil {
		t.Fatal(err)
	}
	return u
}

// TestUsage follows two tickets of one name, and a client without a ticket,
// through admissions, ends, an interruption, deletion and the fold.
func TestUsage(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state.db")
	d, err := Open(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { d.Close() }()
	unlimited := func(secret byte) func(*builder.TicketRecord) {
		return func(r *builder.TicketRecord) {
			r.Secret, r.MaxUses, r.Expires = ticket.Secret{secret}, 0, time.Time{}
			r.ID = r.Secret.ID()
		}
	}
	one, two := makeTicket(t, d, unlimited(1)), makeTicket(t, d, unlimited(2))
	admit := func(id byte, tk builder.TicketRecord, at time.Time) builder.BuildRecord {
		t.Helper()
		b := buildOf(id, tk)
		b.Created = at
		if err := d.Admit(t.Context(), b); err != nil {
			t.Fatal(err)
		}
		return b
	}
	end := func(b builder.BuildRecord, state wire.State, at time.Time) builder.BuildRecord {
		t.Helper()
		b.State, b.Ended, b.OutputBytes = state, at, 100
		b.Result = &wire.Result{UploadBytes: 10, BuildTime: 1.5}
		for range 2 { // told twice, it counts once
			if err := d.UpdateBuild(t.Context(), b); err != nil {
				t.Fatal(err)
			}
		}
		return b
	}
	a := admit(1, one, now)
	admit(2, two, now)
	admit(3, builder.TicketRecord{}, now)
	want := builder.Usages{
		Ticket: builder.Usage{Builds: 1, BuildsHour: 1, BuildsDay: 1, Active: 1},
		Name:   builder.Usage{Builds: 2, BuildsHour: 2, BuildsDay: 2, Active: 2},
		Client: builder.Usage{Builds: 3, BuildsHour: 3, BuildsDay: 3, Active: 3},
	}
	if got := usageOf(t, d, one, now, ""); got != want {
		t.Errorf("under way: %+v", got)
	}
	if got := usageOf(t, d, one, now, a.ID); got.Ticket != (builder.Usage{}) || got.Client.Active != 2 {
		t.Errorf("without itself: %+v", got)
	}
	a = end(a, wire.StateInterrupted, now)
	used := builder.Usage{Builds: 1, BuildsHour: 1, BuildsDay: 1, UploadBytes: 10, OutputBytes: 100, BuildTime: 1500 * time.Millisecond}
	if got := usageOf(t, d, one, now, a.ID); got.Ticket != used {
		t.Errorf("interrupted: %+v", got.Ticket)
	}
	// Revived, it is the same build and uses more.
	a.State, a.Result, a.Ended = wire.StateUploading, nil, time.Time{}
	if err := d.Admit(t.Context(), a); err != nil {
		t.Fatal(err)
	}
	if got := usageOf(t, d, one, now, ""); got.Ticket.Builds != 1 || got.Ticket.Active != 1 {
		t.Errorf("revived: %+v", got.Ticket)
	}
	a = end(a, wire.StateBuilt, now)
	if got := usageOf(t, d, one, now.Add(2*time.Hour), ""); got.Ticket.BuildsHour != 0 || got.Ticket.BuildsDay != 1 {
		t.Errorf("two hours later: %+v", got.Ticket)
	}
	used = builder.Usage{Builds: 1, UploadBytes: 20, OutputBytes: 200, BuildTime: 3 * time.Second}
	if got := usageOf(t, d, one, now.Add(25*time.Hour), ""); got.Ticket != used {
		t.Errorf("a day later: %+v", got.Ticket)
	}
	// Neither deleting the build nor folding its row changes that, nor does
	// its ID being used again.
	if err := d.DeleteBuild(t.Context(), a.ID); err != nil {
		t.Fatal(err)
	}
	later := now.Add(25 * time.Hour)
	again := admit(1, one, later)
	var rows int
	if err := d.db.QueryRow("SELECT count(*) FROM ledger").Scan(&rows); err != nil || rows != 3 {
		t.Errorf("%d rows are left in the ledger, %v", rows, err)
	}
	used.Builds, used.BuildsHour, used.BuildsDay, used.Active = 2, 1, 1, 1
	if got := usageOf(t, d, one, later, ""); got.Ticket != used {
		t.Errorf("folded: %+v", got.Ticket)
	}
	if got := usageOf(t, d, one, later, again.ID); got.Ticket.Builds != 1 {
		t.Errorf("folded, without itself: %+v", got.Ticket)
	}
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	if d, err = Open(t.Context(), path); err != nil {
		t.Fatal(err)
	}
	if got := usageOf(t, d, one, later, ""); got.Ticket != used || got.Name.Builds != 3 || got.Client.Builds != 4 {
		t.Errorf("reopened: %+v", got)
	}
}

// Only what was admitted within an hour or a day counts as that, on either side of a
// clock that is set back.
func TestUsageClockSetBack(t *testing.T) {
	for _, c := range []struct {
		ahead     time.Duration
		hour, day int64
	}{
		{-25 * time.Hour, 0, 0},
		{-2 * time.Hour, 0, 1},
		{0, 1, 1},
		{time.Minute, 1, 1},
		{2 * time.Hour, 0, 1},
		{10 * 365 * 24 * time.Hour, 0, 0},
	} {
		d := openTemp(t)
		tk := makeTicket(t, d, func(r *builder.TicketRecord) { r.Expires = time.Time{} })
		b := buildOf(1, tk)
		b.Created = now.Add(c.ahead)
		if err := d.Admit(t.Context(), b); err != nil {
			t.Fatal(err)
		}
		if u := usageOf(t, d, tk, now, "").Ticket; u.Builds != 1 || u.BuildsHour != c.hour || u.BuildsDay != c.day {
			t.Errorf("admitted %s ahead: %+v", c.ahead, u)
		}
	}
}

// Admissions fold a bounded number of rows each, and not those of builds that may go on.
func TestUsageIsFoldedBitByBit(t *testing.T) {
	d := openTemp(t)
	tk := makeTicket(t, d, func(r *builder.TicketRecord) { r.MaxUses, r.Expires = 0, time.Time{} })
	interrupted := buildOf(255, tk)
	for id := range byte(foldAtOnce + 50) {
		b := buildOf(id, tk)
		if id == 0 {
			b = interrupted
		}
		if err := d.Admit(t.Context(), b); err != nil {
			t.Fatal(err)
		}
		b.State, b.Ended, b.OutputBytes = wire.StateBuilt, now, 100
		if id == 0 {
			b.State = wire.StateInterrupted
		}
		b.Result = &wire.Result{UploadBytes: 10, BuildTime: 1}
		if err := d.UpdateBuild(t.Context(), b); err != nil {
			t.Fatal(err)
		}
	}
	used := usageOf(t, d, tk, now, "").Ticket
	used.BuildsHour, used.BuildsDay = 0, 0
	later := now.Add(25 * time.Hour)
	for id := range byte(2) {
		b := buildOf(200+id, builder.TicketRecord{})
		b.Created = later
		if err := d.Admit(t.Context(), b); err != nil {
			t.Fatal(err)
		}
		if got := usageOf(t, d, tk, later, "").Ticket; got != used {
			t.Errorf("after admission %d: %+v, want %+v", id, got, used)
		}
	}
	var rows int
	if err := d.db.QueryRow("SELECT count(*) FROM ledger").Scan(&rows); err != nil || rows != 3 {
		t.Errorf("%d rows are left in the ledger, %v", rows, err)
	}
	interrupted.Created = later
	if err := d.Admit(t.Context(), interrupted); err != nil {
		t.Fatal(err)
	}
	if got := usageOf(t, d, tk, later, "").Ticket; got.Active != 1 || got.Builds != used.Builds {
		t.Errorf("revived: %+v", got)
	}
}

func TestRecordsKeepPolicies(t *testing.T) {
	d := openTemp(t)
	pinned := builder.TicketPolicy{Name: "night", Hash: "ab", Kept: true, Settings: json.RawMessage(`{"a":1}`)}
	tk := makeTicket(t, d, func(r *builder.TicketRecord) { r.Policy = pinned })
	got, err := d.Ticket(t.Context(), tk.ID)
	if err != nil || fmt.Sprint(got.Policy) != fmt.Sprint(pinned) {
		t.Errorf("%+v, %v", got.Policy, err)
	}
	b := buildOf(1, tk)
	b.Limits = &ticket.Limits{MaxUploadBytes: 5}
	if err := d.Admit(t.Context(), b); err != nil {
		t.Fatal(err)
	}
	if got, err := recorded(t, d, b.ID); err != nil || got.Limits == nil || got.Limits.MaxUploadBytes != 5 {
		t.Errorf("%+v, %v", got.Limits, err)
	}
}

func TestDecisions(t *testing.T) {
	d := openTemp(t)
	add := func(wall time.Duration) {
		t.Helper()
		err := d.AddDecision(t.Context(), Decision{
			At: now, Policy: "p", Verdict: "deny", Code: "policy.trap", Stderr: "\xff", Wall: wall,
			Limits: ticket.Limits{MaxUploadBytes: 7},
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	add(1)
	add(2)
	if _, err := d.db.Exec("UPDATE decisions SET seq = ? WHERE wall_nanos = 2", maxDecisions); err != nil {
		t.Fatal(err)
	}
	add(3)
	all, err := d.Decisions(t.Context(), 10)
	if err != nil || len(all) != 2 || all[0].Wall != 3 || all[1].Wall != 2 || all[0].Stderr != "\xff" || all[0].Limits.MaxUploadBytes != 7 {
		t.Errorf("%+v, %v", all, err)
	}
}
