package nix

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/nix-community/go-nix/pkg/nixbase32"
)

// StoreDir is the only store directory that drv-thru speaks of.
const StoreDir = "/nix/store"

const (
	// MaxNameLen is the longest name of a store path, in bytes
	// (Nix libstore/path.cc, StorePath::MaxPathLen).
	MaxNameLen = 211
	// HashPartLen is the length of a store path's hash part: 20 bytes in Nix's base32.
	HashPartLen = 32

	storePrefix = StoreDir + "/"
	drvSuffix   = ".drv"
	nameOffset  = len(storePrefix) + HashPartLen + 1
)

// ErrBadPath is wrapped by every error of the path parsers.
var ErrBadPath = errors.New("not a store path")

// Path is an absolute store path, /nix/store/<32 characters>-<name>, without
// anything below it. A value that came from a parser or a checked computation
// is valid; its methods expect that.
type Path string

// ParsePath reads an absolute store path, strictly.
func ParsePath(s string) (Path, error) {
	if !strings.HasPrefix(s, storePrefix) {
		return "", fmt.Errorf("%w: %s does not begin with %s", ErrBadPath, quote(s), storePrefix)
	}
	if err := checkBase(s[len(storePrefix):]); err != nil {
		return "", fmt.Errorf("%w: %s: %w", ErrBadPath, quote(s), err)
	}
	return Path(s), nil
}

// ParseBase reads a path as it stands in a narinfo: <32 characters>-<name>.
func ParseBase(s string) (Path, error) {
	if err := checkBase(s); err != nil {
		return "", fmt.Errorf("%w: %s: %w", ErrBadPath, quote(s), err)
	}
	return Path(storePrefix + s), nil
}

func checkBase(s string) error {
	if len(s) < HashPartLen+2 {
		return errors.New("too short")
	}
	for i := range HashPartLen {
		if !nixbase32.Is(s[i]) {
			return errors.New("its hash part has a character outside of Nix's base32")
		}
	}
	if s[HashPartLen] != '-' {
		return errors.New("no dash after the hash part")
	}
	return CheckName(s[HashPartLen+1:])
}

// CheckName tells whether name may be the name of a store path, by the rules
// of the newest Nix, the strictest (libstore/path.cc, checkName).
func CheckName(name string) error {
	switch {
	case name == "":
		return errors.New("empty name")
	case len(name) > MaxNameLen:
		return fmt.Errorf("its name is longer than %d bytes", MaxNameLen)
	case name == "." || name == ".." || strings.HasPrefix(name, ".-") || strings.HasPrefix(name, "..-"):
		return errors.New("its name begins with a dot component")
	}
	for i := range len(name) {
		switch c := name[i]; {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9':
		case c == '+', c == '-', c == '.', c == '_', c == '?', c == '=':
		default:
			return fmt.Errorf("its name has the character %q", c)
		}
	}
	return nil
}

// String returns the absolute path.
func (p Path) String() string { return string(p) }

// Base returns <hash part>-<name>.
func (p Path) Base() string { return string(p[len(storePrefix):]) }

// Hash returns the hash part: 32 characters of Nix's base32.
func (p Path) Hash() string { return string(p[len(storePrefix) : len(storePrefix)+HashPartLen]) }

// Name returns what follows the hash part's dash.
func (p Path) Name() string { return string(p[nameOffset:]) }

// IsDrv reports whether the path names a derivation.
func (p Path) IsDrv() bool { return strings.HasSuffix(string(p), drvSuffix) }

// UnmarshalText is the strict parser of absolute paths, so that JSON cannot
// bring in anything else. The empty text is refused: omit an absent path.
func (p *Path) UnmarshalText(text []byte) error {
	parsed, err := ParsePath(string(text))
	if err != nil {
		return err
	}
	*p = parsed
	return nil
}

// SortedPaths returns the paths in byte order without repetitions, the order in
// which Nix keeps, prints and signs them. Already sorted input is returned as it is.
func SortedPaths(paths []Path) []Path {
	for i := 1; i < len(paths); i++ {
		if paths[i-1] >= paths[i] {
			sorted := slices.Clone(paths)
			slices.Sort(sorted)
			return slices.Compact(sorted)
		}
	}
	return paths
}

// quote renders input for an error message: bounded, without control characters.
func quote(s string) string {
	const most = 80
	if len(s) > most {
		return fmt.Sprintf("%q…", s[:most])
	}
	return fmt.Sprintf("%q", s)
}
