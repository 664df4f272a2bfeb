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
}

func (d *DB) migrate(ctx context.Context) error {
	return d.inTx(ctx, func(tx *sql.Tx) error {
		var version int
		if err := tx.QueryRowContext(ctx, "PRAGMA user_version").Scan(&version); err != nil {
			return err
		}
		if version > len(migrations) {
			return fmt.Errorf("%w: it has version %d, this program knows %d", ErrNewer, version, len(migrations))
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
