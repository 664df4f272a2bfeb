package builder

import (
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/drv-thru/drv-thru/core/key"
	"github.com/drv-thru/drv-thru/core/ticket"
	"github.com/drv-thru/drv-thru/core/wire"
)

// caller is who sends a request.
type caller struct {
	client  key.ID
	trusted *TrustedClient
	// ticket is nil for a trusted client.
	ticket *TicketRecord
	trace  []any // how the request came, for the log
}

// limits that apply to what the caller starts.
func (c *caller) limits() ticket.Limits {
	if c.trusted != nil {
		return c.trusted.Limits
	}
	return c.ticket.Limits
}

// group is who shares with whom: the holders of a ticket, or a trusted client
// with itself.
func (c *caller) group() string {
	if c.ticket != nil {
		return "ticket " + c.ticket.ID.String()
	}
	return "client " + c.client.String()
}

type handler func(w http.ResponseWriter, r *http.Request, c *caller) error

func (s *Service) routes() {
	s.mux = http.NewServeMux()
	for pattern, h := range map[string]handler{
		"GET " + wire.RouteInfo:     s.getInfo,
		"POST " + wire.RoutePlan:    s.postPlan,
		"PUT " + wire.RouteBuild:    s.putBuild,
		"GET " + wire.RouteBuild:    s.getBuild,
		"DELETE " + wire.RouteBuild: s.deleteBuild,
		"PUT " + wire.RouteInputs:   s.putInputs,

		"POST " + wire.RouteInput:        s.postInput,
		"PUT " + wire.RouteInputManifest: s.putManifest,
		"PUT " + wire.RouteInputChunks:   s.putChunks,

		"GET " + wire.RouteEvents:     s.getEvents,
		"GET " + wire.RouteClosure:    s.getClosure,
		"GET " + wire.RouteNarInfo:    s.getNarInfo,
		"POST " + wire.RouteManifests: s.postManifests,
		"POST " + wire.RouteChunks:    s.postChunks,
		"GET " + wire.RouteLog:        s.getLog,
		"/":                           noRoute,
	} {
		s.mux.HandleFunc(pattern, s.handle(h))
	}
}

// ServeHTTP implements [http.Handler].
func (s *Service) ServeHTTP(w http.ResponseWriter, r *http.Request) { s.mux.ServeHTTP(w, r) }

var _ http.Handler = (*Service)(nil)

func noRoute(_ http.ResponseWriter, r *http.Request, _ *caller) error {
	return wire.Errorf(wire.CodeNotFound, "no route %.40s %.100q", r.Method, r.URL.Path).
		WithHint("update the older of client and builder")
}

func (s *Service) handle(h handler) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		var a Answer
		// Go on with r itself: a route's values were set in it.
		r.Body, w = meteredBody{r.Body, &a.Received}, meteredWriter{w, &a.Sent}
		defer func() { s.cfg.Meter.Answered(r, a) }()
		w.Header().Set(wire.HeaderVersion, strconv.Itoa(wire.Version))
		if r.ProtoMajor == 2 && (r.Method == http.MethodGet || r.Method == http.MethodDelete) {
			// Nobody reads a body of these: what is sent all the same would be held, up
			// to the stream's window, for as long as the answer takes. (That of HTTP/3
			// begins small, and grows by what is read.)
			_ = r.Body.Close()
		}
		c, err := s.identify(r)
		if err == nil {
			c.trace = s.trace(r)
			err = h(w, r, c)
		}
		if err == nil {
			return
		}
		a.Code = answeredCode(err)
		s.logError(r, err)
		// A builder that stops says nothing more either: what a client asks for
		// then, it gets by repeating the request once the builder is back.
		if errors.Is(err, errAfterHeaders) || s.ctx.Err() != nil {
			panic(http.ErrAbortHandler) // resets the stream
		}
		wire.WriteError(w, err)
	}
}

// answeredCode is the code of an error for the metrics: "" for what was cut off,
// which is no error of anybody's.
func answeredCode(err error) wire.Code {
	switch code := wire.CodeOf(err); {
	case code != "":
		return code
	case cutOff(err), errors.Is(err, errAfterHeaders):
		return ""
	}
	return wire.CodeInternal
}

// errAfterHeaders marks failures after an answer has begun.
var errAfterHeaders = errors.New("answer broken off")

func brokenOff(err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%w: %w", errAfterHeaders, err)
}

// tellOfDisk reports whether the log is to be told of a full disk: once a minute, as
// those who are refused may ask as often as they like.
func (s *Service) tellOfDisk() bool {
	now, last := s.cfg.Now().UnixNano(), s.diskTold.Load()
	return time.Duration(now-last).Abs() >= time.Minute && s.diskTold.CompareAndSwap(last, now)
}

