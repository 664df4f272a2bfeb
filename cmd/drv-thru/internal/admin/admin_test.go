package admin

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/drv-thru/drv-thru/cmd/drv-thru/internal/policies"
	"github.com/drv-thru/drv-thru/cmd/drv-thru/internal/state"
	"github.com/drv-thru/drv-thru/core/builder"
	"github.com/drv-thru/drv-thru/core/key"
	"github.com/drv-thru/drv-thru/core/ticket"
	"github.com/drv-thru/drv-thru/core/wire"
)

type service struct {
	paused, draining, cancelled bool
	ended                       []string
}

func (s *service) Status() builder.Status {
	return builder.Status{Load: builder.Load{Slots: 3, Paused: s.paused, Draining: s.draining}}
}
func (s *service) Pause(on bool) { s.paused = on }
func (s *service) Drain(on bool) { s.draining = on }
func (s *service) CollectGarbage(_ context.Context, dryRun bool) ([]builder.Garbage, error) {
	if dryRun {
		return []builder.Garbage{{What: builder.GarbageLog, Name: "a", Bytes: 5}}, nil
	}
	return nil, nil
}
func (s *service) CancelTicket(context.Context, ticket.ID) int {
	s.cancelled = true
	return 2
}
func (s *service) Cancel(_ context.Context, id wire.BuildID, why string) error {
	s.ended = append(s.ended, string(id)+" "+why)
	return nil
}
func (s *service) Builds() []builder.BuildStatus {
	return []builder.BuildStatus{
		{ID: "aaaaaaaaaaaaaaaaaaaaaaaaaa", State: wire.StateBuilding},
		{ID: "aaaaaaaaaaaaaaaaaaaaaaaaab", State: wire.StateFailed},
		{ID: "bbbbbbbbbbbbbbbbbbbbbbbbbb", State: wire.StateQueued},
	}
}
func (s *service) Events(_ context.Context, id wire.BuildID, w io.Writer, follow bool, flush func() error) error {
	switch {
	case id[0] == 'b':
		return wire.CodeNotFound.Err()
	case follow:
		_, err := io.WriteString(w, `{"seq":1,"type":"phase","state":"queued"}`+"\n\n")
		return errors.Join(err, flush(), errors.New("the disk is gone"))
	}
	_, err := io.WriteString(w, `{"seq":1,"type":"phase","state":"queued"}`+"\n\n"+`{"seq":2,"type":"phase","state":"building"}`+"\n")
	return errors.Join(err, flush())
}

