package nix

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
)

const (
	// MaxReferences bounds the references of one path.
	MaxReferences = 100_000
	// MaxSigs bounds the signatures of one path.
	MaxSigs = 256
	// maxLineLen bounds the free-form fields of a path info (a signature, a
	// content address): longer than any that Nix writes.
	maxLineLen = 1024
)

// PathInfo is what Nix knows of a valid store path (ValidPathInfo).
type PathInfo struct {
	Path Path `json:"path"`
	// Deriver is the .drv that built the path, or empty.
	Deriver Path `json:"deriver,omitempty"`
	NarHash Hash `json:"narHash"`
	// NarSize is the length of the path's NAR in bytes.
	NarSize uint64 `json:"narSize"`
	// References are sorted (SortedPaths) and may hold Path itself.
	References []Path `json:"references,omitempty"`
	// RegistrationTime is in seconds since 1970; 0 means unknown.
	RegistrationTime int64 `json:"registrationTime,omitempty"`
	// Ultimate says that the path was built in that store.
	Ultimate bool `json:"ultimate,omitempty"`
	// Sigs are "name:base64", as Nix keeps them.
	Sigs []string `json:"sigs,omitempty"`
	// CA is the content address (ParseCA), or empty for an input-addressed path.
	CA string `json:"ca,omitempty"`
}

// PathsOf returns the paths of infos.
func PathsOf(infos []PathInfo) []Path {
	paths := make([]Path, len(infos))
	for i := range infos {
		paths[i] = infos[i].Path
	}
	return paths
}

// Tops returns the paths that no other of infos refers to. Those of a closure keep all
// of it from garbage collection.
func Tops(infos []PathInfo) []Path {
	referred := make(map[Path]bool, len(infos))
	for i := range infos {
		for _, r := range infos[i].References {
			if r != infos[i].Path {
				referred[r] = true
			}
		}
	}
	return slices.DeleteFunc(PathsOf(infos), func(p Path) bool { return referred[p] })
}

// Fingerprint is the text that signatures are made of
// (Nix libstore/path-info.cc): 1;<path>;<nar hash>;<nar size>;<references>,
// the hash in base32 with its algorithm and the references joined by commas.
func (i PathInfo) Fingerprint() string {
	refs := SortedPaths(i.References)
	n := 128 + len(i.Path)
	for _, r := range refs {
		n += len(r) + 1
	}
	var b strings.Builder
	b.Grow(n)
	b.WriteString("1;")
	b.WriteString(string(i.Path))
	b.WriteByte(';')
	b.WriteString(i.NarHash.String())
	b.WriteByte(';')
	b.WriteString(strconv.FormatUint(i.NarSize, 10))
	b.WriteByte(';')
	for k, r := range refs {
		if k > 0 {
			b.WriteByte(',')
		}
		b.WriteString(string(r))
	}
	return b.String()
}

// Validate checks the form of every field: valid paths, sorted references,
// limits, and nothing that would break a line of a narinfo. It does not check
// that the content address fits the path (NewCAVerifier does).
func (i PathInfo) Validate() error {
	if _, err := ParsePath(string(i.Path)); err != nil {
		return err
	}
	if i.Deriver != "" {
		if _, err := ParsePath(string(i.Deriver)); err != nil {
			return fmt.Errorf("deriver: %w", err)
		}
	}
	if i.NarHash.IsZero() || i.NarSize == 0 || i.NarSize > math.MaxInt64 {
		return errors.New("nar hash or size missing or absurd")
	}
	if len(i.References) > MaxReferences {
		return fmt.Errorf("more than %d references", MaxReferences)
	}
	for k, r := range i.References {
		if _, err := ParsePath(string(r)); err != nil {
			return fmt.Errorf("reference: %w", err)
		}
		if k > 0 && i.References[k-1] >= r {
			return errors.New("references not sorted")
		}
	}
	if len(i.Sigs) > MaxSigs {
		return fmt.Errorf("more than %d signatures", MaxSigs)
	}
	for _, s := range i.Sigs {
		if !isLine(s) {
			return fmt.Errorf("malformed signature %s", quote(s))
		}
	}
	if i.CA != "" {
		if _, err := ParseCA(i.CA); err != nil {
			return err
		}
	}
	return nil
}

// isLine reports whether s can stand in a line of text: printable ASCII, not
// empty, of bounded length.
func isLine(s string) bool {
	if s == "" || len(s) > maxLineLen {
		return false
	}
	for i := range len(s) {
		if s[i] < ' ' || s[i] > '~' {
			return false
		}
	}
	return true
}
