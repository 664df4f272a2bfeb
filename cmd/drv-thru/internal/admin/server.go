package admin

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/drv-thru/drv-thru/cmd/drv-thru/internal/policies"
	"github.com/drv-thru/drv-thru/cmd/drv-thru/internal/state"
	"github.com/drv-thru/drv-thru/core/builder"
	"github.com/drv-thru/drv-thru/core/key"
	"github.com/drv-thru/drv-thru/core/ticket"
	"github.com/drv-thru/drv-thru/core/wire"
	"github.com/drv-thru/drv-thru/policy"
)

// Tickets is where tickets are kept.
type Tickets interface {
	Ticket(ctx context.Context, id ticket.ID) (builder.TicketRecord, error)
	Tickets(ctx context.Context) ([]builder.TicketRecord, error)
	CreateTicket(ctx context.Context, t builder.TicketRecord) error
	RevokeTicket(ctx context.Context, id ticket.ID, now time.Time) error
	Usage(ctx context.Context, q builder.UsageQuery) (builder.Usages, error)
}

// Service is the part of builder.Service that the owner steers.
type Service interface {
	Status() builder.Status
	Builds() []builder.BuildStatus
	Events(ctx context.Context, id wire.BuildID, w io.Writer, follow bool, flush func() error) error
	Cancel(ctx context.Context, id wire.BuildID, why string) error
	CancelTicket(ctx context.Context, id ticket.ID) int
	Pause(on bool)
	Drain(on bool)
	CollectGarbage(ctx context.Context, dryRun bool) ([]builder.Garbage, error)
}

// Policies decide on tickets.
type Policies interface {
	// Pin chooses the policy of a ticket that is being made.
	Pin(ctx context.Context, n policies.Choice, t *builder.TicketRecord) error
	List(ctx context.Context) []policies.Info
}

// Decisions are what policies have decided.
type Decisions interface {
	// Decisions returns the newest n, the newest first.
	Decisions(ctx context.Context, n int) ([]state.Decision, error)
}

// State is what can be backed up.
type State interface {
	// Snapshot returns a copy that is gone when it is closed.
	Snapshot(ctx context.Context) (*os.File, error)
}

// Config makes a server; every field but Addresses is required.
type Config struct {
	Tickets   Tickets
	Service   Service
	Policies  Policies
	Decisions Decisions
	State     State
	// Builder and Relays go into the texts of tickets.
	Builder key.ID
	Relays  func() []string
	// Addresses are the builder's own, for tickets that need no relay.
	Addresses func() []netip.AddrPort
	// Describe fills in what the server does not know of a Status.
	Describe func(*Status)
	Now      func() time.Time
	Rand     io.Reader
}

const (
	// maxNewTicket has room for a module in base64.
	maxNewTicket = wire.MaxDocument + policy.MaxModule*4/3 + 4
	// maxDecisions bounds an answer's decisions, and statusDenials those of a
	// status, which are looked for among as many of the newest as recentDecisions.
	maxDecisions    = 1000
	statusDenials   = 5
	recentDecisions = 50
)

// otherVersion is why a command of drv-thru asks what the builder does not know:
// it was upgraded, and the builder has not been restarted since.
const otherVersion = "the builder that runs is of another version than this command: restart it"

// maxName bounds a ticket's name.
const maxName = 200

type server struct{ cfg Config }

// NewHandler returns the socket's handler.
func NewHandler(cfg Config) http.Handler {
	s := &server{cfg}
	mux := http.NewServeMux()
	for pattern, h := range map[string]func(*http.Request) (any, error){
		"GET /v1/status":             s.status,
		"GET /v1/tickets":            s.tickets,
		"POST /v1/tickets":           s.create,
		"GET /v1/tickets/{id}":       s.ticket,
		"GET /v1/tickets/{id}/text":  s.reveal,
		"DELETE /v1/tickets/{id}":    s.revoke,
		"GET /v1/tickets/{id}/usage": s.usage,
		"GET /v1/builds":             s.builds,
		"GET /v1/builds/{id}":        s.build,
		"DELETE /v1/builds/{id}":     s.cancel,
		"POST /v1/queue/{action}":    s.steer,
		"POST /v1/gc":                s.collectGarbage,
		"GET /v1/policies":           s.policies,
		"GET /v1/decisions":          s.decisions,
		"/": func(r *http.Request) (any, error) {
			return nil, wire.Errorf(wire.CodeNotFound, "no route %s %s", r.Method, r.URL.Path).WithHint(otherVersion)
		},
	} {
		mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
			answer, err := h(r)
			if err != nil {
				wire.WriteError(w, ownersError(err))
				return
			}
			w.Header().Set("Content-Type", wire.TypeJSON)
			_ = json.NewEncoder(w).Encode(answer) // the peer is gone if this fails
		})
	}
	mux.HandleFunc("GET /v1/builds/{id}/events", s.events)
	mux.HandleFunc("GET /v1/state", s.backup)
	return mux
}

