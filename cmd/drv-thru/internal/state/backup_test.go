package state

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
)

func TestSnapshot(t *testing.T) {
	dir := t.TempDir()
	d, err := Open(t.Context(), filepath.Join(dir, "state.db"))
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	tk := makeTicket(t, d, nil)
	f, err := d.Snapshot(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if left, _ := filepath.Glob(filepath.Join(dir, ".backup-*")); len(left) > 0 {
		t.Errorf("left %v", left)
	}
	data, err := io.ReadAll(f)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "copy.db")
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
	c, err := Open(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := c.Ticket(t.Context(), tk.ID); err != nil {
		t.Error(err)
	}
}

// A process that dies while it makes a snapshot leaves secrets behind.
func TestSnapshotCutOff(t *testing.T) {
	dir := t.TempDir()
	left := filepath.Join(dir, ".backup-123", "state.db")
	if err := os.Mkdir(filepath.Dir(left), 0o700); err != nil {
		t.Fatal(err)
	}
	others, kept := filepath.Join(dir, ".backup-of-mine"), filepath.Join(dir, "builds")
	if err := os.Mkdir(kept, 0o700); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{left, others} {
		if err := os.WriteFile(path, []byte("secret"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	d, err := Open(t.Context(), filepath.Join(dir, "state.db"))
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	if _, err := os.Lstat(filepath.Dir(left)); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("it is there after the next start: %v", err)
	}
	for _, path := range []string{others, kept} {
		if _, err := os.Lstat(path); err != nil {
			t.Errorf("something that is none: %v", err)
		}
	}
}

func TestCheck(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "state.db")
	if err := Check(t.Context(), path); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("nothing there: %v", err)
	}
	d, err := Open(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	makeTicket(t, d, nil)
	// In use, and after that.
	if err := Check(t.Context(), path); err != nil {
		t.Error(err)
	}
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	if err := Check(t.Context(), path); err != nil {
		t.Error(err)
	}
	if d, err = Open(t.Context(), path); err != nil {
		t.Fatal(err)
	}
	if _, err := d.db.ExecContext(t.Context(), "PRAGMA user_version = 99"); err != nil {
		t.Fatal(err)
	}
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	if err := Check(t.Context(), path); !errors.Is(err, ErrNewer) {
		t.Errorf("a newer one: %v", err)
	}
	for name, data := range map[string]string{"empty": "", "damaged": "this is no database, however long it is made to be by this"} {
		bad := filepath.Join(dir, name)
		if err := os.WriteFile(bad, []byte(data), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := Check(t.Context(), bad); !errors.Is(err, ErrCorrupt) {
			t.Errorf("%s: %v", name, err)
		}
		if got, err := os.ReadFile(bad); err != nil || string(got) != data {
			t.Errorf("%s was changed to %q, %v", name, got, err)
		}
	}
}
