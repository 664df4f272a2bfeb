package nix

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"

	"github.com/nix-community/go-nix/pkg/nixbase32"
)

// ErrBadHash is wrapped by every error of the hash parsers.
var ErrBadHash = errors.New("not a hash")

// Hash is a SHA-256 digest, the only algorithm of NAR hashes.
type Hash [sha256.Size]byte

// ParseHash reads a SHA-256 hash with its algorithm: "sha256:" followed by hex,
// Nix's base32 or base64, or the SRI form "sha256-<base64>".
func ParseHash(s string) (Hash, error) {
	var h Hash
	if text, ok := strings.CutPrefix(s, "sha256-"); ok {
		if len(text) != base64.StdEncoding.EncodedLen(len(h)) {
			return h, fmt.Errorf("%w: %s: wrong length", ErrBadHash, quote(s))
		}
		return h, decodeDigest(h[:], s, text)
	}
	text, ok := strings.CutPrefix(s, "sha256:")
	if !ok {
		return h, fmt.Errorf("%w: %s does not begin with sha256", ErrBadHash, quote(s))
	}
	return h, decodeDigest(h[:], s, text)
}

// ParseHashHex reads a bare digest in hex, the form of the worker protocol.
func ParseHashHex(s string) (Hash, error) {
	var h Hash
	if len(s) != hex.EncodedLen(len(h)) {
		return h, fmt.Errorf("%w: %s: want %d hex digits", ErrBadHash, quote(s), hex.EncodedLen(len(h)))
	}
	return h, decodeDigest(h[:], s, s)
}

// SumHash returns the hash of data.
func SumHash(data []byte) Hash { return sha256.Sum256(data) }

// decodeDigest fills dst from text. As in Nix (libutil/hash.cc), the length
// tells the encoding; whole is what an error message quotes.
func decodeDigest(dst []byte, whole, text string) error {
	var raw []byte
	var err error
	switch len(text) {
	case hex.EncodedLen(len(dst)):
		raw, err = hex.DecodeString(text)
	case nixbase32.EncodedLen(len(dst)):
		raw, err = nixbase32.DecodeString(text)
	case base64.StdEncoding.EncodedLen(len(dst)):
		raw, err = base64.StdEncoding.Strict().DecodeString(text)
	default:
		return fmt.Errorf("%w: %s: wrong length", ErrBadHash, quote(whole))
	}
	// The base64 length also fits other digest lengths, and its decoder skips newlines.
	if err == nil && len(raw) != len(dst) {
		err = errors.New("wrong length")
	}
	if err != nil {
		return fmt.Errorf("%w: %s: %w", ErrBadHash, quote(whole), err)
	}
	copy(dst, raw)
	return nil
}

// String returns "sha256:" and the digest in Nix's base32.
func (h Hash) String() string { return "sha256:" + h.Nix32() }

// Nix32 returns the digest in Nix's base32: 52 characters.
func (h Hash) Nix32() string { return nixbase32.EncodeToString(h[:]) }

// Hex returns the digest in lower-case hex: 64 characters.
func (h Hash) Hex() string { return hex.EncodeToString(h[:]) }

// SRI returns "sha256-" and the digest in base64.
func (h Hash) SRI() string { return "sha256-" + base64.StdEncoding.EncodeToString(h[:]) }

// IsZero reports whether the hash was never set.
func (h Hash) IsZero() bool { return h == Hash{} }

// MarshalText returns the form of String.
func (h Hash) MarshalText() ([]byte, error) { return []byte(h.String()), nil }

// UnmarshalText reads what ParseHash reads.
func (h *Hash) UnmarshalText(text []byte) error {
	parsed, err := ParseHash(string(text))
	if err != nil {
		return err
	}
	*h = parsed
	return nil
}
