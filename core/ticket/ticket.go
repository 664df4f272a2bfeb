// Package ticket reads and writes tickets: the one line of text that lets its
// holder build on someone's machine.
//
// A ticket names the builder, how to reach it and a random secret. What the
// ticket allows is not in it: that is the builder's record, found by the
// ticket's [ID], which is derived from the secret. So a ticket cannot be
// altered into a better one, and a list of IDs gives nobody access.
//
// # Text form
//
// "drvthru" followed by lower-case base32 (RFC 4648, no padding) of
//
//	offset  size  field
//	0       1     version, 1
//	1       32    builder's endpoint ID
//	33      32    secret
//	65      1     number of relays, at most 8
//	              then for each: 1 byte length (1–255) and the URL
//	        1     number of direct addresses, at most 16
//	              then for each: 1 byte 4 or 6, the address (4 or 16 bytes),
//	              2 bytes port, big endian
//	        4     the first 4 bytes of BLAKE3 of all before
//
// The checksum is there to name a damaged paste as such; it protects nothing.
// White space and line breaks inside a pasted ticket are ignored, and so is
// the case of its letters.
package ticket

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"net/url"
	"strconv"
	"strings"

	"github.com/zeebo/blake3"

	"github.com/drv-thru/drv-thru/core/key"
)

// Limits of the text form.
const (
	MaxRelays = 8
	MaxDirect = 16
	// MaxText is the longest text that Parse looks at: a ticket with every
	// field full, generously rounded up for line breaks.
	MaxText = 8 << 10

	prefix      = "drvthru"
	version     = 1
	checksumLen = 4
	maxURLLen   = 255
)

// Errors of [Parse]; each is wrapped with details.
var (
	// ErrNotTicket: the text is something else.
	ErrNotTicket = errors.New("not a drv-thru ticket")
	// ErrSurrounded is an ErrNotTicket that has a ticket in it, such as in quotes.
	ErrSurrounded = fmt.Errorf("%w: something stands", ErrNotTicket)
	// ErrDamaged: it was a ticket, but characters are missing or changed.
	ErrDamaged = errors.New("ticket is damaged: characters are missing or changed; copy it again in full")
	// ErrVersion: made by a newer drv-thru.
	ErrVersion = errors.New("ticket has a newer format; update drv-thru")
)

// Secret is what its holder proves to the builder. Formatting it prints nothing of it.
type Secret [32]byte

// Format keeps the secret out of logs, whatever the verb.
func (Secret) Format(f fmt.State, _ rune) { io.WriteString(f, "(ticket secret)") }

// Text returns the secret's 52 characters of base32, as the protocol sends it.
func (s Secret) Text() string { return key.EncodeBase32(s[:]) }

// ParseSecret reads what [Secret.Text] wrote.
func ParseSecret(text string) (Secret, error) {
	raw, ok := key.DecodeBase32(text)
	if !ok || len(raw) != len(Secret{}) {
		return Secret{}, errors.New("not a ticket secret")
	}
	return Secret(raw), nil
}

// ID returns the public name of the ticket with this secret.
func (s Secret) ID() ID {
	var id ID
	blake3.DeriveKey("drv-thru 2026-01 ticket ID", s[:], id[:])
	return id
}

// ID names a ticket without giving access: 16 bytes derived from its secret.
type ID [16]byte

// String returns 26 characters of lower-case base32.
func (id ID) String() string { return key.EncodeBase32(id[:]) }

// ParseID reads what [ID.String] wrote.
func ParseID(text string) (ID, error) {
	raw, ok := key.DecodeBase32(text)
	if !ok || len(raw) != len(ID{}) {
		return ID{}, fmt.Errorf("not a ticket ID: %q (want 26 characters of a-z and 2-7)", clip(text))
	}
	return ID(raw), nil
}

// MarshalText implements [encoding.TextMarshaler].
func (id ID) MarshalText() ([]byte, error) { return []byte(id.String()), nil }

// UnmarshalText implements [encoding.TextUnmarshaler].
func (id *ID) UnmarshalText(text []byte) error {
	parsed, err := ParseID(string(text))
	if err == nil {
		*id = parsed
	}
	return err
}

// Ticket is the contents of a ticket's text.
type Ticket struct {
	Builder key.ID
	Secret  Secret
	Relays  []string         // base URLs: http, https
	Direct  []netip.AddrPort // addresses of the builder itself
}

// New makes a ticket with a fresh secret from rand.
func New(rand io.Reader, builder key.ID, relays []string, direct []netip.AddrPort) (Ticket, error) {
	t := Ticket{Builder: builder, Relays: relays, Direct: direct}
	if _, err := io.ReadFull(rand, t.Secret[:]); err != nil {
		return Ticket{}, fmt.Errorf("make ticket: %w", err)
	}
	return t, t.check()
}

// ID returns the ticket's public name.
func (t Ticket) ID() ID { return t.Secret.ID() }

func (t Ticket) check() error {
	if t.Builder.IsZero() {
		return errors.New("ticket names no builder")
	}
	if len(t.Relays) > MaxRelays {
		return fmt.Errorf("ticket has %d relays; at most %d fit", len(t.Relays), MaxRelays)
	}
	if len(t.Direct) > MaxDirect {
		return fmt.Errorf("ticket has %d addresses; at most %d fit", len(t.Direct), MaxDirect)
	}
	if len(t.Relays) == 0 && len(t.Direct) == 0 {
		return errors.New("ticket has neither relay nor address")
	}
	for _, r := range t.Relays {
		if err := CheckRelayURL(r); err != nil {
			return err
		}
	}
	for _, a := range t.Direct {
		if !a.IsValid() || a.Addr().Zone() != "" || a.Port() == 0 {
			return fmt.Errorf("ticket has an unusable address %q", a)
		}
	}
	return nil
}

