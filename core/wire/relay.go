package wire

import (
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/drv-thru/drv-thru/core/key"
)

// The relay's protocol, version 1.
//
// A relay joins two byte streams. It knows endpoint IDs, addresses and byte
// counts; what passes is TLS 1.3 between the two ends, who check each other's
// keys, so a relay that lies can only deny service.
//
// # Transport and version
//
// All three routes are WebSocket handshakes (RFC 6455) over HTTP/1.1, without
// extensions: compression is never negotiated. The protocol's version travels
// in Sec-WebSocket-Protocol ([RelayProtocol]), the one header that a browser
// can set. A client lists every version that it speaks; the relay picks one or
// answers 426 with [CodeRelayVersion], whose detail names what it speaks. An
// older relay thus serves a newer peer that still lists version 1, and within
// a version both sides ignore message types and members that they do not know.
//
// A handshake that fails is answered with an RFC 9457 problem document and one
// of the codes below. A browser shows a page nothing of such an answer, so with
// the query errors=socket the relay completes the handshake, sends a text
// message, refused with the code, and waits for the peer to close.
//
// # GET /v1/listen
//
// A builder's registration: one long-lived WebSocket of JSON text messages
// ([RelayMessage]), each at most [RelayMaxControl] bytes.
//
//	relay   → challenge  nonce
//	builder → register   endpoint, host, signature     within RelayHandshakeTimeout
//	relay   → registered keepalive_ms
//	relay   → ping                                     every keepalive_ms
//	builder → pong                                     at once
//	relay   → incoming   circuit                       somebody dials
//	builder → refuse     circuit, code                 optional: not this one
//
// The signature is over [RelayProof]; the relay refuses a host that is not its
// own, so what a builder signs for one relay registers it at no other, and a
// nonce is used once, so it registers it no second time. A registration with
// proof replaces an older one of the same endpoint, which is closed with
// [RelayCloseReplaced]. Either side that has heard nothing for [RelayDeadAfter]
// drops the connection.
//
// A relay may let in only builders that it knows. One that knows them by a
// token expects "Authorization: Bearer TOKEN" in the handshake and answers 403
// [CodeRelayAccess] without; one that knows them by their IDs closes with
// [RelayCloseProof] and that code as the reason. A token never travels in a URL
// or a message.
//
// # GET /v1/dial/{endpoint}
//
// A client's circuit to the builder with that ID. The relay tells the builder
// and completes the handshake once the builder has come for the circuit; it
// answers 404 [CodeRelayNoBuilder] when no such builder is registered, 504
// [CodeRelayNoAnswer] when it does not come within [RelayAcceptTimeout], 503
// [CodeRelayRefused] when it says no.
//
// # GET /v1/accept/{circuit}
//
// The builder's end of a circuit. A circuit's ID is 128 random bits in 32
// digits of lower-case hexadecimal and works once, within
// [RelayAcceptTimeout]; after that it is answered 404 [CodeRelayNoCircuit].
//
// # A circuit
//
// Both ends send binary messages of at most [RelayMaxMessage] bytes. Only the
// sequence of bytes is kept: the relay may split and join messages. It holds
// at most one message's worth per direction and stops reading from an end
// while the other does not take its bytes; it never drops any. When either end
// closes or breaks, the relay closes the other: with 1000 after a clean close,
// with [RelayCloseBroken] else. A text message closes the circuit with 1003, a
// message that is too large with 1009. A circuit on which nothing moves, or a
// message that is not taken in time, closes it with [RelayCloseTimeout]. A
// relay that shuts down lets circuits go on for a while and then closes them
// with 1001. One that is full may close a circuit with [RelayCloseBroken], and a
// registration with [RelayCloseProof] and [CodeRelayFull] as the reason, to make room.
//
// # STUN
//
// A relay may answer STUN binding requests (RFC 8489) over UDP, with nothing
// but XOR-MAPPED-ADDRESS. It names the place in the header [HeaderRelaySTUN] of
// a completed handshake: a host and a port, or ":port" for the relay's own host.
// So that it multiplies no traffic of a forged sender, a request has to be at
// least as long as the answer: [RelaySTUNRequest] bytes always are, for
// instance with a PADDING attribute (RFC 5780 §7.6). Shorter ones, and what
// comes too fast from one address, get no answer.
const (
	// RelayProtocol is version 1's name in Sec-WebSocket-Protocol.
	RelayProtocol = "drv-thru-relay.1"

	// RouteRelayListen, RouteRelayDial and RouteRelayAccept are net/http
	// patterns without the method.
	RouteRelayListen = "/v1/listen"
	RouteRelayDial   = "/v1/dial/{endpoint}"
	RouteRelayAccept = "/v1/accept/{circuit}"

	// RelayErrorsQuery and RelayErrorsSocket ask for a refusal that a page in
	// a browser can see.
	RelayErrorsQuery  = "errors"
	RelayErrorsSocket = "socket"

	// HeaderRelaySTUN says in the answer to a handshake where the relay
	// answers STUN: "host:port" or ":port".
	HeaderRelaySTUN = "Drv-Thru-Stun"
	// HeaderRelayCircuit tells who dials the circuit's ID, which is spent by
	// then: so that the logs of client, relay and builder have it in common.
	HeaderRelayCircuit = "Drv-Thru-Circuit"
)

