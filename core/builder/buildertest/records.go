package buildertest

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/drv-thru/drv-thru/core/builder"
	"github.com/drv-thru/drv-thru/core/ticket"
	"github.com/drv-thru/drv-thru/core/wire"
)

// Records are builder.Records in memory.
type Records struct {
	mu      sync.Mutex
	tickets map[ticket.ID]builder.TicketRecord
	builds  []builder.BuildRecord
	ledger  []admitted
}

// admitted is a build that was admitted, deleted or not.
type admitted struct {
	rec  builder.BuildRecord
	name string // of its ticket
}

var _ builder.Records = (*Records)(nil)

// NewRecords makes empty records.
func NewRecords() *Records { return &Records{tickets: make(map[ticket.ID]builder.TicketRecord)} }

// SetTicket adds or replaces a ticket.
func (r *Records) SetTicket(t builder.TicketRecord) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.tickets[t.ID] = t
}

// Ticket implements builder.Records.
func (r *Records) Ticket(_ context.Context, id ticket.ID) (builder.TicketRecord, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	t, ok := r.tickets[id]
	if !ok {
		return t, builder.ErrNoRecord
	}
	return t, nil
}

func (r *Records) index(id wire.BuildID) int {
	return slices.IndexFunc(r.builds, func(b builder.BuildRecord) bool { return b.ID == id })
}

// Admit implements builder.Records.
func (r *Records) Admit(_ context.Context, b builder.BuildRecord) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	i := r.index(b.ID)
	if i >= 0 {
		old := r.builds[i]
		if old.State != wire.StateInterrupted || old.Content != b.Content || old.Client != b.Client || old.Ticket != b.Ticket {
			return builder.ErrBuildExists
		}
	}
	name := ""
	if b.Ticket != (ticket.ID{}) {
		t, ok := r.tickets[b.Ticket]
		if !ok {
			return wire.CodeTicketUnknown.Err()
		}
		if err := t.Check(b.Client, b.Created, i >= 0); err != nil {
			return err
		}
		name = t.Name
		if i < 0 {
			t.Used++
			r.tickets[b.Ticket] = t
		}
	}
	if i >= 0 {
		r.builds[i] = b
		r.note(b)
	} else {
		r.builds = append(r.builds, b)
		r.ledger = append(r.ledger, admitted{b, name})
	}
	return nil
}

// note updates the newest admission of a build.
func (r *Records) note(b builder.BuildRecord) {
	for i := len(r.ledger) - 1; i >= 0; i-- {
		if r.ledger[i].rec.ID == b.ID {
			r.ledger[i].rec = b
			return
		}
	}
}

// Usage implements builder.Records.
func (r *Records) Usage(_ context.Context, q builder.UsageQuery) (all builder.Usages, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, a := range r.ledger {
		if a.rec.ID == q.Except && !a.rec.State.Ended() {
			continue
		}
		paid := q.Ticket != ticket.ID{} && a.rec.Ticket != ticket.ID{}
		add(&all.Ticket, paid && a.rec.Ticket == q.Ticket, a.rec, q.Now)
		add(&all.Name, paid && a.name == q.Name, a.rec, q.Now)
		add(&all.Client, a.rec.Client == q.Client, a.rec, q.Now)
	}
	return all, nil
}

func add(u *builder.Usage, counts bool, b builder.BuildRecord, now time.Time) {
	if !counts {
		return
	}
	u.Builds++
	if b.Created.After(now.Add(-time.Hour)) {
		u.BuildsHour++
	}
	if b.Created.After(now.Add(-24 * time.Hour)) {
		u.BuildsDay++
	}
	if !b.State.Ended() {
		u.Active++
	}
	u.OutputBytes += b.OutputBytes
	if b.Result != nil && b.State.Ended() {
		u.UploadBytes += b.Result.UploadBytes
		u.BuildTime += time.Duration(b.Result.BuildTime * float64(time.Second))
	}
}

// Build returns the build's record, or builder.ErrNoRecord.
func (r *Records) Build(_ context.Context, id wire.BuildID) (builder.BuildRecord, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if i := r.index(id); i >= 0 {
		return r.builds[i], nil
	}
	return builder.BuildRecord{}, builder.ErrNoRecord
}

// UpdateBuild implements builder.Records.
func (r *Records) UpdateBuild(_ context.Context, b builder.BuildRecord) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	i := r.index(b.ID)
	if i < 0 {
		return builder.ErrNoRecord
	}
	r.builds[i] = b
	r.note(b)
	return nil
}

// Builds implements builder.Records.
func (r *Records) Builds(context.Context) ([]builder.BuildRecord, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.builds), nil
}

// DeleteBuild implements builder.Records.
func (r *Records) DeleteBuild(_ context.Context, id wire.BuildID) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.builds = slices.DeleteFunc(r.builds, func(b builder.BuildRecord) bool { return b.ID == id })
	return nil
}

// Ticket makes the record of a ticket with one use that expires an hour after now.
func Ticket(secret byte, now time.Time) builder.TicketRecord {
	t := builder.TicketRecord{
		Secret: ticket.Secret{secret}, Name: "test", Created: now, Expires: now.Add(time.Hour), MaxUses: 1,
	}
	t.ID = t.Secret.ID()
	return t
}
