package relay

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/coder/websocket"

	"github.com/drv-thru/drv-thru/core/key"
	"github.com/drv-thru/drv-thru/core/link/wsconn"
	"github.com/drv-thru/drv-thru/core/wire"
)

const (
	// sendTimeout is how long a control message may take to write.
	sendTimeout = 5 * time.Second
	// maxMessages is how many messages a builder may send between two pings:
	// a pong, and a refusal for every circuit.
	maxMessages = 2_000
)

// registration is a builder's listen socket.
type registration struct {
	id key.ID
	ws *wsconn.Socket
	// shown is what let the builder in.
	shown credential
	// turn holds a token while nobody writes, from the welcome on.
	turn chan struct{}
	// gone ends when the builder cannot be reached by this socket any more.
	gone  context.Context
	leave context.CancelFunc
	// heard is when the last message came, by [clock].
	heard atomic.Int64
	// messages came since the last ping.
	messages atomic.Int64
	// waiting counts circuits that wait for this builder; under Server.mu.
	waiting int
	// due is when the next ping is sent, and next is pinged after it; under
	// pinger.mu.
	due  time.Time
	next *registration
}

// listen answers GET /v1/listen. It returns while the socket lives on, so that
// net/http's memory for the request goes.
func (s *Server) listen(w http.ResponseWriter, r *http.Request, addr netip.Addr) error {
	shown := credentialOf(r)
	if !s.currentAccess().admitsToken(shown) {
		return accessError()
	}
	p := &place{addr: addr}
	if err := s.countRegistration(p); err != nil {
		return err
	}
	done := func() {
		s.uncountRegistration(p)
		s.work.Done()
	}
	log := s.logFor(r)
	host := wire.RelayHost(r.Host)
	ws, err := upgrade(w, r, wire.RelayMaxControl)
	if err != nil {
		done()
		return nil
	}
	s.mu.Lock()
	p.leave = func() {
		s.registrations.free(p)
		s.tellFull("builders")
		go ws.CloseWithin(farewell, wire.RelayCloseProof, string(wire.CodeRelayFull))
	}
	s.mu.Unlock()
	go s.serveBuilder(ws, host, shown, log, done)
	return nil
}

// countRegistration also begins the work that Shutdown waits for.
func (s *Server) countRegistration(p *place) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.closing.Err() != nil:
		return closingError()
	case s.registrations.by[p.addr] >= s.limits.RegistrationsPerAddress:
		return wire.Errorf(wire.CodeRelayFull, "it has as many builders of your address as it takes")
	case s.registrations.all >= s.limits.Registrations && !s.registrations.makeRoom(s.registrations.by[p.addr]):
		return wire.Errorf(wire.CodeRelayFull, "it has as many builders as it takes")
	}
	s.registrations.take(p)
	s.work.Add(1)
	return nil
}

func (s *Server) uncountRegistration(p *place) {
	s.mu.Lock()
	s.registrations.free(p)
	s.mu.Unlock()
}

// serveBuilder takes a listen socket through its registration and then leaves
// it to a goroutine of its own, whose stack is small: a relay has thousands.
func (s *Server) serveBuilder(ws *wsconn.Socket, host string, shown credential, log *slog.Logger, done func()) {
	farewell := context.AfterFunc(s.closing, func() { _ = ws.Close(websocket.StatusGoingAway, "") })
	end := func() {
		farewell()
		_ = ws.CloseNow()
		done()
	}
	id, err := s.register(ws, host)
	reg := &registration{id: id, ws: ws, shown: shown, turn: make(chan struct{}, 1)}
	reg.gone, reg.leave = context.WithCancel(context.Background())
	reg.heard.Store(clock(time.Now()))
	if err == nil {
		err = s.add(reg)
	}
	if err != nil {
		s.metrics.refusal("listen", registrationError(err))
		code := websocket.StatusCode(wire.RelayCloseProof)
		if errors.Is(err, context.DeadlineExceeded) {
			code = wire.RelayCloseTimeout
		}
		_ = ws.Close(code, string(wire.CodeOf(err)))
		log.Debug("registration refused", slog.Any("error", withoutAddresses(err)))
		end()
		return
	}
	log.Info("builder registered", slog.String("endpoint", id.String()))

	left := func(err error) {
		s.remove(reg)
		s.metrics.left.Inc()
		log.Info("builder left", slog.String("endpoint", id.String()), slog.Any("reason", withoutAddresses(err)))
		end()
	}
	if err := reg.welcome(); err != nil {
		left(err)
		return
	}
	s.pings.add(reg, time.Now())
	go s.follow(reg, left)
}

