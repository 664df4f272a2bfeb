package state

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strings"
)

// snapshotPrefix begins the name of the directory of a snapshot that is being made.
const snapshotPrefix = ".backup-"

// Snapshot copies the state, while it is in use, to a file that has no name any
// more: it is gone when it is closed.
func (d *DB) Snapshot(ctx context.Context) (*os.File, error) {
	dir, err := os.MkdirTemp(filepath.Dir(d.path), snapshotPrefix) // nobody else can enter it
	if err != nil {
		return nil, fmt.Errorf("back up state: %w", err)
	}
	defer os.RemoveAll(dir)
	path := filepath.Join(dir, "state.db")
	if _, err := d.db.ExecContext(ctx, "VACUUM INTO ?", path); err != nil {
		return nil, fmt.Errorf("back up state: %w", err)
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("back up state: %w", err)
	}
	return f, nil
}

// removeSnapshots removes what a process that died has left of its snapshots in dir,
// which is the secrets of tickets.
func removeSnapshots(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if e.IsDir() && strings.HasPrefix(e.Name(), snapshotPrefix) {
			if err := os.RemoveAll(filepath.Join(dir, e.Name())); err != nil {
				return err
			}
		}
	}
	return nil
}

// Check says what is wrong with the database at path, without changing it, while
// it may be in use. Its error is fs.ErrNotExist when there is none.
func Check(ctx context.Context, path string) error {
	info, err := os.Stat(path)
	if err != nil {
		return fmt.Errorf("open state database: %w", err)
	}
	if info.Size() == 0 {
		return &CorruptError{Path: path, Err: errors.New("the file is empty")}
	}
	query := url.Values{"mode": {"ro"}, "_pragma": {"busy_timeout(10000)", "trusted_schema(OFF)"}}
	db, err := sql.Open("sqlite", "file:"+(&url.URL{Path: path}).EscapedPath()+"?"+query.Encode())
	if err != nil {
		return fmt.Errorf("open state database: %w", err)
	}
	defer db.Close()
	d := &DB{db: db, path: path}
	if err := d.quickCheck(ctx); err != nil {
		return d.explain(err)
	}
	var version int
	if err := db.QueryRowContext(ctx, "PRAGMA user_version").Scan(&version); err != nil {
		return d.explain(err)
	}
	if err := known(version); err != nil {
		return d.explain(err)
	}
	return nil
}
