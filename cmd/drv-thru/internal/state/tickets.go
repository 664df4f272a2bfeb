package state

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/drv-thru/drv-thru/core/builder"
	"github.com/drv-thru/drv-thru/core/key"
	"github.com/drv-thru/drv-thru/core/ticket"
)

const ticketColumns = "id, secret, name, created, expires, max_uses, used, limits, bind, revoked, policy, direct"

const ticketQuery = "SELECT " + ticketColumns + " FROM tickets WHERE id = ?"

type scanner interface{ Scan(...any) error }

func scanTicket(row scanner) (builder.TicketRecord, error) {
	var (
		t                         builder.TicketRecord
		id, limits, bind, pinned  string
		secret                    []byte
		created, expires, revoked int64
	)
	err := row.Scan(&id, &secret, &t.Name, &created, &expires, &t.MaxUses, &t.Used, &limits, &bind, &revoked, &pinned, &t.Direct)
	if errors.Is(err, sql.ErrNoRows) {
		return t, builder.ErrNoRecord
	}
	if err != nil {
		return t, fmt.Errorf("read ticket: %w", err)
	}
	t.Created, t.Expires, t.Revoked = fromNanos(created), fromNanos(expires), fromNanos(revoked)
	if t.ID, err = ticket.ParseID(id); err != nil {
		return t, fmt.Errorf("read ticket: %w", err)
	}
	if len(secret) != len(t.Secret) {
		return t, fmt.Errorf("read ticket %s: its secret has %d bytes", t.ID, len(secret))
	}
	copy(t.Secret[:], secret)
	if err := json.Unmarshal([]byte(limits), &t.Limits); err != nil {
		return t, fmt.Errorf("read ticket %s: %w", t.ID, err)
	}
	if err := json.Unmarshal([]byte(pinned), &t.Policy); err != nil {
		return t, fmt.Errorf("read ticket %s: its policy: %w", t.ID, err)
	}
	err = t.Bind.UnmarshalText([]byte(bind))
	return t, err
}

// CreateTicket records a new ticket.
func (d *DB) CreateTicket(ctx context.Context, t builder.TicketRecord) error {
	limits, err := json.Marshal(t.Limits)
	if err != nil {
		return fmt.Errorf("record ticket: %w", err)
	}
	pinned, err := json.Marshal(t.Policy)
	if err != nil {
		return fmt.Errorf("record ticket: %w", err)
	}
	_, err = d.db.ExecContext(ctx, "INSERT INTO tickets ("+ticketColumns+") VALUES (?,?,?,?,?,?,?,?,?,?,?,?)",
		t.ID.String(), t.Secret[:], t.Name, toNanos(t.Created), toNanos(t.Expires), t.MaxUses, t.Used,
		string(limits), idText(t.Bind), toNanos(t.Revoked), string(pinned), t.Direct)
	if err != nil {
		return fmt.Errorf("record ticket: %w", err)
	}
	return nil
}

// maxRemembered bounds the tickets that are remembered.
const maxRemembered = 1024

// remembered are tickets as they were last read: every request asks for one, and
// to read it takes a fifth of a millisecond in the middle of other work.
type remembered struct {
	mu      sync.Mutex
	tickets map[ticket.ID]builder.TicketRecord
	// changes counts calls of forget: what was read before one is not kept.
	changes uint64
}

func (r *remembered) get(id ticket.ID) (t builder.TicketRecord, ok bool, changes uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	t, ok = r.tickets[id]
	return t, ok, r.changes
}

func (r *remembered) put(t builder.TicketRecord, changes uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if changes != r.changes {
		return
	}
	if r.tickets == nil || len(r.tickets) >= maxRemembered {
		r.tickets = make(map[ticket.ID]builder.TicketRecord)
	}
	r.tickets[t.ID] = t
}

// forget is called after each change of a ticket, and before whoever made it hears
// that it was made.
func (r *remembered) forget(id ticket.ID) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.changes++
	delete(r.tickets, id)
}

// Ticket implements builder.Records. Nobody but this process changes the file.
func (d *DB) Ticket(ctx context.Context, id ticket.ID) (builder.TicketRecord, error) {
	t, ok, changes := d.remembered.get(id)
	if ok {
		return t, nil
	}
	t, err := scanTicket(d.ticket.QueryRowContext(ctx, id.String()))
	if err == nil {
		d.remembered.put(t, changes)
	}
	return t, err
}

// Tickets returns every ticket, oldest first.
func (d *DB) Tickets(ctx context.Context) ([]builder.TicketRecord, error) {
	return readAll(ctx, d, "tickets", scanTicket, "SELECT "+ticketColumns+" FROM tickets ORDER BY created, id")
}

// RevokeTicket revokes a ticket; one that is revoked already keeps its time.
func (d *DB) RevokeTicket(ctx context.Context, id ticket.ID, now time.Time) error {
	defer d.remembered.forget(id)
	res, err := d.db.ExecContext(ctx,
		"UPDATE tickets SET revoked = CASE revoked WHEN 0 THEN ? ELSE revoked END WHERE id = ?", toNanos(now), id.String())
	if err != nil {
		return fmt.Errorf("revoke ticket: %w", err)
	}
	if n, err := res.RowsAffected(); err != nil || n == 0 {
		return errors.Join(err, builder.ErrNoRecord)
	}
	return nil
}

func idText(id key.ID) string {
	if id.IsZero() {
		return ""
	}
	return id.String()
}
