package state

import (
	"bufio"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/drv-thru/drv-thru/core/builder"
	"github.com/drv-thru/drv-thru/core/key"
	"github.com/drv-thru/drv-thru/core/ticket"
	"github.com/drv-thru/drv-thru/core/wire"
)

// writerEnv names the database that this program writes to instead of testing.
const writerEnv = "DRV_THRU_TEST_WRITER"

func TestMain(m *testing.M) {
	if path := os.Getenv(writerEnv); path != "" {
		if err := writeForEver(path); err != nil {
			fmt.Fprintln(os.Stderr, err)
		}
		os.Exit(1)
	}
	os.Exit(m.Run())
}

const writers = 4

// writeForEver has writers make tickets, admit builds with them and end some,
// each saying what it has done once that is certain.
func writeForEver(path string) error {
	ctx := context.Background()
	d, err := Open(ctx, path)
	if err != nil {
		return err
	}
	failed := make(chan error, writers)
	var mu sync.Mutex
	say := func(format string, args ...any) {
		mu.Lock()
		defer mu.Unlock()
		fmt.Printf(format+"\n", args...)
	}
	for w := range uint32(writers) {
		go func() { failed <- write(ctx, d, w, say) }()
	}
	return <-failed
}

func write(ctx context.Context, d *DB, writer uint32, say func(string, ...any)) error {
	for n := writer; ; n += writers {
		// One use is spent of it, and one is left.
		tk := builder.TicketRecord{Secret: ticket.Secret{1, byte(n), byte(n >> 8), byte(n >> 16)}, Name: fmt.Sprint(n), Created: now, MaxUses: 2}
		tk.ID = tk.Secret.ID()
		if err := d.CreateTicket(ctx, tk); err != nil {
			return err
		}
		say("ticket %d", n)
		b := numberedBuild(n, tk)
		if err := d.Admit(ctx, b); err != nil {
			return err
		}
		say("admitted %d", n)
		b.State, b.Ended, b.Result = wire.StateBuilt, now, &wire.Result{UploadBytes: uint64(n) + 1}
		if err := d.UpdateBuild(ctx, b); err != nil {
			return err
		}
		say("ended %d", n)
	}
}

func numberedBuild(n uint32, tk builder.TicketRecord) builder.BuildRecord {
	raw := make([]byte, 16)
	binary.BigEndian.PutUint32(raw, n)
	id, err := wire.NewBuildID(reader(raw))
	if err != nil {
		panic(err)
	}
	return builder.BuildRecord{ID: id, Client: key.ID{9}, Ticket: tk.ID, State: wire.StateUploading, Created: now}
}

// What was acknowledged is there after kill -9, whenever that comes.
func TestKilledAtAnyMoment(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state.db")
	for round, lines := range []int{1, 9, 50} {
		said := killedWriter(t, path, lines)
		d, err := Open(t.Context(), path)
		if err != nil {
			t.Fatalf("round %d: %v", round, err)
		}
		for line := range strings.Lines(said) {
			what, number, _ := strings.Cut(strings.TrimSpace(line), " ")
			n, err := strconv.ParseUint(number, 10, 32)
			if err != nil {
				continue // cut off
			}
			checkKept(t, d, what, uint32(n))
		}
		if err := d.Close(); err != nil {
			t.Error(err)
		}
		if t.Failed() {
			t.Fatalf("round %d, killed after %d lines", round, lines)
		}
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
	}
}

// killedWriter runs a writer until it has said so many lines, kills it and
// returns all that it has said.
func killedWriter(t *testing.T, path string, lines int) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), os.Args[0])
	cmd.Env = append(os.Environ(), writerEnv+"="+path)
	cmd.Stderr = t.Output()
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	r := bufio.NewReader(out)
	var said strings.Builder
	for range lines {
		line, err := r.ReadString('\n')
		said.WriteString(line)
		if err != nil {
			break // it has failed, which Wait's error tells
		}
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(&said, r); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err == nil || cmd.ProcessState.Exited() {
		t.Fatalf("the writer ended by itself: %v", err)
	}
	return said.String()
}

func checkKept(t *testing.T, d *DB, what string, n uint32) {
	t.Helper()
	id := ticket.Secret{1, byte(n), byte(n >> 8), byte(n >> 16)}.ID()
	tk, err := d.Ticket(t.Context(), id)
	if err != nil {
		t.Errorf("ticket %d is lost: %v", n, err)
		return
	}
	b, err := recorded(t, d, numberedBuild(n, tk).ID)
	if recorded := err == nil; recorded != (tk.Used == 1) {
		t.Errorf("ticket %d has %d uses spent, its build: %v", n, tk.Used, err)
	}
	u := usageOf(t, d, tk, now, "")
	if int64(tk.Used) != u.Ticket.Builds {
		t.Errorf("ticket %d has %d uses spent, %d builds are counted", n, tk.Used, u.Ticket.Builds)
	}
	switch {
	case what == "ticket":
	case err != nil:
		t.Errorf("build %d is lost: %v", n, err)
	case what == "ended" && (b.State != wire.StateBuilt || u.Ticket.Active != 0 || u.Ticket.UploadBytes != uint64(n)+1):
		t.Errorf("the end of build %d is lost: %s, %+v", n, b.State, u.Ticket)
	}
}
