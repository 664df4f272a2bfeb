package main

import (
	"bytes"
	"context"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/drv-thru/drv-thru/cmd/drv-thru/internal/term"
	"github.com/drv-thru/drv-thru/core/client"
	"github.com/drv-thru/drv-thru/core/wire"
)

// answering is a transport on which every request gets the same answer.
type answering func() error

func (answer answering) RoundTrip(*http.Request) (*http.Response, error) {
	w := httptest.NewRecorder()
	wire.WriteError(w, answer())
	return w.Result(), nil
}

// Whoever could not import what a use of a ticket was spent on is told how to have it,
// unless it is not to be had any more.
func TestFailedImportTellsOfOutputs(t *testing.T) {
	ctx, interrupt := context.WithCancelCause(t.Context())
	defer interrupt(nil)
	for name, c := range map[string]struct {
		answer answering
		ctx    context.Context
		told   bool
	}{
		"failed":    {func() error { return wire.CodeStore.Err() }, t.Context(), true},
		"interrupt": {func() error { interrupt(errInterrupted); return wire.CodeRate.Err() }, ctx, true},
		"revoked":   {func() error { return wire.CodeTicketRevoked.Err() }, t.Context(), false},
		"forgotten": {func() error { return wire.CodeNotFound.Err() }, t.Context(), false},
	} {
		var shown bytes.Buffer
		a := &app{stderr: &shown}
		p := term.New(&shown, a.env)
		r := &buildRun{app: a, log: slog.New(slog.DiscardHandler), flags: &buildFlags{importMode: "http"}, printer: p, view: term.NewProgress(p, term.Config{})}
		s := &client.Session{API: &client.API{Control: c.answer, Bulk: c.answer, Base: "http://builder/"}, Observer: r.view, Retry: client.DefaultRetry}
		in := &incoming{buildRun: r, session: s, id: "someid", signingKey: "b-1:" + strings.Repeat("A", 43) + "=", sum: &summary{result: &wire.Result{}}}
		err := in.take(c.ctx, nil)
		r.view.Close()
		p.Close()
		if told := strings.Contains(shown.String(), "drv-thru attach someid"); err == nil || told != c.told {
			t.Errorf("%s: %v, shown is %q", name, err, &shown)
		}
	}
}
