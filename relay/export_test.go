package relay

import (
	"net/netip"

	"github.com/pion/stun/v3"

	"github.com/drv-thru/drv-thru/core/key"
)

// Add registers a builder that has proved who it is.
func (s *Server) Add(id key.ID) error { return s.add(&registration{id: id}) }

// Remembers counts what the relay keeps of its peers, but for how often they came.
func (s *Server) Remembers() int {
	s.mu.Lock()
	n := len(s.builders) + len(s.pending) + len(s.circuitsTo) + int(s.buffers.Load())
	for _, c := range []counter{s.registrations.counter, s.circuits.counter, s.refusals} {
		n += c.all + len(c.by)
	}
	n += len(s.registrations.held) + len(s.circuits.held)
	s.mu.Unlock()
	for _, p := range []*pendingConns{s.conns, s.clients} {
		p.mu.Lock()
		n += len(p.conn) + len(p.counted.held) + p.counted.all + len(p.counted.by)
		p.mu.Unlock()
	}
	return n
}

// AnswerSTUN returns the answer to a packet, nil if there is none.
func (s *Server) AnswerSTUN(packet []byte, from netip.AddrPort) []byte {
	answer := &stun.Message{}
	if s.answerSTUN(packet, from, answer) != stunAnswered {
		return nil
	}
	return answer.Raw
}
