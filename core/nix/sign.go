package nix

import (
	"crypto/ed25519"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"

	"github.com/nix-community/go-nix/pkg/narinfo/signature"
)

type (
	// SecretKey is a Nix signing key, "name:base64" of 64 bytes, as
	// nix-store --generate-binary-cache-key writes it.
	SecretKey = signature.SecretKey
	// PublicKey is the key that checks its signatures, "name:base64" of 32 bytes.
	PublicKey = signature.PublicKey
)

// ParseSecretKey reads a signing key. White space around it is ignored, as key
// files end in a newline. Its errors never quote the key.
func ParseSecretKey(text string) (SecretKey, error) {
	text = strings.TrimSpace(text)
	if len(text) > maxLineLen {
		return SecretKey{}, errors.New("secret key: too long")
	}
	key, err := signature.LoadSecretKey(text)
	if err != nil {
		return SecretKey{}, errors.New("secret key: not of the form name:base64 with 64 bytes")
	}
	public := key.ToPublicKey()
	if !isKeyName(public.Name) {
		return SecretKey{}, errors.New("secret key: malformed name")
	}
	// The second half repeats the public key; a damaged one would make
	// signatures that nobody can check.
	_, data, _ := strings.Cut(text, ":")
	raw, err := base64.StdEncoding.DecodeString(data)
	if err != nil || !ed25519.NewKeyFromSeed(raw[:ed25519.SeedSize]).Public().(ed25519.PublicKey).Equal(public.Data) {
		return SecretKey{}, errors.New("secret key: its two halves do not fit")
	}
	return key, nil
}

// ParsePublicKey reads one public key.
func ParsePublicKey(text string) (PublicKey, error) {
	text = strings.TrimSpace(text)
	if len(text) > maxLineLen {
		return PublicKey{}, errors.New("public key: too long")
	}
	key, err := signature.ParsePublicKey(text)
	if err != nil {
		return PublicKey{}, fmt.Errorf("public key %s: want NAME:KEY, and KEY in base64", quote(text))
	}
	if !isKeyName(key.Name) {
		return PublicKey{}, fmt.Errorf("public key %s: malformed name", quote(text))
	}
	return key, nil
}

// isKeyName tells whether name can stand in a list of keys and in a signature.
func isKeyName(name string) bool {
	return isLine(name) && !strings.ContainsAny(name, " :")
}

// Sign returns the signature of the fingerprint, "name:base64", as it stands in
// Sigs. It is the same each time: ed25519 signatures need no randomness.
func (i PathInfo) Sign(key SecretKey) string {
	sig, err := key.Sign(nil, i.Fingerprint())
	if err != nil {
		// Only for pre-hashed messages, which this is not.
		panic("sign " + string(i.Path) + ": " + err.Error())
	}
	return sig.String()
}

// VerifySig looks for a signature that one of the keys made, and returns that
// key. As in Nix, a key speaks only for signatures of its own name; several keys
// may have one name.
func (i PathInfo) VerifySig(keys []PublicKey) (PublicKey, bool) {
	fingerprint := ""
	for k, text := range i.Sigs {
		if k == MaxSigs {
			break
		}
		sig, err := signature.ParseSignature(text)
		if err != nil {
			continue
		}
		for _, key := range keys {
			if key.Name != sig.Name {
				continue
			}
			if fingerprint == "" {
				fingerprint = i.Fingerprint()
			}
			if key.Verify(fingerprint, sig) {
				return key, true
			}
		}
	}
	return PublicKey{}, false
}
