package main

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/drv-thru/drv-thru/core/client"
	"github.com/drv-thru/drv-thru/core/key"
	"github.com/drv-thru/drv-thru/core/ticket"
	"github.com/drv-thru/drv-thru/core/wire"
)

type answers func(*http.Request) wire.Build

func (f answers) RoundTrip(req *http.Request) (*http.Response, error) {
	text, err := json.Marshal(f(req))
	return &http.Response{StatusCode: http.StatusOK, Body: io.NopCloser(strings.NewReader(string(text)))}, err
}

// A build that ends before the request to cancel it arrives was not cancelled.
func TestCancelTooLate(t *testing.T) {
	const id = wire.BuildID("aaaaaaaaaaaaaaaaaaaaaaaaaa")
	for end, cancelled := range map[wire.State]bool{
		wire.StateBuilt: false, wire.StateFailed: false, wire.StateCancelled: true,
		wire.StateBuilding: true, // it takes its time
	} {
		rt := answers(func(req *http.Request) wire.Build {
			if req.Method == http.MethodDelete {
				return wire.Build{ID: id, State: end}
			}
			return wire.Build{ID: id, State: wire.StateBuilding}
		})
		s := &client.Session{API: &client.API{Control: rt, Bulk: rt, Base: "https://builder/"}, Retry: client.DefaultRetry, Observer: &eventsOnly{}, Now: time.Now}
		if _, err := cancelRemote(context.Background(), s, id); (err == nil) != cancelled {
			t.Errorf("%s: %v", end, err)
		}
	}
}

// As of every other command, that somebody has ended it is told by the exit code.
func TestRemoteCommandInterrupted(t *testing.T) {
	for _, command := range []string{"log", "cancel"} {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		ctx, interrupt := context.WithCancel(t.Context())
		go func() {
			if c, err := l.Accept(); err == nil {
				defer c.Close()
			}
			interrupt()
		}()
		t.Setenv("DRV_THRU_TICKET", (&ticket.Ticket{Builder: key.ID{1}, Relays: []string{"http://" + l.Addr().String()}}).String())
		var stderr strings.Builder
		code := run(ctx, []string{command, strings.Repeat("a", 26)}, nil, io.Discard, &stderr, os.Environ())
		if code != exitInterrupted || stderr.String() != "error: interrupted\n" {
			t.Errorf("%s: exit code %d, %q", command, code, stderr.String())
		}
	}
}

// What a builder says while it is waited for does not steer the terminal.
func TestNotesArePlain(t *testing.T) {
	var stderr bytes.Buffer
	(&app{stderr: &stderr}).note("too many requests at once: \x1b[2Jgone\a; trying again")
	if text := stderr.String(); strings.ContainsAny(text, "\x1b\a") || !strings.Contains(text, "gone") || !strings.HasSuffix(text, "again\n") {
		t.Errorf("%q", text)
	}
}
