package client

import (
	"fmt"
	"slices"
	"strings"

	"github.com/drv-thru/drv-thru/core/nix"
)

// LocalTrust is what decides whether the local Nix takes what a builder signed.
type LocalTrust struct {
	// User is who builds, by name.
	User string
	// UserTrusted tells that the daemon trusts the user, who may then say which
	// keys are to be trusted.
	UserTrusted bool
	// Keys are the trusted-public-keys of the machine's Nix, "name:base64", in its
	// order.
	Keys []string
	// NoSigs tells that the machine's Nix requires no signatures.
	NoSigs bool
}

// TrustError says that the local Nix would refuse what the builder signs.
type TrustError struct {
	User string // who builds
	Key  string // what the builder signs with, "name:base64"
	// SameName tells that another key of that name is trusted, alone or before it.
	SameName bool
	// Helper is what is the matter with the import helper; "" when there is none.
	Helper string
}

// keyNameChars mean nothing to nix.conf, the Nix language or a shell.
const keyNameChars = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.-_+@/"

// CheckTrust fails with a [*TrustError] unless the local Nix will import what
// is signed with key, and with another error if that is no key, or none to paste
// into a configuration.
func CheckTrust(signingKey string, t LocalTrust) error {
	if _, err := nix.ParsePublicKey(signingKey); err != nil {
		return fmt.Errorf("what the builder signs with is no key: %w", err)
	}
	name, _, _ := strings.Cut(signingKey, ":")
	// Of several keys of one name Nix heeds the first (getDefaultPublicKeys).
	first := slices.IndexFunc(t.Keys, func(k string) bool { return strings.HasPrefix(k, name+":") })
	if t.UserTrusted || t.NoSigs || first >= 0 && t.Keys[first] == signingKey {
		return nil
	}
	if strings.ContainsFunc(name, func(r rune) bool { return !strings.ContainsRune(keyNameChars, r) }) {
		return fmt.Errorf("the Nix of this machine trusts neither the user %s nor the key that the builder signs with, whose name %q is too odd to be added anywhere", t.User, name)
	}
	return &TrustError{User: t.User, Key: signingKey, SameName: first >= 0}
}

// Error implements [error].
func (e *TrustError) Error() string {
	s := fmt.Sprintf("the Nix of this machine would not import what the builder signs: it does not trust the user %s, nor the key %s", e.User, e.Key)
	if e.SameName {
		s += " (it trusts another key of the same name: the builder's has changed, or this is another builder)"
	}
	if e.Helper != "" {
		s += "; " + e.Helper
	}
	return s
}

// Hint says how to change it, with lines to paste.
func (e *TrustError) Hint() string {
	instead := ""
	if e.SameName {
		instead = "   in place of the other key of that name, as Nix heeds the first of a name only,\n"
	}
	return fmt.Sprintf(`One of these is enough.
1. Trust the builder's key. In /etc/nix/nix.conf:
       extra-trusted-public-keys = %[2]s
%[3]s   then: sudo systemctl restart nix-daemon
   NixOS: nix.settings.extra-trusted-public-keys = [ "%[2]s" ];
2. Trust the user with everything that Nix can do as root. In /etc/nix/nix.conf:
       extra-trusted-users = %[1]s
   then: sudo systemctl restart nix-daemon
   NixOS: nix.settings.extra-trusted-users = [ "%[1]s" ];
3. Let the import helper take what the key has signed, for the users of a group and
   for nothing else. In /etc/drv-thru/import-helper.keys:
       %[2]s
   then: sudo systemctl enable --now drv-thru-import-helper.socket, with the user %[1]s
   in the group drv-thru-import
   NixOS, for the group wheel or the one named by the option group:
       services.drv-thru.client.ticketHelper = {
         enable = true; trustedBuilderPublicKeys = [ "%[2]s" ];
       };`, e.User, e.Key, instead)
}
