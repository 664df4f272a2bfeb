package relay

import (
	"net/netip"

	"github.com/pion/stun/v3"

	"github.com/drv-thru/drv-thru/core/key"
)

// Add registers a builder that has proved who it is.
func (s *Server) Add(id key.ID) error { return s.add(&registration{id: id}) }

// AnswerSTUN returns the answer to a packet, nil if there is none.
func (s *Server) AnswerSTUN(packet []byte, from netip.AddrPort) []byte {
	answer := &stun.Message{}
	if s.answerSTUN(packet, from, answer) != stunAnswered {
		return nil
	}
	return answer.Raw
}
