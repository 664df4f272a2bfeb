package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"sync/atomic"
	"time"

	"github.com/drv-thru/drv-thru/cmd/drv-thru/internal/admin"
	"github.com/drv-thru/drv-thru/cmd/drv-thru/internal/policies"
	"github.com/drv-thru/drv-thru/cmd/drv-thru/internal/state"
	"github.com/drv-thru/drv-thru/core/builder"
	"github.com/drv-thru/drv-thru/core/key"
	"github.com/drv-thru/drv-thru/core/ticket"
	"github.com/drv-thru/drv-thru/core/wire"
)

// fakeBuilder is the admin side of a builder with real state and without Nix,
// until it is interrupted: fake-builder SOCKET.
func fakeBuilder() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	path := os.Args[1]
	db, err := state.Open(ctx, filepath.Join(filepath.Dir(path), "state.db"))
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	defer db.Close()
	l, err := admin.Listen(path)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	decider, err := policies.New(ctx, policies.Config{
		Policies: map[string]policies.Policy{
			"half":   {Settings: json.RawMessage(`{"limits":{"max_build_seconds":900}}`)},
			"strict": {Settings: json.RawMessage(`{"unknown":1}`)},
			"watch":  {Settings: json.RawMessage(`{"unknown":1}`), Mode: policies.Monitor},
			"file":   {Module: filepath.Join(filepath.Dir(path), "p.wasm")},
		},
		Dir: filepath.Join(filepath.Dir(path), "policies"), Log: slog.New(slog.DiscardHandler), Now: time.Now, Record: db.AddDecision,
		Wall: time.Minute,
	})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	srv := &http.Server{ReadHeaderTimeout: time.Minute, Handler: admin.NewHandler(admin.Config{
		Tickets: db, Service: fakeService{}, Policies: decider, Decisions: db, State: db, Builder: key.ID{1},
		Relays: func() []string { return []string{"http://relay.example:7411"} },
		Describe: func(st *admin.Status) {
			st.NixVersion, st.SigningKey, st.Systems = "2.34.8", "builder-1:AAAA", []string{"x86_64-linux"}
			st.Started = time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC)
			st.Relays = []admin.Relay{{URL: "http://relay.example:7411"}}
		},
		Now: time.Now, Rand: new(randomBytes),
	})}
	go func() {
		<-ctx.Done()
		_ = srv.Close()
	}()
	_ = srv.Serve(l)
}

// randomBytes are the same in each process, so that scripts know the tickets.
type randomBytes struct{ read byte }

func (r *randomBytes) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = byte(i) + r.read
	}
	r.read++
	return len(p), nil
}

type fakeService struct{}

func (fakeService) Status() builder.Status {
	at := time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC)
	return builder.Status{
		Load: builder.Load{Slots: 2, Running: 1, Waiting: 1, Paused: paused.Load(), Draining: draining.Load()},
		Active: []builder.BuildStatus{
			{ID: "aaaaaaaaaaaaaaaaaaaaaaaaaa", Client: key.ID{2}, ClientName: "laptop", Labels: []string{".#hello"},
				State: wire.StateBuilding, Created: at, Started: at},
			{ID: "bbbbbbbbbbbbbbbbbbbbbbbbbb", Client: key.ID{3}, Labels: []string{"\x1b[31mred"}, State: wire.StateQueued, Position: 1, Created: at},
		},
		Recent: []builder.BuildStatus{
			{ID: "cccccccccccccccccccccccccc", Client: key.ID{3}, Labels: []string{".#broken"}, State: wire.StateFailed, Created: at,
				Started: at, Ended: at.Add(65 * time.Second), Result: &wire.Result{Error: wire.CodeBuildFailed.Err()}},
		},
	}
}

func (f fakeService) Builds() []builder.BuildStatus {
	st := f.Status()
	return slices.Concat(st.Active, st.Recent)
}

func (fakeService) Events(_ context.Context, id wire.BuildID, w io.Writer, _ bool, _ func() error) error {
	if id[0] == 'b' {
		return wire.Errorf(wire.CodeNotFound, "the build's events are no longer kept")
	}
	drv := wire.Field{Str: "/nix/store/00000000000000000000000000000000-broken-1.drv", IsText: true}
	enc := json.NewEncoder(w)
	for i, e := range []wire.Event{
		{Type: wire.EventPhase, State: wire.StateBuilding},
		{Type: wire.EventStart, Activity: &wire.Activity{ID: 1, Type: 105, Fields: []wire.Field{drv}}},
		{Type: wire.EventLog, Log: wire.NewLog(1, []byte("it does not \x1b[2Jcompile"), false)},
		{Type: wire.EventLog, Log: wire.NewLog(0, []byte("builder failed with exit code 1"), false)},
		{Type: wire.EventStop, Activity: &wire.Activity{ID: 1}},
	} {
		e.Seq = int64(i + 1)
		if err := enc.Encode(e); err != nil {
			return err
		}
	}
	return nil
}

func (fakeService) Cancel(context.Context, wire.BuildID, string) error { return nil }
func (fakeService) CancelTicket(context.Context, ticket.ID) int        { return 3 }
func (fakeService) CollectGarbage(_ context.Context, dryRun bool) ([]builder.Garbage, error) {
	return []builder.Garbage{
		{What: builder.GarbageOutputs, Name: "cccccccccccccccccccccccccc", Bytes: 5 << 30},
		{What: builder.GarbageLog, Name: "cccccccccccccccccccccccccc", Bytes: 3 << 20},
	}, nil
}

// paused and draining are the fake builder's, which is a process of its own.
var paused, draining atomic.Bool

func (fakeService) Pause(on bool) { paused.Store(on) }
func (fakeService) Drain(on bool) { draining.Store(on) }
