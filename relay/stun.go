package relay

import (
	"errors"
	"net"
	"net/netip"

	"github.com/pion/stun/v3"

	"github.com/drv-thru/drv-thru/core/wire"
)

// maxSTUN is the longest request that is looked at: one that fits a packet.
const maxSTUN = 1500

// ServeSTUN answers binding requests that come to c, until Shutdown or until c
// fails; it closes c. An answer is never longer than its request, so a forged
// sender gains nothing; there is one for each request at most, and few a second
// for each address. It comes from the address that was asked: no address translator lets
// in one from another of the host's.
func (s *Server) ServeSTUN(c *net.UDPConn) error {
	defer c.Close()
	s.mu.Lock()
	if s.closing.Err() != nil {
		s.mu.Unlock()
		return net.ErrClosed
	}
	s.packets = append(s.packets, c)
	s.mu.Unlock()
	askForInfo(c)
	var request [maxSTUN]byte
	var info [infoSize]byte
	answer := &stun.Message{}
	for {
		n, told, _, from, err := c.ReadMsgUDPAddrPort(request[:], info[:])
		if err != nil {
			if s.closing.Err() != nil || errors.Is(err, net.ErrClosed) {
				return net.ErrClosed
			}
			return err
		}
		result := s.answerSTUN(request[:n], from, answer)
		if result == stunAnswered {
			if _, _, err := c.WriteMsgUDPAddrPort(answer.Raw, fromThere(info[:told]), from); err != nil {
				result = stunFailed
			}
		}
		s.metrics.stun.WithLabelValues(result).Inc()
	}
}

// answerSTUN makes the answer, if there is to be one.
func (s *Server) answerSTUN(request []byte, from netip.AddrPort, answer *stun.Message) string {
	var m stun.Message
	m.Raw = request
	if err := m.Decode(); err != nil || m.Type != stun.BindingRequest {
		return stunInvalid
	}
	if len(request) < wire.RelaySTUNRequest {
		return stunShort
	}
	if !s.stunRate.allow(group(from.Addr())) {
		return stunRate
	}
	addr := from.Addr().Unmap()
	mapped := &stun.XORMappedAddress{IP: addr.AsSlice(), Port: int(from.Port())}
	if err := answer.Build(stun.NewTransactionIDSetter(m.TransactionID), stun.BindingSuccess, mapped); err != nil {
		return stunInvalid
	}
	if len(answer.Raw) > len(request) {
		return stunShort
	}
	return stunAnswered
}