// Limits of the relay's protocol, bytes.
const (
	// RelayMaxControl bounds a message on a listen socket: the largest honest
	// one is under 400 bytes.
	RelayMaxControl = 4 << 10
	// RelayMaxMessage bounds a message on a circuit. Peers send about 256 KiB
	// at a time; the rest is room for a later version.
	RelayMaxMessage = 1 << 20
	// RelayNonceSize is the length of a challenge.
	RelayNonceSize = 32
	// RelaySTUNRequest is the length from which a STUN request is answered:
	// the 20 bytes of a header and 24 of a mapped IPv6 address.
	RelaySTUNRequest = 44
	// CircuitIDSize is the length of a circuit's ID before encoding.
	CircuitIDSize = 16
	// relayMaxHost bounds a relay's name in a registration: a DNS name of 253
	// characters and a port.
	relayMaxHost = 253 + 6
	// relayMaxCode bounds a code in a message.
	relayMaxCode = 64
)

// Times of the relay's protocol.
const (
	// RelayHandshakeTimeout is how long a builder has to register.
	RelayHandshakeTimeout = 10 * time.Second
	// RelayAcceptTimeout is how long a builder has to come for a circuit.
	RelayAcceptTimeout = 10 * time.Second
	// RelayKeepalive is how often a relay pings a registered builder.
	RelayKeepalive = 12 * time.Second
	// RelayDeadAfter is when a silent peer of a listen socket is taken for
	// dead: two pings missed.
	RelayDeadAfter = 30 * time.Second
)

// Close codes of the relay, in the range that RFC 6455 leaves to applications.
// 1000 is a clean end, 1001 a relay that shuts down.
const (
	// RelayCloseReplaced: the same endpoint registered again elsewhere.
	RelayCloseReplaced = 4000
	// RelayCloseProof: the registration was refused.
	RelayCloseProof = 4001
	// RelayCloseTimeout: silent for too long.
	RelayCloseTimeout = 4002
	// RelayCloseBroken: the other end of the circuit was lost.
	RelayCloseBroken = 4003
)

// Codes of the relay.
const (
	CodeRelayNoBuilder Code = "relay.no_builder"   // the builder is not connected to this relay
	CodeRelayNoAnswer  Code = "relay.no_answer"    // the builder did not come for the circuit
	CodeRelayRefused   Code = "relay.refused"      // the builder takes no circuit now
	CodeRelayNoCircuit Code = "relay.no_circuit"   // unknown, used or expired circuit
	CodeRelayFull      Code = "relay.full"         // a limit of the relay is reached
	CodeRelayRate      Code = "relay.rate"         // too many handshakes
	CodeRelayProof     Code = "relay.proof"        // the registration proves nothing
	CodeRelayHost      Code = "relay.host"         // the registration is meant for another relay
	CodeRelayAccess    Code = "relay.access"       // the relay does not let this builder in
	CodeRelayVersion   Code = "relay.version"      // version not spoken by the relay
	CodeRelayRequest   Code = "relay.bad_request"  // not a request of this protocol
	CodeRelayClosing   Code = "relay.closing"      // the relay shuts down
	CodeRelayLost      Code = "relay.circuit_lost" // the other end of the circuit was lost
	CodeRelayReplaced  Code = "relay.replaced"     // another process registered the same endpoint
)