// CheckRelayURL says what is wrong with a relay's URL: it must be http or
// https with a host and a port that there can be, without user, query or fragment,
// in at most 255 bytes.
func CheckRelayURL(text string) error {
	if text == "" || len(text) > maxURLLen {
		return fmt.Errorf("relay URL has %d bytes; want 1 to %d", len(text), maxURLLen)
	}
	u, err := url.Parse(text)
	if err != nil {
		return fmt.Errorf("relay URL %q cannot be parsed", text)
	}
	switch {
	case u.Scheme != "https" && u.Scheme != "http":
		return fmt.Errorf("relay URL %q must begin with https:// or http://", text)
	case u.Hostname() == "":
		return fmt.Errorf("relay URL %q has no host", text)
	case strings.Contains(u.Host, ","):
		return fmt.Errorf("relay URL %q is more than one: give each by itself", u.Redacted())
	case !portIsUsable(u.Port()):
		return fmt.Errorf("relay URL %q: a port is 1 to 65535", u.Redacted())
	case u.User != nil || u.RawQuery != "" || u.ForceQuery || u.Fragment != "":
		return fmt.Errorf("relay URL %q may hold only scheme, host, port and path", u.Redacted())
	}
	return nil
}

// portIsUsable reports whether a URL's port, "" for that of the scheme, can be dialled.
func portIsUsable(text string) bool {
	port, err := strconv.ParseUint(text, 10, 16)
	return text == "" || err == nil && port > 0
}

// String returns the ticket's text, which is secret. It panics on a ticket
// that neither [New] nor [Parse] made and that breaks their limits.
func (t Ticket) String() string {
	if err := t.check(); err != nil {
		panic(err)
	}
	b := []byte{version}
	b = append(b, t.Builder[:]...)
	b = append(b, t.Secret[:]...)
	b = append(b, byte(len(t.Relays)))
	for _, r := range t.Relays {
		b = append(b, byte(len(r)))
		b = append(b, r...)
	}
	b = append(b, byte(len(t.Direct)))
	for _, d := range t.Direct {
		if a := d.Addr().Unmap(); a.Is4() {
			b = append(b, 4)
			b = append(b, a.AsSlice()...)
		} else {
			b = append(b, 6)
			b = append(b, a.AsSlice()...)
		}
		b = binary.BigEndian.AppendUint16(b, d.Port())
	}
	sum := blake3.Sum256(b)
	return prefix + key.EncodeBase32(append(b, sum[:checksumLen]...))
}

// Format keeps the ticket out of accidental %v and %+v: only [Ticket.String],
// called by name, prints it.
func (t Ticket) Format(f fmt.State, _ rune) {
	fmt.Fprintf(f, "(ticket %s)", t.ID())
}

// Parse reads a ticket's text.
func Parse(text string) (Ticket, error) {
	if len(text) > MaxText {
		return Ticket{}, fmt.Errorf("%w: it has %d characters", ErrNotTicket, len(text))
	}
	text = strings.ToLower(strings.Join(strings.Fields(text), ""))
	body, ok := strings.CutPrefix(text, prefix)
	if !ok && strings.Contains(text, prefix) {
		return Ticket{}, fmt.Errorf("%w before %q", ErrSurrounded, prefix)
	}
	if !ok {
		return Ticket{}, fmt.Errorf("%w: it does not begin with %q", ErrNotTicket, prefix)
	}
	raw, ok := key.DecodeBase32(body)
	if !ok || len(raw) <= checksumLen {
		return Ticket{}, ErrDamaged
	}
	payload, sum := raw[:len(raw)-checksumLen], raw[len(raw)-checksumLen:]
	if want := blake3.Sum256(payload); string(want[:checksumLen]) != string(sum) {
		return Ticket{}, ErrDamaged
	}
	if payload[0] != version {
		return Ticket{}, fmt.Errorf("%w (format %d, this program reads %d)", ErrVersion, payload[0], version)
	}
	t, err := parsePayload(payload[1:])
	if err != nil {
		return Ticket{}, fmt.Errorf("%w: %w", ErrNotTicket, err)
	}
	return t, t.check()
}

func parsePayload(b []byte) (Ticket, error) {
	var t Ticket
	short := errors.New("it ends too early")
	take := func(n int) []byte {
		if b == nil || len(b) < n {
			b = nil
			return make([]byte, n)
		}
		head := b[:n:n]
		b = b[n:]
		return head
	}
	copy(t.Builder[:], take(len(t.Builder)))
	copy(t.Secret[:], take(len(t.Secret)))
	for range take(1)[0] {
		t.Relays = append(t.Relays, string(take(int(take(1)[0]))))
		if b == nil {
			return t, short
		}
	}
	for range take(1)[0] {
		var addr netip.Addr
		switch family := take(1)[0]; family {
		case 4:
			addr = netip.AddrFrom4([4]byte(take(4)))
		case 6:
			addr = netip.AddrFrom16([16]byte(take(16)))
			if addr.Is4In6() {
				return t, errors.New("an IPv4 address is written as IPv6")
			}
		default:
			return t, fmt.Errorf("address of unknown family %d", family)
		}
		t.Direct = append(t.Direct, netip.AddrPortFrom(addr, binary.BigEndian.Uint16(take(2))))
		if b == nil {
			return t, short
		}
	}
	if b == nil {
		return t, short
	}
	if len(b) != 0 {
		return t, fmt.Errorf("%d bytes follow its end", len(b))
	}
	return t, nil
}

func clip(s string) string {
	if len(s) > 64 {
		return s[:64] + "…"
	}
	return s
}