// ownersError hides nothing from the owner.
func ownersError(err error) error {
	if wire.CodeOf(err) == "" {
		return wire.Errorf(wire.CodeInternal, "%s", err)
	}
	return err
}

// Listen makes the socket at path. A socket that a dead builder left is
// replaced; one at which somebody may be listening is not.
func Listen(path string) (net.Listener, error) {
	if info, err := os.Lstat(path); err == nil {
		if info.Mode().Type() != os.ModeSocket {
			return nil, fmt.Errorf("admin socket %s: a file of that name exists and is no socket", path)
		}
		c, err := net.DialTimeout("unix", path, time.Second)
		if err == nil {
			c.Close()
			return nil, fmt.Errorf("admin socket %s: another builder is running", path)
		}
		// Any other error leaves open whether somebody listens: it may be another's
		// socket, of another type, or too busy.
		if !errors.Is(err, syscall.ECONNREFUSED) {
			return nil, fmt.Errorf("admin socket %s: a socket of that name exists: %w", path, err)
		}
		if err := os.Remove(path); err != nil {
			return nil, fmt.Errorf("admin socket: %w", err)
		}
	}
	l, err := listenUnix(path)
	if err != nil {
		return nil, fmt.Errorf("admin socket: %w", err)
	}
	return l, nil
}

func (s *server) status(r *http.Request) (any, error) {
	st := &Status{Status: s.cfg.Service.Status(), Endpoint: s.cfg.Builder, Denials: []state.Decision{}}
	s.cfg.Describe(st)
	recent, err := s.cfg.Decisions.Decisions(r.Context(), recentDecisions)
	for _, d := range recent {
		if d.Verdict == string(policy.Deny) && len(st.Denials) < statusDenials {
			st.Denials = append(st.Denials, d)
		}
	}
	return st, err
}

func (s *server) policies(r *http.Request) (any, error) { return s.cfg.Policies.List(r.Context()), nil }

func (s *server) decisions(r *http.Request) (any, error) {
	n, err := strconv.Atoi(r.URL.Query().Get("n"))
	if err != nil || n < 1 {
		n = maxDecisions
	}
	return s.cfg.Decisions.Decisions(r.Context(), min(n, maxDecisions))
}

func (s *server) tickets(r *http.Request) (any, error) {
	records, err := s.cfg.Tickets.Tickets(r.Context())
	if err != nil {
		return nil, err
	}
	all := make([]Ticket, len(records))
	for i, t := range records {
		all[i] = ticketOf(t, s.cfg.Now())
	}
	return all, nil
}

// find returns the ticket of the request. A unique beginning of an ID will do,
// and so will the name that only one ticket has.
func (s *server) find(r *http.Request) (builder.TicketRecord, error) {
	want := r.PathValue("id")
	if id, err := ticket.ParseID(want); err == nil {
		t, err := s.cfg.Tickets.Ticket(r.Context(), id)
		if errors.Is(err, builder.ErrNoRecord) {
			return t, noTicket(want)
		}
		return t, err
	}
	all, err := s.cfg.Tickets.Tickets(r.Context())
	if err != nil {
		return builder.TicketRecord{}, err
	}
	var found []builder.TicketRecord
	for _, t := range all {
		if t.Name == want || len(want) >= minPrefix && strings.HasPrefix(t.ID.String(), want) {
			found = append(found, t)
		}
	}
	switch len(found) {
	case 0:
		return builder.TicketRecord{}, noTicket(want)
	case 1:
		return found[0], nil
	}
	return builder.TicketRecord{}, wire.Errorf(wire.CodeBadRequest, "%d tickets are called %q", len(found), want).
		WithHint("use the full ID from: drv-thru ticket list")
}

func noTicket(want string) error {
	return wire.Errorf(wire.CodeNotFound, "no ticket is called %.60q", want).WithHint("see: drv-thru ticket list")
}