// registrationError is err with a code for the metrics.
func registrationError(err error) error {
	switch {
	case wire.CodeOf(err) != "":
		return err
	case errors.Is(err, context.DeadlineExceeded):
		return wire.CodeRelayNoAnswer.Err()
	case errors.Is(err, wire.ErrRelayMessage), errors.Is(err, errBinary):
		return wire.CodeRelayRequest.Err()
	}
	return wire.CodeRelayLost.Err() // it left
}

// register challenges the builder and checks its answer.
func (s *Server) register(ws *wsconn.Socket, host string) (key.ID, error) {
	ctx, cancel := context.WithTimeout(context.Background(), wire.RelayHandshakeTimeout)
	defer cancel()
	nonce := make([]byte, wire.RelayNonceSize)
	if _, err := io.ReadFull(s.cfg.Rand, nonce); err != nil {
		return key.ID{}, fmt.Errorf("make nonce: %w", err)
	}
	challenge := wire.RelayMessage{Type: wire.RelayChallenge, Nonce: nonce}
	if err := ws.Write(ctx, websocket.MessageText, challenge.Encode()); err != nil {
		return key.ID{}, fmt.Errorf("send challenge: %w", err)
	}
	m, err := readControl(ctx, ws)
	if err != nil {
		return key.ID{}, err
	}
	switch {
	case m.Type != wire.RelayRegister:
		return key.ID{}, wire.Errorf(wire.CodeRelayProof, "the first message is not a registration")
	case !s.goesBy(m.Host, host):
		return key.ID{}, wire.Errorf(wire.CodeRelayHost, "%q is not a name of this relay", m.Host)
	case !key.Verify(m.Endpoint, wire.RelayProof(m.Host, nonce, m.Endpoint), m.Signature):
		return key.ID{}, wire.CodeRelayProof.Err()
	}
	return m.Endpoint, nil
}

// SetHosts changes the names by which builders may register; see [Config.Hosts].
// Registrations that are there stay.
func (s *Server) SetHosts(names []string) {
	hosts := make([]string, len(names))
	for i, n := range names {
		hosts[i] = wire.RelayHost(n)
	}
	s.mu.Lock()
	s.hosts = hosts
	s.mu.Unlock()
}

// goesBy reports whether name is one of the relay's.
func (s *Server) goesBy(name, requested string) bool {
	s.mu.Lock()
	hosts := s.hosts
	s.mu.Unlock()
	if len(hosts) == 0 {
		return name == requested
	}
	bare := name
	if i := strings.LastIndexByte(name, ':'); i >= 0 && !strings.HasSuffix(name, "]") {
		bare = name[:i]
	}
	return slices.Contains(hosts, name) || slices.Contains(hosts, bare)
}

var errBinary = errors.New("binary message on a listen socket")

func readControl(ctx context.Context, ws *wsconn.Socket) (wire.RelayMessage, error) {
	typ, data, err := ws.Read(ctx)
	if err != nil {
		return wire.RelayMessage{}, err
	}
	if typ != websocket.MessageText {
		_ = ws.Close(websocket.StatusUnsupportedData, "")
		return wire.RelayMessage{}, errBinary
	}
	if string(data) == pong {
		return wire.RelayMessage{Type: wire.RelayPong}, nil
	}
	return wire.ParseRelayMessage(data)
}

