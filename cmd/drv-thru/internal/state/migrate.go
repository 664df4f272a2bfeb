package state

import (
	"context"
	"database/sql"
	"fmt"
)

// migrations bring a database from version i to i+1 (PRAGMA user_version). They
// are never changed once released; testdata holds a file of each version.
var migrations = []string{
	`CREATE TABLE tickets (
		id       TEXT PRIMARY KEY,            -- ticket.ID
		secret   BLOB NOT NULL,               -- 32 bytes
		name     TEXT NOT NULL,
		created  INTEGER NOT NULL,
		expires  INTEGER NOT NULL,            -- 0: never
		max_uses INTEGER NOT NULL,            -- 0: unlimited
		used     INTEGER NOT NULL DEFAULT 0,
		limits   TEXT NOT NULL,               -- JSON of ticket.Limits
		bind     TEXT NOT NULL DEFAULT '',    -- endpoint ID of the only client
		revoked  INTEGER NOT NULL DEFAULT 0,
		CHECK (max_uses = 0 OR used <= max_uses)
	) STRICT;
	CREATE TABLE builds (
		id          TEXT PRIMARY KEY,
		client      TEXT NOT NULL,
		client_name TEXT NOT NULL DEFAULT '',
		ticket      TEXT NOT NULL DEFAULT '', -- '' for a trusted client
		content     BLOB NOT NULL,
		roots       TEXT NOT NULL,            -- JSON of []wire.Root
		mode        TEXT NOT NULL,
		detach      INTEGER NOT NULL,
		state       TEXT NOT NULL,
		created     INTEGER NOT NULL,
		started     INTEGER NOT NULL DEFAULT 0,
		ended       INTEGER NOT NULL DEFAULT 0,
		result      TEXT NOT NULL DEFAULT ''  -- JSON of wire.Result
	) STRICT;
	CREATE INDEX builds_created ON builds (created);
	CREATE INDEX builds_ticket ON builds (ticket);`,

	// Policies. The ledger outlives the builds: it has a row for each admission
	// until that is a day old, and totals of what was before.
	`ALTER TABLE tickets ADD COLUMN policy TEXT NOT NULL DEFAULT '{}'; -- JSON of builder.TicketPolicy
	ALTER TABLE builds ADD COLUMN limits TEXT NOT NULL DEFAULT '';     -- JSON of ticket.Limits; '': not kept
	CREATE TABLE ledger (
		seq          INTEGER PRIMARY KEY,
		build        TEXT NOT NULL,
		ticket       TEXT NOT NULL,           -- '' for a trusted client
		name         TEXT NOT NULL,           -- of the ticket
		client       TEXT NOT NULL,
		admitted     INTEGER NOT NULL,
		ended        INTEGER NOT NULL DEFAULT 0,
		upload_bytes INTEGER NOT NULL DEFAULT 0,
		output_bytes INTEGER NOT NULL DEFAULT 0,
		build_nanos  INTEGER NOT NULL DEFAULT 0
	) STRICT;
	CREATE INDEX ledger_build ON ledger (build);
	CREATE INDEX ledger_ticket ON ledger (ticket);
	CREATE INDEX ledger_name ON ledger (name);
	CREATE INDEX ledger_client ON ledger (client);
	CREATE INDEX ledger_admitted ON ledger (admitted);
	CREATE TABLE totals (
		kind         TEXT NOT NULL,           -- 'ticket', 'name', 'client'
		key          TEXT NOT NULL,
		builds       INTEGER NOT NULL,
		upload_bytes INTEGER NOT NULL,
		output_bytes INTEGER NOT NULL,
		build_nanos  INTEGER NOT NULL,
		PRIMARY KEY (kind, key)
	) STRICT;
	CREATE TABLE decisions (
		seq         INTEGER PRIMARY KEY,
		at          INTEGER NOT NULL,
		policy      TEXT NOT NULL,
		hash        TEXT NOT NULL,            -- of the module; '' where there was none
		event       TEXT NOT NULL,
		ticket      TEXT NOT NULL,
		ticket_name TEXT NOT NULL,
		client      TEXT NOT NULL,
		build       TEXT NOT NULL,
		monitor     INTEGER NOT NULL,         -- decided without effect
		verdict     TEXT NOT NULL,            -- 'allow', 'narrow', 'deny'
		code        TEXT NOT NULL,            -- of a denial
		reason      TEXT NOT NULL,
		detail      TEXT NOT NULL,
		stderr      TEXT NOT NULL,
		limits      TEXT NOT NULL,            -- JSON of ticket.Limits after it
		wall_nanos  INTEGER NOT NULL,
		memory      INTEGER NOT NULL
	) STRICT;
	INSERT INTO ledger (build, ticket, name, client, admitted, ended, upload_bytes, build_nanos)
		SELECT b.id, b.ticket, coalesce(t.name, ''), b.client, b.created, b.ended,
			CASE b.result WHEN '' THEN 0 ELSE coalesce(json_extract(b.result, '$.upload_bytes'), 0) END,
			CASE b.result WHEN '' THEN 0 ELSE CAST(coalesce(json_extract(b.result, '$.build_seconds'), 0) * 1e9 AS INTEGER) END
		FROM builds b LEFT JOIN tickets t ON t.id = b.ticket ORDER BY b.created;
	INSERT INTO totals SELECT 'ticket', id, used - n, 0, 0, 0 FROM
		(SELECT id, used, (SELECT count(*) FROM builds b WHERE b.ticket = t.id) AS n FROM tickets t) WHERE used > n;
	INSERT INTO totals SELECT 'name', name, sum(used) - n, 0, 0, 0 FROM
		(SELECT name, used, (SELECT count(*) FROM ledger l WHERE l.name = t.name AND l.ticket <> '') AS n FROM tickets t)
		GROUP BY name, n HAVING sum(used) > n;`,

	// Whether a ticket's text holds the builder's own addresses instead of relays.
	`ALTER TABLE tickets ADD COLUMN direct INTEGER NOT NULL DEFAULT 0;`,

	// Detached builds go on after a restart, as they were asked for.
	`ALTER TABLE builds ADD COLUMN keep_going INTEGER NOT NULL DEFAULT 0;`,
}

// known fails for a version that a later program has made.
func known(version int) error {
	if version > len(migrations) {
		return newerError{version}
	}
	return nil
}

// newerError is ErrNewer with the file's version.
type newerError struct{ version int }

func (e newerError) Error() string {
	return fmt.Sprintf("%v: it has version %d, this program knows %d", ErrNewer, e.version, len(migrations))
}

// Hint says what to do.
func (newerError) Hint() string {
	return "use that drv-thru or a later one, or put back a backup of before it (drv-thru state backup --help says how)"
}

func (newerError) Unwrap() error { return ErrNewer }

func (d *DB) migrate(ctx context.Context) error {
	return d.inTx(ctx, func(tx *sql.Tx) error {
		var version int
		if err := tx.QueryRowContext(ctx, "PRAGMA user_version").Scan(&version); err != nil {
			return err
		}
		if err := known(version); err != nil {
			return err
		}
		for ; version < len(migrations); version++ {
			if _, err := tx.ExecContext(ctx, migrations[version]); err != nil {
				return fmt.Errorf("migrate to version %d: %w", version+1, err)
			}
		}
		// A pragma takes no parameters.
		_, err := tx.ExecContext(ctx, fmt.Sprintf("PRAGMA user_version = %d", version))
		return err
	})
}