var relayCodes = map[Code]codeInfo{
	CodeRelayNoBuilder: {http.StatusNotFound, ExitUnreachable, "the builder is not connected to this relay"},
	CodeRelayNoAnswer:  {http.StatusGatewayTimeout, ExitUnreachable, "the builder is connected to the relay but does not answer"},
	CodeRelayRefused:   {http.StatusServiceUnavailable, ExitUnreachable, "the builder takes no new connections"},
	CodeRelayNoCircuit: {http.StatusNotFound, ExitUnreachable, "no such circuit: used, expired or never opened"},
	CodeRelayFull:      {http.StatusServiceUnavailable, ExitUnreachable, "the relay has reached a limit"},
	CodeRelayRate:      {http.StatusTooManyRequests, ExitUnreachable, "too many connections to the relay at once"},
	CodeRelayProof:     {http.StatusForbidden, ExitDenied, "the registration is not proved"},
	CodeRelayAccess:    {http.StatusForbidden, ExitDenied, "the relay takes only builders that its owner let in"},
	CodeRelayHost:      {http.StatusForbidden, ExitDenied, "the registration names another relay"},
	CodeRelayVersion:   {http.StatusUpgradeRequired, ExitFailed, "protocol version is not spoken by the relay"},
	CodeRelayRequest:   {http.StatusBadRequest, ExitFailed, "not a request that a relay understands"},
	CodeRelayClosing:   {http.StatusServiceUnavailable, ExitUnreachable, "the relay is shutting down"},
	CodeRelayLost:      {http.StatusBadGateway, ExitUnreachable, "the other end of the circuit was lost"},
	CodeRelayReplaced:  {http.StatusConflict, ExitFailed, "another process has registered the same endpoint"},
}

func init() { maps.Copy(codes, relayCodes) }

// RelayMessageType says what a RelayMessage tells.
type RelayMessageType string

// Message types of a listen socket. A receiver ignores types that it does not know.
const (
	RelayChallenge  RelayMessageType = "challenge"  // Nonce
	RelayRegister   RelayMessageType = "register"   // Endpoint, Host, Signature
	RelayRegistered RelayMessageType = "registered" // KeepaliveMS
	RelayPing       RelayMessageType = "ping"
	RelayPong       RelayMessageType = "pong"
	RelayIncoming   RelayMessageType = "incoming" // Circuit
	RelayRefuse     RelayMessageType = "refuse"   // Circuit, Code
	RelayRefused    RelayMessageType = "refused"  // Code; also the only message of a refused handshake
)

// RelayMessage is one message of a listen socket; its type says which members
// it has.
type RelayMessage struct {
	Type RelayMessageType `json:"type"`
	// Nonce is the relay's challenge, RelayNonceSize bytes (base64 in JSON).
	Nonce []byte `json:"nonce,omitempty"`
	// Endpoint is the builder that registers.
	Endpoint key.ID `json:"endpoint,omitzero"`
	// Host is the relay's name as the builder knows it; see [RelayHost].
	Host string `json:"host,omitempty"`
	// Signature is the endpoint's ed25519 signature of [RelayProof], 64 bytes.
	Signature []byte `json:"signature,omitempty"`
	// KeepaliveMS is the interval of the relay's pings, milliseconds.
	KeepaliveMS int64 `json:"keepalive_ms,omitempty"`
	// Circuit names a circuit that somebody dials.
	Circuit CircuitID `json:"circuit,omitempty"`
	// Code is why a circuit or a handshake is refused.
	Code Code `json:"code,omitempty"`
}

// ErrRelayMessage is wrapped by every error of [ParseRelayMessage].
var ErrRelayMessage = errors.New("not a message of the relay protocol")

