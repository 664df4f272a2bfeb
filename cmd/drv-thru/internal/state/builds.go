package state

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/drv-thru/drv-thru/core/builder"
	"github.com/drv-thru/drv-thru/core/ticket"
	"github.com/drv-thru/drv-thru/core/wire"
)

var _ builder.Records = (*DB)(nil)

const buildColumns = "id, client, client_name, ticket, content, roots, mode, detach, state, created, started, ended, result, limits, keep_going"

func scanBuild(row scanner) (builder.BuildRecord, error) {
	var (
		b                                             builder.BuildRecord
		id, client, paid, roots, mode, result, limits string
		content                                       []byte
		state                                         string
		created, started, ended                       int64
	)
	err := row.Scan(&id, &client, &b.ClientName, &paid, &content, &roots, &mode, &b.Detach, &state, &created, &started, &ended, &result, &limits, &b.KeepGoing)
	if errors.Is(err, sql.ErrNoRows) {
		return b, builder.ErrNoRecord
	}
	if err != nil {
		return b, fmt.Errorf("read build: %w", err)
	}
	b.ID, b.Mode, b.State = wire.BuildID(id), wire.Mode(mode), wire.State(state)
	b.Created, b.Started, b.Ended = fromNanos(created), fromNanos(started), fromNanos(ended)
	copy(b.Content[:], content)
	err = errors.Join(b.Client.UnmarshalText([]byte(client)), json.Unmarshal([]byte(roots), &b.Roots))
	if paid != "" {
		var parseErr error
		b.Ticket, parseErr = ticket.ParseID(paid)
		err = errors.Join(err, parseErr)
	}
	if result != "" {
		b.Result = new(wire.Result)
		err = errors.Join(err, json.Unmarshal([]byte(result), b.Result))
	}
	if limits != "" {
		b.Limits = new(ticket.Limits)
		err = errors.Join(err, json.Unmarshal([]byte(limits), b.Limits))
	}
	if err != nil {
		return b, fmt.Errorf("read build %s: %w", id, err)
	}
	return b, nil
}

func buildValues(b *builder.BuildRecord) ([]any, error) {
	roots, err := json.Marshal(b.Roots)
	if err != nil {
		return nil, fmt.Errorf("record build: %w", err)
	}
	result := ""
	if b.Result != nil {
		text, err := json.Marshal(b.Result)
		if err != nil {
			return nil, fmt.Errorf("record build: %w", err)
		}
		result = string(text)
	}
	limits := ""
	if b.Limits != nil {
		text, err := json.Marshal(b.Limits)
		if err != nil {
			return nil, fmt.Errorf("record build: %w", err)
		}
		limits = string(text)
	}
	return []any{
		string(b.ID), b.Client.String(), b.ClientName, ticketText(b.Ticket), b.Content[:], string(roots), string(b.Mode),
		b.Detach, string(b.State), toNanos(b.Created), toNanos(b.Started), toNanos(b.Ended), result, limits, b.KeepGoing,
	}, nil
}

func ticketText(id ticket.ID) string {
	if id == (ticket.ID{}) {
		return ""
	}
	return id.String()
}

// Admit implements builder.Records.
func (d *DB) Admit(ctx context.Context, b builder.BuildRecord) error {
	values, err := buildValues(&b)
	if err != nil {
		return err
	}
	defer d.remembered.forget(b.Ticket)
	return d.inTx(ctx, func(tx *sql.Tx) error {
		old, err := scanBuild(tx.QueryRowContext(ctx, "SELECT "+buildColumns+" FROM builds WHERE id = ?", string(b.ID)))
		revive := err == nil
		switch {
		case revive && (old.State != wire.StateInterrupted || old.Content != b.Content || old.Client != b.Client || old.Ticket != b.Ticket):
			return builder.ErrBuildExists
		case !revive && !errors.Is(err, builder.ErrNoRecord):
			return err
		}
		name := ""
		if b.Ticket != (ticket.ID{}) {
			if name, err = spend(ctx, tx, &b, revive); err != nil {
				return err
			}
		}
		if err := enter(ctx, tx, &b, name, revive); err != nil {
			return err
		}
		_, err = tx.ExecContext(ctx, "INSERT OR REPLACE INTO builds ("+buildColumns+") VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?,?,?)", values...)
		if err != nil {
			return fmt.Errorf("record build: %w", err)
		}
		return nil
	})
}

// spend checks the ticket, takes one use unless it was taken before, and returns
// the ticket's name.
func spend(ctx context.Context, tx *sql.Tx, b *builder.BuildRecord, spent bool) (name string, err error) {
	t, err := scanTicket(tx.QueryRowContext(ctx, ticketQuery, b.Ticket.String()))
	if errors.Is(err, builder.ErrNoRecord) {
		return "", wire.CodeTicketUnknown.Err()
	}
	if err != nil {
		return "", err
	}
	if err := t.Check(b.Client, b.Created, spent); err != nil || spent {
		return t.Name, err
	}
	if _, err := tx.ExecContext(ctx, "UPDATE tickets SET used = used + 1 WHERE id = ?", b.Ticket.String()); err != nil {
		return "", fmt.Errorf("spend ticket: %w", err)
	}
	return t.Name, nil
}

// UpdateBuild implements builder.Records.
func (d *DB) UpdateBuild(ctx context.Context, b builder.BuildRecord) error {
	values, err := buildValues(&b)
	if err != nil {
		return err
	}
	return d.inTx(ctx, func(tx *sql.Tx) error {
		res, err := tx.ExecContext(ctx, `UPDATE builds SET id=?, client=?, client_name=?, ticket=?, content=?, roots=?, mode=?,
			detach=?, state=?, created=?, started=?, ended=?, result=?, limits=?, keep_going=? WHERE id=?`, append(values, string(b.ID))...)
		if err != nil {
			return fmt.Errorf("record build: %w", err)
		}
		if n, err := res.RowsAffected(); err != nil || n == 0 {
			return errors.Join(err, builder.ErrNoRecord)
		}
		return leave(ctx, tx, &b)
	})
}

// Builds implements builder.Records.
func (d *DB) Builds(ctx context.Context) ([]builder.BuildRecord, error) {
	return readAll(ctx, d, "builds", scanBuild, "SELECT "+buildColumns+" FROM builds ORDER BY created, id")
}

// DeleteBuild implements builder.Records.
func (d *DB) DeleteBuild(ctx context.Context, id wire.BuildID) error {
	if _, err := d.db.ExecContext(ctx, "DELETE FROM builds WHERE id = ?", string(id)); err != nil {
		return fmt.Errorf("forget build: %w", err)
	}
	return nil
}
