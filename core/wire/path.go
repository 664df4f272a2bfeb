package wire

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"

	"github.com/drv-thru/drv-thru/core/key"
)

// RoutePath is where the ends of a session tell each other their addresses.
const RoutePath = "/v1/path"

// Limits of the exchange of addresses.
const (
	// MaxCandidates bounds the addresses of one list.
	MaxCandidates = 16
	// MaxPathDocument bounds a PathRequest and a PathAnswer.
	MaxPathDocument = 8 << 10
)

// Punch packets are what both ends send to each other's UDP candidates, so that
// the address translators between them let the other's packets in, and to learn
// which pairs of addresses work:
//
//	offset  size  field
//	0       4     0x21 'd' 't' 'p': the first byte tells it from QUIC
//	              (RFC 9000 §17: at least 0x40) and STUN (RFC 8489 §5: at most 3)
//	4       16    the token of the exchange
//	20      1     1 ping, 2 pong
//
// Each ping that holds a token known from an exchange is answered with a pong;
// whatever else arrives is dropped without an answer. A pong proves nothing of
// who sent it: QUIC's handshake does.
const (
	PunchMagic = "\x21dtp"
	PunchSize  = 21
	PunchPing  = 1
	PunchPong  = 2
)

// PathToken ties punch packets to an exchange: 16 random bytes of the client.
type PathToken [16]byte

// MarshalText implements [encoding.TextMarshaler].
func (t PathToken) MarshalText() ([]byte, error) { return []byte(key.EncodeBase32(t[:])), nil }

// UnmarshalText implements [encoding.TextUnmarshaler].
func (t *PathToken) UnmarshalText(text []byte) error {
	raw, ok := key.DecodeBase32(string(text))
	if !ok || len(raw) != len(t) {
		return errors.New("not a path token: want 26 characters of a-z and 2-7")
	}
	*t = PathToken(raw)
	return nil
}

// PathRequest is what a client says of itself.
type PathRequest struct {
	Token      PathToken        `json:"token"`
	NAT        NAT              `json:"nat"`
	Candidates []netip.AddrPort `json:"candidates"` // UDP, likeliest first
}

// PathAnswer is what the builder says of itself. Its punch packets are on their
// way when the answer is.
type PathAnswer struct {
	// Disabled tells that the builder takes no direct connections.
	Disabled bool             `json:"disabled,omitempty"`
	NAT      NAT              `json:"nat,omitempty"`
	UDP      []netip.AddrPort `json:"udp,omitempty"` // QUIC and HTTP/3, likeliest first
	TCP      []netip.AddrPort `json:"tcp,omitempty"` // TLS
}

// NAT is what stands between an end and the others.
type NAT string

// Kinds of address translation.
const (
	NATUnknown   NAT = "unknown"   // not found out
	NATNone      NAT = "none"      // the address that others see is its own
	NATCone      NAT = "cone"      // one outer port for every peer
	NATSymmetric NAT = "symmetric" // another outer port for every peer
	NATBlocked   NAT = "blocked"   // UDP does not come back
)

// ParsePathAnswer reads an answer.
func ParsePathAnswer(text []byte) (PathAnswer, error) {
	var a PathAnswer
	if len(text) > MaxPathDocument {
		return a, fmt.Errorf("answer to %s: %d bytes; at most %d are allowed", RoutePath, len(text), MaxPathDocument)
	}
	if err := json.Unmarshal(text, &a); err != nil {
		return a, fmt.Errorf("answer to %s: %w", RoutePath, err)
	}
	if len(a.UDP) > MaxCandidates || len(a.TCP) > MaxCandidates {
		return a, fmt.Errorf("answer to %s: more than %d addresses", RoutePath, MaxCandidates)
	}
	return a, nil
}

// ParsePathRequest reads a request and checks its form; which candidates are used is
// the receiver's choice.
func ParsePathRequest(text []byte) (PathRequest, error) {
	var r PathRequest
	if len(text) > MaxPathDocument {
		return r, fmt.Errorf("%d bytes; at most %d are allowed", len(text), MaxPathDocument)
	}
	if err := json.Unmarshal(text, &r); err != nil {
		return r, err
	}
	if len(r.Candidates) > MaxCandidates {
		return r, fmt.Errorf("%d candidates; at most %d are allowed", len(r.Candidates), MaxCandidates)
	}
	if r.Token == (PathToken{}) {
		return r, errors.New("the token is missing")
	}
	return r, nil
}

// AppendPunch appends a punch packet.
func AppendPunch(b []byte, t PathToken, kind byte) []byte {
	b = append(b, PunchMagic...)
	b = append(b, t[:]...)
	return append(b, kind)
}

// ParsePunch reads a punch packet.
func ParsePunch(p []byte) (t PathToken, kind byte, ok bool) {
	if len(p) != PunchSize || string(p[:len(PunchMagic)]) != PunchMagic {
		return t, 0, false
	}
	kind = p[PunchSize-1]
	return PathToken(p[len(PunchMagic) : PunchSize-1]), kind, kind == PunchPing || kind == PunchPong
}
