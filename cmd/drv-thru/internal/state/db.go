package state

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	_ "modernc.org/sqlite" // the driver "sqlite"
)

// ErrCorrupt means that the file is damaged. The error's text says what to do.
var ErrCorrupt = errors.New("state database is damaged")

// ErrNewer means that a newer drv-thru has written the file.
var ErrNewer = errors.New("state database was written by a newer drv-thru")

// DB is the open state.
type DB struct {
	db   *sql.DB
	path string
	// ticket finds a ticket that is not remembered.
	ticket     *sql.Stmt
	remembered remembered
}

// Open opens the state at path, makes it when there is no file, and brings an
// older one up to date. A new file appears under its name only when it is
// complete, so that an empty one is always a damaged one. No other process may
// have it open.
func Open(ctx context.Context, path string) (*DB, error) {
	if err := removeSnapshots(filepath.Dir(path)); err != nil {
		return nil, fmt.Errorf("open state database: %w", err)
	}
	info, err := os.Stat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		if err := create(ctx, path); err != nil {
			return nil, err
		}
	case err != nil:
		return nil, fmt.Errorf("open state database: %w", err)
	case info.Size() == 0:
		return nil, &CorruptError{Path: path, Err: errors.New("the file is empty")}
	}
	return open(ctx, path)
}

// create makes an empty database beside path and renames it.
func create(ctx context.Context, path string) error {
	fresh := path + ".new"
	if err := os.Remove(fresh); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("make state database: %w", err)
	}
	d, err := open(ctx, fresh)
	if err != nil {
		return err
	}
	// Closing the last connection also removes the write-ahead log.
	if err := d.Close(); err != nil {
		return err
	}
	// SQLite would take what a file that is gone has left for this one's.
	for _, end := range []string{"-wal", "-shm"} {
		if err := os.Remove(path + end); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("make state database: %w", err)
		}
	}
	if err := os.Rename(fresh, path); err != nil {
		return fmt.Errorf("make state database: %w", err)
	}
	return nil
}

func open(ctx context.Context, path string) (*DB, error) {
	if err := secure(path); err != nil {
		return nil, err
	}
	query := url.Values{"_txlock": {"immediate"}, "_pragma": {
		"journal_mode(WAL)", "synchronous(FULL)", "foreign_keys(ON)", "busy_timeout(10000)", "trusted_schema(OFF)",
	}}
	db, err := sql.Open("sqlite", "file:"+(&url.URL{Path: path}).EscapedPath()+"?"+query.Encode())
	if err != nil {
		return nil, fmt.Errorf("open state database: %w", err)
	}
	// SQLite writes one at a time anyway; one connection never finds itself busy.
	db.SetMaxOpenConns(1)
	d := &DB{db: db, path: path}
	if err := d.prepare(ctx); err != nil {
		db.Close()
		return nil, d.explain(err)
	}
	return d, nil
}

// secure makes the file with mode 0600 before SQLite does with the umask's: it
// holds ticket secrets.
func secure(path string) error {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return fmt.Errorf("open state database: %w", err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return fmt.Errorf("open state database: %w", err)
	}
	if info.Mode().Perm()&0o077 != 0 {
		if err := f.Chmod(0o600); err != nil {
			return fmt.Errorf("open state database: %w", err)
		}
	}
	return nil
}

func (d *DB) prepare(ctx context.Context) error {
	if err := d.quickCheck(ctx); err != nil {
		return err
	}
	if err := d.migrate(ctx); err != nil {
		return err
	}
	var err error
	d.ticket, err = d.db.PrepareContext(ctx, ticketQuery)
	return err
}

func (d *DB) quickCheck(ctx context.Context) error {
	var verdict string
	if err := d.db.QueryRowContext(ctx, "PRAGMA quick_check(1)").Scan(&verdict); err != nil {
		return err
	}
	if verdict != "ok" {
		return fmt.Errorf("%w: %s", ErrCorrupt, verdict)
	}
	return nil
}

// explain names what can be done about a damaged file.
func (d *DB) explain(err error) error {
	text := err.Error()
	switch {
	case errors.Is(err, ErrCorrupt), strings.Contains(text, "malformed"), strings.Contains(text, "not a database"):
		return &CorruptError{Path: d.path, Err: err}
	}
	return fmt.Errorf("open state database %s: %w", d.path, err)
}

// CorruptError says which file is damaged.
type CorruptError struct {
	Path string
	Err  error
}

func (e *CorruptError) Error() string {
	return fmt.Sprintf("state database %s is damaged: %v", e.Path, e.Err)
}

// Hint says what to do; nothing is done by itself, since an empty database would
// make every ticket unknown and every limit forgotten.
func (e *CorruptError) Hint() string {
	return fmt.Sprintf("stop the builder, then put back a backup (drv-thru state backup --help says how), or try: sqlite3 %s .recover | sqlite3 recovered.db\n"+
		"to begin anew without tickets and history, move the file away: mv %s %s.damaged", e.Path, e.Path, e.Path)
}

func (e *CorruptError) Unwrap() error { return e.Err }

// Is makes errors.Is(err, ErrCorrupt) work however the damage showed.
func (e *CorruptError) Is(target error) bool { return target == ErrCorrupt }

// Close closes the file.
func (d *DB) Close() error {
	if err := d.db.Close(); err != nil {
		return fmt.Errorf("close state database: %w", err)
	}
	return nil
}

// inTx runs f in a transaction that is committed unless f fails.
func (d *DB) inTx(ctx context.Context, f func(*sql.Tx) error) error {
	tx, err := d.db.BeginTx(ctx, nil)
	if err != nil {
		return fmt.Errorf("state database: %w", err)
	}
	defer tx.Rollback() //nolint:errcheck // after Commit there is nothing to roll back
	if err := f(tx); err != nil {
		return err
	}
	if err := tx.Commit(); err != nil {
		return fmt.Errorf("state database: %w", err)
	}
	return nil
}

// readAll reads what a query finds.
func readAll[T any](ctx context.Context, d *DB, what string, scan func(scanner) (T, error), query string, args ...any) ([]T, error) {
	rows, err := d.db.QueryContext(ctx, query, args...)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", what, err)
	}
	defer rows.Close()
	all := []T{}
	for rows.Next() {
		x, err := scan(rows)
		if err != nil {
			return nil, err
		}
		all = append(all, x)
	}
	return all, rows.Err()
}

// Times are stored as nanoseconds since 1970; 0 is "not".
func toNanos(t time.Time) int64 {
	switch {
	case t.IsZero():
		return 0
	case t.After(lastTime):
		t = lastTime
	}
	return t.UnixNano()
}

// lastTime is in 2262, which a ticket of centuries outlives.
var lastTime = time.Unix(0, math.MaxInt64)

func fromNanos(n int64) time.Time {
	if n == 0 {
		return time.Time{}
	}
	return time.Unix(0, n).UTC()
}
