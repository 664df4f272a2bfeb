package state

import (
	"context"
	"database/sql"
	"encoding/json"
	"fmt"
	"time"

	"github.com/drv-thru/drv-thru/core/ticket"
)

// maxDecisions is how many decisions are kept.
const maxDecisions = 1000

// Decision is what a policy decided once, for the builder's owner.
type Decision struct {
	At         time.Time     `json:"at"`
	Policy     string        `json:"policy"`
	Hash       string        `json:"hash,omitempty"`
	Event      string        `json:"event"`
	Ticket     string        `json:"ticket,omitempty"` // ID
	TicketName string        `json:"ticket_name,omitempty"`
	Client     string        `json:"client,omitempty"`
	Build      string        `json:"build,omitempty"`
	Monitor    bool          `json:"monitor,omitempty"` // it had no effect
	Verdict    string        `json:"verdict"`           // "allow", "narrow", "deny"
	Code       string        `json:"code,omitempty"`    // of a denial
	Reason     string        `json:"reason,omitempty"`
	Detail     string        `json:"detail,omitempty"`
	Stderr     string        `json:"stderr,omitempty"`
	Limits     ticket.Limits `json:"limits,omitzero"` // that it left
	Wall       time.Duration `json:"wall_nanos"`
	Memory     uint64        `json:"memory_bytes"`
}

const decisionColumns = "at, policy, hash, event, ticket, ticket_name, client, build, monitor, verdict, code, reason, detail, stderr, limits, wall_nanos, memory"

// AddDecision records a decision, and forgets the oldest above maxDecisions.
func (d *DB) AddDecision(ctx context.Context, x Decision) error {
	limits, err := json.Marshal(x.Limits)
	if err != nil {
		return fmt.Errorf("record decision: %w", err)
	}
	return d.inTx(ctx, func(tx *sql.Tx) error {
		res, err := tx.ExecContext(ctx, "INSERT INTO decisions ("+decisionColumns+") VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?)",
			toNanos(x.At), x.Policy, x.Hash, x.Event, x.Ticket, x.TicketName, x.Client, x.Build, x.Monitor, x.Verdict, x.Code,
			x.Reason, x.Detail, x.Stderr, string(limits), int64(x.Wall), int64(x.Memory))
		if err != nil {
			return fmt.Errorf("record decision: %w", err)
		}
		last, err := res.LastInsertId()
		if err == nil {
			_, err = tx.ExecContext(ctx, "DELETE FROM decisions WHERE seq <= ?", last-maxDecisions)
		}
		if err != nil {
			return fmt.Errorf("record decision: %w", err)
		}
		return nil
	})
}

// Decisions returns at most n decisions, the newest first.
func (d *DB) Decisions(ctx context.Context, n int) ([]Decision, error) {
	return readAll(ctx, d, "decisions", scanDecision, "SELECT "+decisionColumns+" FROM decisions ORDER BY seq DESC LIMIT ?", n)
}

func scanDecision(row scanner) (x Decision, err error) {
	var at int64
	var limits string
	err = row.Scan(&at, &x.Policy, &x.Hash, &x.Event, &x.Ticket, &x.TicketName, &x.Client, &x.Build, &x.Monitor, &x.Verdict,
		&x.Code, &x.Reason, &x.Detail, &x.Stderr, &limits, (*int64)(&x.Wall), &x.Memory)
	if err == nil {
		err = json.Unmarshal([]byte(limits), &x.Limits)
	}
	if err != nil {
		return x, fmt.Errorf("read decisions: %w", err)
	}
	x.At = fromNanos(at)
	return x, nil
}
