package relay

import (
	"context"
	"log/slog"
	"net/http"
	"net/netip"
	"time"

	"github.com/drv-thru/drv-thru/core/key"
	"github.com/drv-thru/drv-thru/core/link/wsconn"
	"github.com/drv-thru/drv-thru/core/wire"
)

// pending is a circuit that waits for the builder's end. Its fields but for
// the channels are under Server.mu.
type pending struct {
	place
	id       wire.CircuitID
	to       *registration
	accepted chan *wsconn.Socket // 1
	failed   chan wire.Code      // 1
	given    bool                // the dialler does not wait any more
}

// dial answers GET /v1/dial/{endpoint}. The dialler's handshake is completed
// last, so that whatever goes wrong before is an HTTP answer.
func (s *Server) dial(w http.ResponseWriter, r *http.Request, addr netip.Addr) error {
	id, err := key.ParseID(r.PathValue("endpoint"))
	if err != nil {
		return wire.Errorf(wire.CodeRelayRequest, "%v", err)
	}
	p, err := s.open(id, addr)
	if err != nil {
		return err
	}
	done := func() {
		s.closed(p)
		s.work.Done()
	}
	builder, err := s.await(r.Context(), p)
	if err != nil {
		done()
		return err
	}
	w.Header().Set(wire.HeaderRelayCircuit, string(p.id))
	client, err := upgrade(w, r, wire.RelayMaxMessage)
	if err != nil {
		_ = builder.Close(wire.RelayCloseBroken, string(wire.CodeRelayLost))
		done()
		return nil
	}
	s.metrics.opened.Inc()
	log := s.logFor(r).With(slog.String("circuit", string(p.id)), slog.String("endpoint", id.String()))
	log.Debug("circuit opened")
	c := s.splice(client, builder, func(why string) {
		log.Debug("circuit ended", slog.String("reason", why))
		s.metrics.ended.WithLabelValues(why).Inc()
		done()
	})
	s.mu.Lock()
	p.leave = func() {
		s.uncountLocked(p)
		s.tellFull("circuits, or circuits to a builder,")
		c.closeBoth(ending{endFull, wire.RelayCloseBroken, ""})
	}
	s.mu.Unlock()
	return nil
}

// open finds the builder and counts a new circuit to it.
func (s *Server) open(id key.ID, addr netip.Addr) (*pending, error) {
	circuit, err := wire.NewCircuitID(s.cfg.Rand)
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	reg, to := s.builders[id], s.circuitsTo[id]
	if to == nil {
		to = &places{}
	}
	switch {
	case s.closing.Err() != nil:
		return nil, closingError()
	case reg == nil:
		return nil, wire.CodeRelayNoBuilder.Err().WithHint("check on the builder that it runs and uses this relay")
	case s.circuits.by[addr] >= s.limits.CircuitsPerAddress:
		return nil, wire.Errorf(wire.CodeRelayFull, "it has as many circuits of your address as it takes")
	case reg.waiting >= s.limits.HalfOpenPerBuilder, to.all >= s.limits.CircuitsPerBuilder && !to.makeRoom(to.by[addr]):
		return nil, wire.Errorf(wire.CodeRelayFull, "it has as many circuits to this builder as it takes")
	case s.circuits.all >= s.limits.Circuits && !s.circuits.makeRoom(s.circuits.by[addr]):
		return nil, wire.Errorf(wire.CodeRelayFull, "it has as many circuits as it takes")
	}
	p := &pending{
		place: place{addr: addr}, id: circuit, to: reg,
		accepted: make(chan *wsconn.Socket, 1),
		failed:   make(chan wire.Code, 1),
	}
	s.pending[circuit] = p
	reg.waiting++
	s.circuits.take(&p.place)
	to.take(&p.place)
	s.circuitsTo[id] = to
	s.work.Add(1)
	return p, nil
}

// closed uncounts a circuit.
func (s *Server) closed(p *pending) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.uncountLocked(p)
}

func (s *Server) uncountLocked(p *pending) {
	s.circuits.free(&p.place)
	if to := s.circuitsTo[p.to.id]; to != nil {
		if to.free(&p.place); to.all == 0 {
			delete(s.circuitsTo, p.to.id)
		}
	}
}

// await calls the builder and waits for its end of the circuit.
func (s *Server) await(ctx context.Context, p *pending) (*wsconn.Socket, error) {
	defer s.giveUp(p)
	if err := p.to.send(wire.RelayMessage{Type: wire.RelayIncoming, Circuit: p.id}); err != nil {
		return nil, wire.Errorf(wire.CodeRelayNoAnswer, "it was lost a moment ago")
	}
	timer := time.NewTimer(s.limits.HalfOpen)
	defer timer.Stop()
	select {
	case ws := <-p.accepted:
		return ws, nil
	case code := <-p.failed:
		return nil, code.Err()
	case <-timer.C:
		return nil, wire.Errorf(wire.CodeRelayNoAnswer, "it did not come within %s", s.limits.HalfOpen)
	case <-p.to.gone.Done():
		return nil, wire.Errorf(wire.CodeRelayNoAnswer, "its connection to the relay ended")
	case <-ctx.Done():
		return nil, wire.Errorf(wire.CodeRelayLost, "the dialler left")
	case <-s.closing.Done():
		return nil, closingError()
	}
}

// giveUp ends the wait; a builder's end that comes too late is closed.
func (s *Server) giveUp(p *pending) {
	s.mu.Lock()
	p.given = true
	delete(s.pending, p.id)
	p.to.waiting--
	s.mu.Unlock()
	select {
	case ws := <-p.accepted: // nobody took it
		_ = ws.Close(wire.RelayCloseBroken, string(wire.CodeRelayLost))
	default:
	}
}

// accept answers GET /v1/accept/{circuit}.
func (s *Server) accept(w http.ResponseWriter, r *http.Request, _ netip.Addr) error {
	s.mu.Lock()
	p := s.pending[wire.CircuitID(r.PathValue("circuit"))]
	if p != nil {
		delete(s.pending, p.id) // a circuit's ID works once
	}
	s.mu.Unlock()
	if p == nil {
		return wire.CodeRelayNoCircuit.Err()
	}
	ws, err := upgrade(w, r, wire.RelayMaxMessage)
	if err != nil {
		p.failed <- wire.CodeRelayNoAnswer
		return nil
	}
	s.mu.Lock()
	given := p.given
	if !given {
		p.accepted <- ws
	}
	s.mu.Unlock()
	if given {
		_ = ws.Close(wire.RelayCloseBroken, string(wire.CodeRelayLost))
	}
	return nil
}

// refused ends the wait for a circuit that its builder does not want.
func (s *Server) refused(reg *registration, id wire.CircuitID) {
	s.mu.Lock()
	p := s.pending[id]
	if p == nil || p.to != reg {
		s.mu.Unlock()
		return
	}
	delete(s.pending, id)
	s.mu.Unlock()
	p.failed <- wire.CodeRelayRefused
}