func (s *Service) logError(r *http.Request, err error) {
	level := s.cfg.Log.Debug
	switch code := wire.CodeOf(err); {
	case cutOff(err), errors.Is(err, errAfterHeaders):
	case code == "", code == wire.CodeInternal, code == wire.CodeStore:
		level = s.cfg.Log.Error
	case code == wire.CodeDisk && s.tellOfDisk(): // all are refused until the owner makes room
		level = s.cfg.Log.Warn
	}
	level("request failed", append(s.trace(r), "method", r.Method, "url", r.URL.Path, "err", err)...)
}

func (s *Service) trace(r *http.Request) []any {
	if s.cfg.Trace == nil {
		return nil
	}
	return s.cfg.Trace(r)
}

// identify tells who sends the request and refuses who may send none.
func (s *Service) identify(r *http.Request) (*caller, error) {
	if v := r.Header.Get(wire.HeaderVersion); v != strconv.Itoa(wire.Version) {
		return nil, wire.Errorf(wire.CodeVersion, "the request has %.20q, the builder speaks %d", v, wire.Version).
			WithHint("update the older of client and builder")
	}
	id, err := s.cfg.Peer(r)
	if err != nil {
		return nil, wire.Errorf(wire.CodeNoCredentials, "the connection proves no identity")
	}
	s.mu.Lock()
	trusted, ok := s.clients[id]
	s.mu.Unlock()
	if ok {
		return &caller{client: id, trusted: &trusted}, nil
	}
	token, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	if !ok {
		return nil, errUntrusted(id)
	}
	secret, err := ticket.ParseSecret(token)
	if err != nil {
		return nil, wire.CodeTicketUnknown.Err()
	}
	t, err := s.cfg.Records.Ticket(r.Context(), secret.ID())
	switch {
	case errors.Is(err, ErrNoRecord) || err == nil && t.Secret != secret:
		return nil, wire.CodeTicketUnknown.Err()
	case err != nil:
		return nil, err
	}
	if err := t.CheckHolder(id); err != nil {
		return nil, err
	}
	return &caller{client: id, ticket: &t}, nil
}

func errUntrusted(id key.ID) error {
	return wire.Errorf(wire.CodeNoCredentials, "client %s is not trusted by the builder", id).
		WithHint("use a ticket, or ask the builder's owner to add this client to trusted_clients")
}

// Authorize tells who shares with whom of those who send requests, or why this one may
// send none to this builder.
func (s *Service) Authorize(r *http.Request) (group string, err error) {
	c, err := s.identify(r)
	if err != nil {
		return "", err
	}
	return c.group(), nil
}

func (s *Service) getInfo(w http.ResponseWriter, r *http.Request, c *caller) error {
	// Who comes back to a build may do so with a ticket that has paid for it and
	// pays for no other.
	build := r.URL.Query().Get("build")
	if build != "" {
		if _, err := s.find(r.Context(), build, c); err != nil {
			return err
		}
	}
	running, waiting, slots := s.queue.counts()
	info := &wire.Info{
		Version: wire.Version, Software: s.cfg.Software, Builder: s.cfg.Identity,
		NixVersion: s.cfg.NixVersion, Systems: s.cfg.Systems, Features: s.cfg.Features,
		SigningKey: s.cfg.SigningKey.ToPublicKey().String(),
		Slots:      slots, Active: running, Waiting: waiting,
		CADerivations: s.cfg.CADerivations, You: c.client, Trusted: c.trusted != nil,
	}
	if t := c.ticket; t != nil {
		if err := t.Check(c.client, s.cfg.Now(), false); err != nil && build == "" {
			return err
		}
		info.Ticket = &wire.TicketUse{ID: t.ID, Name: t.Name, Expires: t.Expires, UsesLeft: t.UsesLeft(), Limits: t.Limits}
	}
	return s.writeJSON(w, c, info)
}

func (s *Service) postPlan(w http.ResponseWriter, r *http.Request, c *caller) error {
	if c.ticket != nil {
		if err := c.ticket.Check(c.client, s.cfg.Now(), false); err != nil {
			return err
		}
	}
	var req wire.PlanRequest
	done, err := s.readJSON(w, r, c, &req, wire.MaxClosureDocument)
	if err != nil {
		return err
	}
	defer done()
	plan, err := s.plan(r.Context(), c.group(), &req)
	if err != nil {
		return err
	}
	return s.writeJSON(w, c, plan)
}

func queryNumber(r *http.Request, name string) (int64, error) {
	text := r.URL.Query().Get(name)
	if text == "" {
		return 0, nil
	}
	n, err := strconv.ParseInt(text, 10, 64)
	if err != nil || n < 0 {
		return 0, badRequest("%s=%.40q is not a number", name, text)
	}
	return n, nil
}