// ParseRelayMessage reads a message and checks that what its type calls for is
// there and well-formed. A message of an unknown type is no error: its Type
// tells, and the receiver goes on.
func ParseRelayMessage(data []byte) (RelayMessage, error) {
	var m RelayMessage
	if len(data) > RelayMaxControl {
		return m, fmt.Errorf("%w: %d bytes, the limit is %d", ErrRelayMessage, len(data), RelayMaxControl)
	}
	if err := json.Unmarshal(data, &m); err != nil {
		return RelayMessage{}, fmt.Errorf("%w: %v", ErrRelayMessage, err)
	}
	var want string
	switch m.Type {
	case "":
		want = "a type"
	case RelayChallenge:
		if len(m.Nonce) != RelayNonceSize {
			want = fmt.Sprintf("a nonce of %d bytes", RelayNonceSize)
		}
	case RelayRegister:
		switch {
		case m.Endpoint.IsZero():
			want = "an endpoint"
		case m.Host == "" || len(m.Host) > relayMaxHost || m.Host != RelayHost(m.Host):
			want = "the relay's host in its plain form"
		case len(m.Signature) != 64:
			want = "a signature of 64 bytes"
		}
	case RelayRegistered:
		if m.KeepaliveMS <= 0 || m.KeepaliveMS > RelayDeadAfter.Milliseconds() {
			want = fmt.Sprintf("a keepalive of at most %d ms", RelayDeadAfter.Milliseconds())
		}
	case RelayIncoming, RelayRefuse:
		if _, err := ParseCircuitID(string(m.Circuit)); err != nil {
			want = "a circuit"
		} else if len(m.Code) > relayMaxCode {
			want = "a shorter code"
		}
	case RelayRefused:
		if m.Code == "" || len(m.Code) > relayMaxCode {
			want = "a code"
		}
	}
	if want != "" {
		return RelayMessage{}, fmt.Errorf("%w: type %.20q wants %s", ErrRelayMessage, string(m.Type), want)
	}
	return m, nil
}

// Encode returns the message's JSON.
func (m RelayMessage) Encode() []byte {
	data, err := json.Marshal(m)
	if err != nil {
		// Every member is a text, a number or bytes.
		panic("encode relay message: " + err.Error())
	}
	return data
}

// relayProofLabel keeps a proof from being a signature of anything else.
const relayProofLabel = "drv-thru relay registration 1\x00"

// RelayProof is what an endpoint signs to register:
//
//	"drv-thru relay registration 1" 0x00
//	length of host, 2 bytes big endian; host
//	nonce, 32 bytes
//	endpoint ID, 32 bytes
func RelayProof(host string, nonce []byte, endpoint key.ID) []byte {
	out := make([]byte, 0, len(relayProofLabel)+2+len(host)+len(nonce)+len(endpoint))
	out = append(out, relayProofLabel...)
	out = append(out, byte(len(host)>>8), byte(len(host)))
	out = append(out, host...)
	out = append(out, nonce...)
	return append(out, endpoint[:]...)
}

// RelayHost brings a relay's authority (a Host header, a URL's host) into the
// form that is signed: lower case, no trailing dot, no default port, no zone, as a
// Host header has none (RFC 6874 §1).
func RelayHost(authority string) string {
	host, port, err := net.SplitHostPort(authority)
	if err != nil {
		host, port = strings.TrimSuffix(strings.TrimPrefix(authority, "["), "]"), ""
	}
	host, _, _ = strings.Cut(host, "%")
	host = strings.TrimRight(strings.ToLower(host), ".")
	switch port {
	case "", "80", "443":
		if strings.Contains(host, ":") {
			return "[" + host + "]"
		}
		return host
	}
	return net.JoinHostPort(host, port)
}

// CircuitID names a circuit: 16 random bytes as 32 digits of lower-case
// hexadecimal.
type CircuitID string

// NewCircuitID draws an ID from r.
func NewCircuitID(r io.Reader) (CircuitID, error) {
	var raw [CircuitIDSize]byte
	if _, err := io.ReadFull(r, raw[:]); err != nil {
		return "", fmt.Errorf("make circuit ID: %w", err)
	}
	return CircuitID(hex.EncodeToString(raw[:])), nil
}

// ParseCircuitID checks the text of an ID.
func ParseCircuitID(text string) (CircuitID, error) {
	if raw, err := hex.DecodeString(text); err != nil || len(raw) != CircuitIDSize || hex.EncodeToString(raw) != text {
		return "", fmt.Errorf("not a circuit ID: want %d digits of lower-case hexadecimal", 2*CircuitIDSize)
	}
	return CircuitID(text), nil
}

// RelayCode returns the relay's code that text is, as a close reason has it.
func RelayCode(text string) (Code, bool) {
	_, ok := relayCodes[Code(text)]
	return Code(text), ok
}