func (s *server) ticket(r *http.Request) (any, error) {
	t, err := s.find(r)
	return ticketOf(t, s.cfg.Now()), err
}

func (s *server) create(r *http.Request) (any, error) {
	var n NewTicket
	dec := json.NewDecoder(io.LimitReader(r.Body, maxNewTicket))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&n); err != nil {
		return nil, wire.Errorf(wire.CodeBadRequest, "%s", err).WithHint(otherVersion)
	}
	now := s.cfg.Now()
	if n.Name == "" {
		n.Name = fmt.Sprintf("ticket-%d", now.Unix())
	}
	if len(n.Name) > maxName || strings.ContainsFunc(n.Name, func(r rune) bool { return r < ' ' || r == 0x7f }) {
		return nil, wire.Errorf(wire.CodeBadRequest, "a ticket's name has at most %d bytes and no control characters", maxName)
	}
	if n.MaxUses < 0 {
		return nil, wire.Errorf(wire.CodeBadRequest, "negative number of uses")
	}
	relays, addresses, err := s.places(n.Direct)
	if err != nil {
		return nil, err
	}
	text, err := ticket.New(s.cfg.Rand, s.cfg.Builder, relays, addresses)
	if err != nil {
		return nil, err
	}
	t := builder.TicketRecord{
		ID: text.ID(), Secret: text.Secret, Name: n.Name, Created: now, MaxUses: n.MaxUses, Limits: n.Limits, Bind: n.Bind,
		Direct: n.Direct,
	}
	if n.Expires > 0 {
		t.Expires = now.Add(n.Expires.Std())
	}
	if err := s.cfg.Policies.Pin(r.Context(), n.Policy, &t); err != nil {
		return nil, err
	}
	if err := s.cfg.Tickets.CreateTicket(r.Context(), t); err != nil {
		return nil, err
	}
	return TicketText{Ticket: ticketOf(t, now), Text: text.String()}, nil
}

// places are where a ticket's holder finds the builder: its relays, or its own
// addresses, as many as a ticket has room for.
func (s *server) places(direct bool) (relays []string, addresses []netip.AddrPort, err error) {
	if !direct {
		relays = s.cfg.Relays()
		return relays[:min(len(relays), ticket.MaxRelays)], nil, nil
	}
	if s.cfg.Addresses != nil {
		addresses = s.cfg.Addresses()
	}
	if len(addresses) == 0 {
		return nil, nil, wire.Errorf(wire.CodeBadRequest, "no address is known at which clients reach this builder without a relay").
			WithHint("run serve with --listen and, behind a router, --announce")
	}
	return nil, addresses[:min(len(addresses), ticket.MaxDirect)], nil
}

// reveal makes the ticket's text again, with the relays or addresses of today.
func (s *server) reveal(r *http.Request) (any, error) {
	t, err := s.find(r)
	if err != nil {
		return nil, err
	}
	relays, addresses, err := s.places(t.Direct)
	if err != nil {
		return nil, err
	}
	text := ticket.Ticket{Builder: s.cfg.Builder, Secret: t.Secret, Relays: relays, Direct: addresses}
	return TicketText{Ticket: ticketOf(t, s.cfg.Now()), Text: text.String()}, nil
}

func (s *server) revoke(r *http.Request) (any, error) {
	t, err := s.find(r)
	if err != nil {
		return nil, err
	}
	if err := s.cfg.Tickets.RevokeTicket(r.Context(), t.ID, s.cfg.Now()); err != nil {
		return nil, err
	}
	var answer Revoked
	if r.URL.Query().Get("cancel") == "true" {
		answer.Cancelled = s.cfg.Service.CancelTicket(r.Context(), t.ID)
	}
	return answer, nil
}

func (s *server) collectGarbage(r *http.Request) (any, error) {
	gone, err := s.cfg.Service.CollectGarbage(r.Context(), r.URL.Query().Get("dry_run") == "true")
	if gone == nil {
		gone = []builder.Garbage{}
	}
	return gone, err
}

func (s *server) steer(r *http.Request) (any, error) {
	switch action := r.PathValue("action"); action {
	case "pause", "resume":
		s.cfg.Service.Pause(action == "pause")
	case "drain", "undrain":
		s.cfg.Service.Drain(action == "drain")
	default:
		return nil, wire.Errorf(wire.CodeNotFound, "no action %.40q", action).WithHint(otherVersion)
	}
	return s.status(r)
}