func start(t *testing.T, change ...func(*Config)) (*Client, *service, string) {
	t.Helper()
	dir := t.TempDir()
	db, err := state.Open(t.Context(), filepath.Join(dir, "state.db"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	decider, err := policies.New(t.Context(), policies.Config{
		Dir: filepath.Join(dir, "policies"), Log: slog.New(slog.DiscardHandler), Now: time.Now, Record: db.AddDecision,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(decider.Close)
	svc := &service{}
	path := filepath.Join(dir, "s")
	l, err := Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	cfg := Config{
		Tickets: db, Service: svc, Policies: decider, Decisions: db, State: db, Builder: key.ID{1}, Relays: func() []string { return []string{"https://relay.example"} },
		Addresses: func() []netip.AddrPort { return []netip.AddrPort{netip.MustParseAddrPort("192.0.2.1:7412")} },
		Describe:  func(st *Status) { st.NixVersion = "2.99" }, Now: time.Now, Rand: rand.Reader,
	}
	for _, c := range change {
		c(&cfg)
	}
	srv := &http.Server{ReadHeaderTimeout: time.Minute, Handler: NewHandler(cfg)}
	go srv.Serve(l)
	t.Cleanup(func() { srv.Close() })
	return NewClient(path), svc, path
}

// A builder may have more relays, and more addresses, than a ticket has room for.
func TestTicketOfMuch(t *testing.T) {
	c, _, _ := start(t, func(cfg *Config) {
		cfg.Relays = func() (all []string) {
			for i := range ticket.MaxRelays + 1 {
				all = append(all, fmt.Sprintf("https://relay-%d.example", i))
			}
			return all
		}
		cfg.Addresses = func() (all []netip.AddrPort) {
			for i := range ticket.MaxDirect + 1 {
				all = append(all, netip.AddrPortFrom(netip.AddrFrom4([4]byte{192, 0, 2, 1}), uint16(7000+i)))
			}
			return all
		}
	})
	for _, direct := range []bool{false, true} {
		made, err := c.CreateTicket(t.Context(), NewTicket{Direct: direct})
		if err != nil {
			t.Errorf("direct %v: %v", direct, err)
			continue
		}
		if again, err := c.Reveal(t.Context(), made.ID.String()); err != nil || again.Text != made.Text {
			t.Errorf("direct %v: revealed %+v, %v", direct, again, err)
		}
		if parsed, err := ticket.Parse(made.Text); err != nil || len(parsed.Relays)+len(parsed.Direct) < ticket.MaxRelays {
			t.Errorf("direct %v: %+v, %v", direct, parsed, err)
		}
	}
}

func TestTickets(t *testing.T) {
	c, svc, _ := start(t)
	ctx := t.Context()
	made, err := c.CreateTicket(ctx, NewTicket{
		Name: "mine", Expires: ticket.DefaultExpiry, MaxUses: 2, Bind: key.ID{5}, Limits: ticket.Limits{NoFixedOutput: true},
	})
	if err != nil {
		t.Fatal(err)
	}
	parsed, err := ticket.Parse(made.Text)
	if err != nil || parsed.ID() != made.ID || parsed.Builder != (key.ID{1}) || parsed.Relays[0] != "https://relay.example" {
		t.Errorf("got %+v, %v", made, err)
	}
	for _, name := range []string{made.ID.String(), made.ID.String()[:6], "mine"} {
		got, err := c.Ticket(ctx, name)
		if err != nil || got.ID != made.ID || got.Bind != (key.ID{5}) || !got.Limits.NoFixedOutput || got.State != "usable" {
			t.Errorf("%s: %+v, %v", name, got, err)
		}
	}
	if again, err := c.Reveal(ctx, "mine"); err != nil || again.Text != made.Text {
		t.Errorf("revealed %+v, %v", again, err)
	}
	if _, err := c.CreateTicket(ctx, NewTicket{Name: "mine"}); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Ticket(ctx, "mine"); wire.CodeOf(err) != wire.CodeBadRequest {
		t.Errorf("two of one name: %v", err)
	}
	if r, err := c.Revoke(ctx, made.ID.String(), false); err != nil || r.Cancelled != 0 || svc.cancelled {
		t.Errorf("%+v, %v", r, err)
	}
	if r, err := c.Revoke(ctx, made.ID.String(), true); err != nil || r.Cancelled != 2 {
		t.Errorf("%+v, %v", r, err)
	}
	all, err := c.Tickets(ctx)
	if err != nil || len(all) != 2 || all[0].State != "revoked" || all[1].MaxUses != 0 || !all[1].Expires.IsZero() {
		t.Errorf("got %+v, %v", all, err)
	}
	for _, bad := range []NewTicket{{Name: "a\nb"}, {Name: strings.Repeat("x", 1000)}, {MaxUses: -1}} {
		if _, err := c.CreateTicket(ctx, bad); wire.CodeOf(err) != wire.CodeBadRequest {
			t.Errorf("%+v: %v", bad, err)
		}
	}
}

// What a later command asks for is refused by a builder that has not been restarted
// since, above all what a ticket is not to allow; and the owner is told why.
func TestLaterCommand(t *testing.T) {
	c, _, _ := start(t)
	for path, in := range map[string]any{
		"/v1/tickets":       map[string]any{"name": "x", "later": true},
		"/v1/later":         nil,
		"/v1/queue/explode": nil,
	} {
		_, err := call[json.RawMessage](t.Context(), c, http.MethodPost, path, in)
		var told *wire.Error
		if !errors.As(err, &told) || told.Hint != otherVersion {
			t.Errorf("%s: %v", path, err)
		}
	}
	if all, err := c.Tickets(t.Context()); err != nil || len(all) != 0 {
		t.Errorf("tickets %v, %v", all, err)
	}
}

func TestSteer(t *testing.T) {
	c, _, _ := start(t)
	for _, tt := range []struct {
		action           string
		paused, draining bool
	}{{"pause", true, false}, {"drain", true, true}, {"resume", false, true}, {"undrain", false, false}} {
		st, err := c.Steer(t.Context(), tt.action)
		if err != nil || st.Paused != tt.paused || st.Draining != tt.draining || st.NixVersion != "2.99" || st.Slots != 3 {
			t.Errorf("%s: %+v, %v", tt.action, st, err)
		}
	}
	if _, err := c.Steer(t.Context(), "explode"); wire.CodeOf(err) != wire.CodeNotFound {
		t.Errorf("got %v", err)
	}
}

func TestBuilds(t *testing.T) {
	c, svc, _ := start(t)
	ctx := t.Context()
	if all, err := c.Builds(ctx); err != nil || len(all) != 3 {
		t.Errorf("%+v, %v", all, err)
	}
	for id, code := range map[string]wire.Code{"x": wire.CodeNotFound, "bbb": wire.CodeNotFound, "aaaa": wire.CodeBadRequest} {
		if _, err := c.Build(ctx, id); wire.CodeOf(err) != code {
			t.Errorf("%s: %v", id, err)
		}
		if _, err := c.Cancel(ctx, id); wire.CodeOf(err) != code {
			t.Errorf("%s: %v", id, err)
		}
		if err := c.Events(ctx, id, false, nil); wire.CodeOf(err) != code {
			t.Errorf("%s: %v", id, err)
		}
	}
	if b, err := c.Build(ctx, "bbbb"); err != nil || b.State != wire.StateQueued {
		t.Errorf("%+v, %v", b, err)
	}
	// What has ended cannot be cancelled.
	if _, err := c.Cancel(ctx, "aaaaaaaaaaaaaaaaaaaaaaaaab"); wire.CodeOf(err) != wire.CodeBadRequest ||
		!strings.HasPrefix(err.Error(), "build aaaaaaaaaaaaaaaaaaaaaaaaab has ended already: ") {
		t.Errorf("got %v", err)
	}
	if _, err := c.Cancel(ctx, "bbbb"); err != nil || len(svc.ended) != 1 || !strings.HasPrefix(svc.ended[0], "bbbbbbbbbbbbbbbbbbbbbbbbbb by ") {
		t.Errorf("cancelled %q, %v", svc.ended, err)
	}
}

func TestEvents(t *testing.T) {
	c, _, _ := start(t)
	var seen []int64
	note := func(e *wire.Event) { seen = append(seen, e.Seq) }
	if err := c.Events(t.Context(), "aaaaaaaaaaaaaaaaaaaaaaaaaa", false, note); err != nil || len(seen) != 2 || seen[1] != 2 {
		t.Errorf("%d, %v", seen, err)
	}
	if err := c.Events(t.Context(), "bbbb", false, note); wire.CodeOf(err) != wire.CodeNotFound {
		t.Errorf("got %v", err)
	}
	// An answer that breaks off is no end.
	if err := c.Events(t.Context(), "aaaaaaaaaaaaaaaaaaaaaaaaaa", true, note); err == nil || len(seen) != 3 {
		t.Errorf("%d, %v", seen, err)
	}
}

func TestUsage(t *testing.T) {
	c, _, _ := start(t)
	if _, err := c.CreateTicket(t.Context(), NewTicket{Name: "mine", MaxUses: 3}); err != nil {
		t.Fatal(err)
	}
	if u, err := c.Usage(t.Context(), "mine"); err != nil || u.Ticket.MaxUses != 3 || u.Usage != (Usage{}) {
		t.Errorf("%+v, %v", u, err)
	}
	if _, err := c.Usage(t.Context(), "other"); wire.CodeOf(err) != wire.CodeNotFound {
		t.Errorf("got %v", err)
	}
}

func TestSocket(t *testing.T) {
	_, _, path := start(t)
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o660 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	if _, err := Listen(path); err == nil || !strings.Contains(err.Error(), "another builder is running") {
		t.Errorf("a second builder: %v", err)
	}
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Listen(file); err == nil {
		t.Error("a file was replaced")
	}
	// So is no socket that does not answer but has somebody who listens: of another
	// kind, as the system's log is, or one to which too many connect.
	kind := filepath.Join(t.TempDir(), "kind")
	other, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: kind, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	paths := []string{kind}
	if runtime.GOOS == "linux" { // others refuse as if nobody listened
		paths = append(paths, busySocket(t))
	}
	for _, path := range paths {
		if l, err := Listen(path); err == nil {
			l.Close()
			t.Errorf("%s was replaced", path)
		}
		if _, err := os.Stat(path); err != nil {
			t.Errorf("it is gone: %v", err)
		}
	}
	// What a killed builder left is replaced.
	dead := filepath.Join(t.TempDir(), "dead")
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: dead, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	l.SetUnlinkOnClose(false)
	l.Close()
	_, err = NewClient(dead).Status(t.Context())
	var unreachable *SocketError
	if !errors.As(err, &unreachable) || unreachable.Exit() != wire.ExitUnreachable || unreachable.Hint() == "" {
		t.Errorf("got %v", err)
	}
	fresh, err := Listen(dead)
	if err != nil {
		t.Fatal(err)
	}
	if err := fresh.Close(); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(dead); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the socket stays: %v", err)
	}
}

// While systemd has the socket, it can be connected to whether the builder comes up
// or not.
func TestSocketWithoutBuilder(t *testing.T) {
	path := filepath.Join(t.TempDir(), "socket")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	c := newClient(path, time.Millisecond)
	_, status := c.Status(t.Context())
	_, backup := c.Backup(t.Context(), io.Discard)
	for what, err := range map[string]error{"status": status, "backup": backup} {
		var silent *SilentError
		if !errors.As(err, &silent) || silent.Exit() != wire.ExitUnreachable || silent.Hint() == "" {
			t.Errorf("%s: %v", what, err)
		}
	}
}

// busySocket is a socket whose owner accepts nothing: Linux says EAGAIN to who connects.
func busySocket(t *testing.T) string {
	t.Helper()
	at := &unix.SockaddrUnix{Name: filepath.Join(t.TempDir(), "busy")}
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	if err := errors.Join(unix.Bind(fd, at), unix.Listen(fd, 0)); err != nil {
		t.Fatal(err)
	}
	c, err := net.Dial("unix", at.Name) // which is all that it has room for
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return at.Name
}

func TestCollectGarbage(t *testing.T) {
	c, _, _ := start(t)
	if got, err := c.CollectGarbage(t.Context(), true); err != nil || len(got) != 1 || got[0].Bytes != 5 {
		t.Errorf("%+v, %v", got, err)
	}
	if got, err := c.CollectGarbage(t.Context(), false); err != nil || len(got) != 0 {
		t.Errorf("%+v, %v", got, err)
	}
}

// A ticket for a builder without a relay holds the builder's own addresses.
func TestDirectTickets(t *testing.T) {
	c, _, _ := start(t)
	made, err := c.CreateTicket(t.Context(), NewTicket{Name: "near", Direct: true})
	if err != nil {
		t.Fatal(err)
	}
	parsed, err := ticket.Parse(made.Text)
	if err != nil || len(parsed.Relays) != 0 || len(parsed.Direct) != 1 || parsed.Direct[0] != netip.MustParseAddrPort("192.0.2.1:7412") {
		t.Errorf("got %+v, %v", parsed.Direct, err)
	}
	if again, err := c.Reveal(t.Context(), "near"); err != nil || again.Text != made.Text {
		t.Errorf("revealed %+v, %v", again, err)
	}
}
