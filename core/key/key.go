// Package key holds the identities of drv-thru: an endpoint's ed25519 key, the
// TLS certificate made of it, and the files that keys live in.
//
// An endpoint ID is the public key itself, so whoever knows the ID can check
// the peer without asking anyone. The package knows nothing of tickets, relays
// or Nix, and draws randomness only from the reader it is given.
package key

import (
	"crypto/ed25519"
	"encoding/base32"
	"errors"
	"fmt"
	"io"
	"strings"
)

// idTextLen is the length of an ID's text: 32 bytes in base32 without padding.
const idTextLen = 52

// encoding is RFC 4648 base32 in lower case without padding: it survives
// double-click selection, DNS labels and case-folding terminals.
var encoding = base32.NewEncoding("abcdefghijklmnopqrstuvwxyz234567").WithPadding(base32.NoPadding)

// EncodeBase32 writes bytes as all IDs and secrets are written: RFC 4648 base32 in
// lower case without padding.
func EncodeBase32(raw []byte) string { return encoding.EncodeToString(raw) }

// DecodeBase32 reads what [EncodeBase32] wrote. It takes no other text of the same bytes,
// of which there are some: the last character may have bits that stand for nothing.
func DecodeBase32(text string) (raw []byte, ok bool) {
	raw, err := encoding.DecodeString(text)
	return raw, err == nil && EncodeBase32(raw) == text
}

// ID is an endpoint's identity: its ed25519 public key (RFC 8032).
type ID [ed25519.PublicKeySize]byte

// ErrBadID is wrapped by every error of ParseID.
var ErrBadID = errors.New("not an endpoint ID")

// ParseID reads the text form: 52 characters of lower-case base32.
func ParseID(text string) (ID, error) {
	var id ID
	if len(text) != idTextLen {
		return id, fmt.Errorf("%w: want %d characters of base32, got %d", ErrBadID, idTextLen, len(text))
	}
	raw, err := encoding.DecodeString(text)
	if err != nil {
		return id, fmt.Errorf("%w: only a-z and 2-7 may occur", ErrBadID)
	}
	copy(id[:], raw)
	// The last character carries four unused bits; accepting them set would
	// give one endpoint several names.
	if id.String() != text {
		return ID{}, fmt.Errorf("%w: it is not in canonical form", ErrBadID)
	}
	return id, nil
}

// String returns the 52-character text form.
func (id ID) String() string { return EncodeBase32(id[:]) }

// Short returns the first ten characters, for logs and screens.
func (id ID) Short() string { return id.String()[:10] }

// IsZero reports whether the ID was never set.
func (id ID) IsZero() bool { return id == ID{} }

// MarshalText implements [encoding.TextMarshaler]; the zero ID is the empty text.
func (id ID) MarshalText() ([]byte, error) {
	if id.IsZero() {
		return nil, nil
	}
	return []byte(id.String()), nil
}

// UnmarshalText implements [encoding.TextUnmarshaler].
func (id *ID) UnmarshalText(text []byte) error {
	if len(text) == 0 {
		*id = ID{}
		return nil
	}
	parsed, err := ParseID(string(text))
	if err != nil {
		return err
	}
	*id = parsed
	return nil
}

// Verify reports whether sig is id's ed25519 signature of msg.
func Verify(id ID, msg, sig []byte) bool {
	return ed25519.Verify(id[:], msg, sig)
}

// secretPrefix names the file format, so that a key pasted into the wrong
// place is recognised for what it is.
const secretPrefix = "drvthru-secret-key-1:"

// Secret is an endpoint's secret key. Formatting it prints only its ID.
type Secret struct {
	key ed25519.PrivateKey
}

// NewSecret makes a key from 32 bytes of rand.
func NewSecret(rand io.Reader) (Secret, error) {
	seed := make([]byte, ed25519.SeedSize)
	if _, err := io.ReadFull(rand, seed); err != nil {
		return Secret{}, fmt.Errorf("make key: %w", err)
	}
	return Secret{ed25519.NewKeyFromSeed(seed)}, nil
}

// ParseSecret reads what [Secret.Text] wrote; surrounding white space is allowed.
func ParseSecret(text string) (Secret, error) {
	body, ok := strings.CutPrefix(strings.TrimSpace(text), secretPrefix)
	if !ok {
		return Secret{}, fmt.Errorf("not a secret key: it does not start with %q", secretPrefix)
	}
	seed, ok := DecodeBase32(body)
	if !ok || len(seed) != ed25519.SeedSize {
		return Secret{}, errors.New("not a secret key: its body is damaged")
	}
	return Secret{ed25519.NewKeyFromSeed(seed)}, nil
}

// Text returns the key's text form, a secret: "drvthru-secret-key-1:" and the
// 32-byte seed in lower-case base32.
func (s Secret) Text() string { return secretPrefix + EncodeBase32(s.key.Seed()) }

// IsZero reports whether the key was never set.
func (s Secret) IsZero() bool { return s.key == nil }

// ID returns the public half.
func (s Secret) ID() ID {
	var id ID
	copy(id[:], s.key.Public().(ed25519.PublicKey))
	return id
}

// Sign returns the 64-byte ed25519 signature of msg. Callers give every kind
// of message its own prefix, so that no signature can be used as another.
func (s Secret) Sign(msg []byte) []byte { return ed25519.Sign(s.key, msg) }

// Format keeps secrets out of logs, whatever the verb: it names the key by its ID.
func (s Secret) Format(f fmt.State, _ rune) {
	if s.IsZero() {
		io.WriteString(f, "secret key (unset)")
		return
	}
	io.WriteString(f, "secret key of "+s.ID().String())
}
