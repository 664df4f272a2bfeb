package relay

import (
	"net/netip"

	"github.com/pion/stun/v3"
)

// AnswerSTUN returns the answer to a packet, nil if there is none.
func (s *Server) AnswerSTUN(packet []byte, from netip.AddrPort) []byte {
	answer := &stun.Message{}
	if s.answerSTUN(packet, from, answer) != stunAnswered {
		return nil
	}
	return answer.Raw
}
