package admin

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"

	"github.com/drv-thru/drv-thru/core/builder"
	"github.com/drv-thru/drv-thru/core/wire"
)

// minPrefix is how much of the ID of a build or a ticket names it.
const minPrefix = 4

func (s *server) builds(*http.Request) (any, error) { return s.cfg.Service.Builds(), nil }

// findBuild returns the build of the request; a unique beginning of its ID does.
func (s *server) findBuild(r *http.Request) (builder.BuildStatus, error) {
	want := r.PathValue("id")
	var found []builder.BuildStatus
	for _, b := range s.cfg.Service.Builds() {
		if string(b.ID) == want {
			return b, nil
		}
		if len(want) >= minPrefix && strings.HasPrefix(string(b.ID), want) {
			found = append(found, b)
		}
	}
	switch len(found) {
	case 0:
		return builder.BuildStatus{}, wire.Errorf(wire.CodeNotFound, "the builder knows no build %.60q", want).WithHint("see: drv-thru builds list")
	case 1:
		return found[0], nil
	}
	return builder.BuildStatus{}, wire.Errorf(wire.CodeBadRequest, "%d builds begin with %q", len(found), want).
		WithHint("use the full ID from: drv-thru builds list")
}

func (s *server) build(r *http.Request) (any, error) { return s.findBuild(r) }

func (s *server) cancel(r *http.Request) (any, error) {
	b, err := s.findBuild(r)
	if err != nil {
		return nil, err
	}
	if b.State.Ended() {
		return nil, wire.Errorf(wire.CodeBadRequest, "build %s has ended already: %s", b.ID, b.State)
	}
	if err := s.cfg.Service.Cancel(r.Context(), b.ID, "by the builder's owner"); err != nil {
		return nil, err
	}
	return s.findBuild(r)
}

// events streams a build's events.
func (s *server) events(w http.ResponseWriter, r *http.Request) {
	b, err := s.findBuild(r)
	if err != nil {
		wire.WriteError(w, ownersError(err))
		return
	}
	w.Header().Set("Content-Type", wire.TypeEvents)
	begun := &begunWriter{ResponseWriter: w}
	rc := http.NewResponseController(w)
	err = s.cfg.Service.Events(r.Context(), b.ID, begun, r.URL.Query().Get("follow") == "true", rc.Flush)
	switch {
	case err == nil:
	case begun.yes:
		panic(http.ErrAbortHandler) // the reader has to see that this is no end
	default:
		wire.WriteError(w, ownersError(err))
	}
}

// begunWriter knows whether an answer has begun.
type begunWriter struct {
	http.ResponseWriter
	yes bool
}

func (b *begunWriter) Write(p []byte) (int, error) {
	b.yes = true
	return b.ResponseWriter.Write(p)
}

func (s *server) usage(r *http.Request) (any, error) {
	t, err := s.find(r)
	if err != nil {
		return nil, err
	}
	now := s.cfg.Now()
	all, err := s.cfg.Tickets.Usage(r.Context(), builder.UsageQuery{Ticket: t.ID, Name: t.Name, Now: now})
	if err != nil {
		return nil, err
	}
	return TicketUsage{Ticket: ticketOf(t, now), Usage: usageOf(all.Ticket), Name: usageOf(all.Name)}, nil
}

// Usage is what builds have used.
type Usage struct {
	Builds       int64   `json:"builds"`      // ever started
	BuildsHour   int64   `json:"builds_hour"` // of them, in the last hour
	BuildsDay    int64   `json:"builds_day"`
	Active       int64   `json:"active"` // not ended
	UploadBytes  uint64  `json:"upload_bytes"`
	OutputBytes  uint64  `json:"output_bytes"`
	BuildSeconds float64 `json:"build_seconds"`
}

func usageOf(u builder.Usage) Usage {
	return Usage{u.Builds, u.BuildsHour, u.BuildsDay, u.Active, u.UploadBytes, u.OutputBytes, u.BuildTime.Seconds()}
}

// TicketUsage is what the builds of a ticket have used.
type TicketUsage struct {
	Ticket Ticket `json:"ticket"`
	Usage  Usage  `json:"usage"`
	// Name counts all tickets of its name.
	Name Usage `json:"name_usage"`
}

// Builds lists the builds that are remembered: those under way, then the ended
// ones, the newest first.
func (c *Client) Builds(ctx context.Context) ([]builder.BuildStatus, error) {
	return list[builder.BuildStatus](ctx, c, http.MethodGet, "/v1/builds")
}

// Build finds a build by its ID or a beginning of it.
func (c *Client) Build(ctx context.Context, id string) (*builder.BuildStatus, error) {
	return call[builder.BuildStatus](ctx, c, http.MethodGet, "/v1/builds/"+url.PathEscape(id), nil)
}

// Cancel ends a build.
func (c *Client) Cancel(ctx context.Context, id string) (*builder.BuildStatus, error) {
	return call[builder.BuildStatus](ctx, c, http.MethodDelete, "/v1/builds/"+url.PathEscape(id), nil)
}

// Usage asks what the builds of a ticket have used.
func (c *Client) Usage(ctx context.Context, id string) (*TicketUsage, error) {
	return call[TicketUsage](ctx, c, http.MethodGet, "/v1/tickets/"+url.PathEscape(id)+"/usage", nil)
}

// Events hands the events of a build to fn, in order: those that there are or,
// with follow, all until its end.
func (c *Client) Events(ctx context.Context, id string, follow bool, fn func(*wire.Event)) error {
	path := "/v1/builds/" + url.PathEscape(id) + "/events"
	if follow {
		path += "?follow=true"
	}
	body, err := c.stream(ctx, path)
	if err != nil {
		return err
	}
	defer body.Close()
	for dec := json.NewDecoder(body); ; {
		e := new(wire.Event)
		err := dec.Decode(e)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("read the build's events: %w", err)
		}
		fn(e)
	}
}