// pong is what nearly all messages of builders are.
var pong = string(wire.RelayMessage{Type: wire.RelayPong}.Encode())

// add makes reg the builder's registration; one with proof replaces another. The
// builder may have been let in until a moment ago, so it is asked here.
func (s *Server) add(reg *registration) error {
	s.mu.Lock()
	if !s.access.admits(reg.id, reg.shown) {
		s.mu.Unlock()
		return accessError()
	}
	old := s.builders[reg.id]
	s.builders[reg.id] = reg
	if old != nil {
		s.work.Add(1) // not from zero: reg's own is counted
		s.metrics.replaced.Inc()
	}
	s.mu.Unlock()
	s.metrics.registered.Inc()
	if old == nil {
		return nil
	}
	old.leave()
	go func() {
		defer s.work.Done()
		_ = old.ws.Close(wire.RelayCloseReplaced, string(wire.CodeRelayReplaced))
	}()
	return nil
}

func (s *Server) remove(reg *registration) {
	s.mu.Lock()
	if s.builders[reg.id] == reg {
		delete(s.builders, reg.id)
	}
	s.mu.Unlock()
	reg.leave()
}

// follow reads a registered builder's messages until its socket ends.
func (s *Server) follow(reg *registration, left func(error)) {
	for {
		reg.ws.Wait()
		var err error
		if reg.ws.Skip(pong) {
			err = reg.heardFrom()
		} else {
			err = s.hear(reg)
		}
		if err != nil {
			left(err)
			return
		}
	}
}

// hear reads one message.
//
//go:noinline
func (s *Server) hear(reg *registration) error {
	m, err := readControl(context.Background(), reg.ws)
	if err != nil {
		if errors.Is(err, wire.ErrRelayMessage) {
			_ = reg.ws.Close(websocket.StatusPolicyViolation, string(wire.CodeRelayRequest))
		}
		return err
	}
	if err := reg.heardFrom(); err != nil {
		return err
	}
	if m.Type == wire.RelayRefuse {
		s.refused(reg, m.Circuit)
	}
	return nil
}

// heardFrom notes that a message has come, and ends what sends too many.
func (reg *registration) heardFrom() error {
	reg.heard.Store(clock(time.Now()))
	if reg.messages.Add(1) > maxMessages {
		_ = reg.ws.Close(websocket.StatusPolicyViolation, string(wire.CodeRelayRate))
		return wire.CodeRelayRate.Err()
	}
	return nil
}

// welcome writes the first message and then lets others write. A circuit that was
// dialled meanwhile waits, as a builder heeds nothing before it is registered.
func (reg *registration) welcome() error {
	ctx, cancel := context.WithTimeout(context.Background(), sendTimeout)
	defer cancel()
	defer func() { reg.turn <- struct{}{} }()
	m := wire.RelayMessage{Type: wire.RelayRegistered, KeepaliveMS: wire.RelayKeepalive.Milliseconds()}
	return reg.ws.Write(ctx, websocket.MessageText, m.Encode())
}

// send writes a message. A builder that does not take it in time is given up,
// which its reader finds out.
func (reg *registration) send(m wire.RelayMessage) error { return reg.write(m.Encode()) }

// write does not end with gone once it writes: that would cut the socket off, and a
// builder that is replaced would not be told.
func (reg *registration) write(message []byte) error {
	ctx, cancel := context.WithTimeout(context.Background(), sendTimeout)
	defer cancel()
	select {
	case <-reg.turn:
	case <-reg.gone.Done():
		return reg.gone.Err()
	case <-ctx.Done():
		return ctx.Err()
	}
	defer func() { reg.turn <- struct{}{} }()
	return reg.ws.Write(ctx, websocket.MessageText, message)
}
