package state

import (
	"context"
	"database/sql"
	"fmt"
	"time"

	"github.com/drv-thru/drv-thru/core/builder"
	"github.com/drv-thru/drv-thru/core/ticket"
	"github.com/drv-thru/drv-thru/core/wire"
)

// foldAtOnce bounds the rows that one admission adds to the totals.
const foldAtOnce = 100

// newest is the ledger's row of a build. An ID may have been used before.
const newest = "seq = (SELECT max(seq) FROM ledger WHERE build = ?)"

// enter writes the admission of a build, or takes up that of a revived one.
func enter(ctx context.Context, tx *sql.Tx, b *builder.BuildRecord, name string, revive bool) error {
	if err := fold(ctx, tx, b.Created.Add(-24*time.Hour)); err != nil {
		return err
	}
	if revive {
		if _, err := tx.ExecContext(ctx, "UPDATE ledger SET ended = 0 WHERE "+newest, string(b.ID)); err != nil {
			return fmt.Errorf("record admission: %w", err)
		}
		return nil
	}
	_, err := tx.ExecContext(ctx, "INSERT INTO ledger (build, ticket, name, client, admitted) VALUES (?,?,?,?,?)",
		string(b.ID), ticketText(b.Ticket), name, b.Client.String(), toNanos(b.Created))
	if err != nil {
		return fmt.Errorf("record admission: %w", err)
	}
	return nil
}

// leave adds what a build has used once it has ended.
func leave(ctx context.Context, tx *sql.Tx, b *builder.BuildRecord) error {
	if !b.State.Ended() {
		return nil
	}
	var upload, nanos int64
	if b.Result != nil {
		upload, nanos = int64(b.Result.UploadBytes), int64(b.Result.BuildTime*float64(time.Second))
	}
	_, err := tx.ExecContext(ctx, `UPDATE ledger SET ended = ?, upload_bytes = upload_bytes + ?,
		output_bytes = output_bytes + ?, build_nanos = build_nanos + ? WHERE ended = 0 AND `+newest,
		toNanos(b.Ended), upload, int64(b.OutputBytes), nanos, string(b.ID))
	if err != nil {
		return fmt.Errorf("record usage: %w", err)
	}
	return nil
}

// fold moves rows of builds that were admitted before day and will not go on
// into the totals.
func fold(ctx context.Context, tx *sql.Tx, day time.Time) error {
	var last sql.NullInt64
	const old = `admitted < ? AND ended <> 0 AND NOT EXISTS
		(SELECT 1 FROM builds WHERE id = ledger.build AND state = '` + string(wire.StateInterrupted) + `')`
	// Which index, SQLite is told: left to itself it reads the whole of the last day.
	err := tx.QueryRowContext(ctx, "SELECT max(seq) FROM (SELECT seq FROM ledger INDEXED BY ledger_admitted WHERE "+old+
		" ORDER BY admitted, seq LIMIT ?)", toNanos(day), foldAtOnce).Scan(&last)
	if err != nil {
		return fmt.Errorf("add up usage: %w", err)
	}
	if !last.Valid {
		return nil
	}
	for _, kind := range []string{"ticket", "name", "client"} {
		where := ""
		if kind != "client" {
			where = " AND ticket <> ''"
		}
		_, err := tx.ExecContext(ctx, "INSERT INTO totals SELECT '"+kind+"', "+kind+`,
			count(*), sum(upload_bytes), sum(output_bytes), sum(build_nanos)
			FROM ledger NOT INDEXED WHERE `+old+" AND seq <= ?"+where+" GROUP BY "+kind+`
			ON CONFLICT (kind, key) DO UPDATE SET builds = builds + excluded.builds,
			upload_bytes = upload_bytes + excluded.upload_bytes, output_bytes = output_bytes + excluded.output_bytes,
			build_nanos = build_nanos + excluded.build_nanos`, toNanos(day), last.Int64)
		if err != nil {
			return fmt.Errorf("add up usage: %w", err)
		}
	}
	if _, err := tx.ExecContext(ctx, "DELETE FROM ledger WHERE "+old+" AND seq <= ?", toNanos(day), last.Int64); err != nil {
		return fmt.Errorf("add up usage: %w", err)
	}
	return nil
}

// Usage implements builder.Records.
func (d *DB) Usage(ctx context.Context, q builder.UsageQuery) (all builder.Usages, err error) {
	err = d.inTx(ctx, func(tx *sql.Tx) error {
		if q.Ticket != (ticket.ID{}) {
			if err := usage(ctx, tx, "ticket", q.Ticket.String(), q, &all.Ticket); err != nil {
				return err
			}
			if err := usage(ctx, tx, "name", q.Name, q, &all.Name); err != nil {
				return err
			}
		}
		return usage(ctx, tx, "client", q.Client.String(), q, &all.Client)
	})
	return all, err
}

// usage reads what one key has used. An admission far in the future is of a time when
// the clock was wrong, and would count as one of the last hour until that comes.
func usage(ctx context.Context, tx *sql.Tx, kind, key string, q builder.UsageQuery, u *builder.Usage) error {
	where := ""
	if kind == "name" {
		where = " AND ticket <> ''"
	}
	err := tx.QueryRowContext(ctx, `SELECT
			sum(builds), coalesce(sum(hour), 0), coalesce(sum(day), 0), coalesce(sum(active), 0),
			sum(upload_bytes), sum(output_bytes), sum(build_nanos) FROM (
		SELECT 0 AS builds, 0 AS hour, 0 AS day, 0 AS active, 0 AS upload_bytes, 0 AS output_bytes, 0 AS build_nanos
		UNION ALL
		SELECT builds, 0, 0, 0, upload_bytes, output_bytes, build_nanos FROM totals WHERE kind = ? AND key = ?
		UNION ALL
		SELECT 1, abs(admitted - ?) < ?, abs(admitted - ?) < ?, ended = 0, upload_bytes, output_bytes, build_nanos
			FROM ledger WHERE `+kind+` = ?`+where+` AND NOT (build = ? AND ended = 0))`,
		kind, key, toNanos(q.Now), int64(time.Hour), toNanos(q.Now), int64(24*time.Hour), key, string(q.Except),
	).Scan(&u.Builds, &u.BuildsHour, &u.BuildsDay, &u.Active, &u.UploadBytes, &u.OutputBytes, (*int64)(&u.BuildTime))
	if err != nil {
		return fmt.Errorf("read usage: %w", err)
	}
	return nil
}
