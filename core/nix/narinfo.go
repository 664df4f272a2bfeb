package nix

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
)

const (
	// MaxNarInfo is the longest narinfo that is read, in bytes: room for the
	// references of a closure with tens of thousands of paths.
	MaxNarInfo = 8 << 20

	noDeriver = "unknown-deriver"
)

// ErrBadNarInfo is wrapped by every error of the narinfo parsers.
var ErrBadNarInfo = errors.New("malformed narinfo")

// NarURL is the path of a NAR in a binary cache, relative to its root:
// nar/<hash in Nix's base32>.nar, uncompressed.
func NarURL(narHash Hash) string { return "nar/" + narHash.Nix32() + ".nar" }

// NarInfoURL is the path of a narinfo in a binary cache: <hash part>.narinfo.
func NarInfoURL(p Path) string { return p.Hash() + ".narinfo" }

// MarshalNarInfo writes the text that a binary cache serves for the path
// (Nix libstore/nar-info.cc), its NAR uncompressed at NarURL. The info must be
// valid (Validate), or lines could come out that nobody meant.
func (i PathInfo) MarshalNarInfo() []byte {
	b := make([]byte, 0, 512+64*len(i.References)+128*len(i.Sigs))
	line := func(key, value string) {
		b = append(append(append(append(b, key...), ": "...), value...), '\n')
	}
	hash, size := i.NarHash.String(), strconv.FormatUint(i.NarSize, 10)
	line("StorePath", string(i.Path))
	line("URL", NarURL(i.NarHash))
	line("Compression", "none")
	line("FileHash", hash)
	line("FileSize", size)
	line("NarHash", hash)
	line("NarSize", size)
	b = append(b, "References: "...)
	for k, r := range SortedPaths(i.References) {
		if k > 0 {
			b = append(b, ' ')
		}
		b = append(b, r.Base()...)
	}
	b = append(b, '\n')
	if i.Deriver != "" {
		line("Deriver", i.Deriver.Base())
	}
	for _, sig := range i.Sigs {
		line("Sig", sig)
	}
	if i.CA != "" {
		line("CA", i.CA)
	}
	return b
}

// ParseNarInfo reads a narinfo of an uncompressed cache, the form that
// MarshalNarInfo writes: Compression none and the NAR at NarURL. References
// come back sorted. Keys that it does not know are ignored, as Nix does.
func ParseNarInfo(text []byte) (PathInfo, error) {
	if len(text) > MaxNarInfo {
		return PathInfo{}, fmt.Errorf("%w: longer than %d bytes", ErrBadNarInfo, MaxNarInfo)
	}
	p := narInfoParser{seen: make(map[string]string, 12)}
	for line := range strings.Lines(string(text)) {
		if err := p.line(strings.TrimSuffix(line, "\n")); err != nil {
			return PathInfo{}, fmt.Errorf("%w: %w", ErrBadNarInfo, err)
		}
	}
	if err := p.finish(); err != nil {
		return PathInfo{}, fmt.Errorf("%w: %w", ErrBadNarInfo, err)
	}
	return p.info, nil
}

type narInfoParser struct {
	info PathInfo
	seen map[string]string // the keys that may stand once, with their values
}

func (p *narInfoParser) line(line string) error {
	key, value, ok := strings.Cut(line, ": ")
	if !ok {
		return fmt.Errorf("line %s has no colon", quote(line))
	}
	switch key {
	case "Sig":
		if len(p.info.Sigs) == MaxSigs {
			return fmt.Errorf("more than %d signatures", MaxSigs)
		}
		p.info.Sigs = append(p.info.Sigs, value)
		return nil
	case "StorePath", "URL", "Compression", "FileHash", "FileSize", "NarHash", "NarSize", "References", "Deriver", "CA":
	default:
		return nil
	}
	if _, twice := p.seen[key]; twice {
		return fmt.Errorf("%s stands twice", key)
	}
	p.seen[key] = value
	var err error
	switch key {
	case "StorePath":
		p.info.Path, err = ParsePath(value)
	case "NarHash":
		p.info.NarHash, err = ParseHash(value)
	case "NarSize":
		p.info.NarSize, err = parseSize(value)
	case "References":
		p.info.References, err = parseReferences(value)
	case "Deriver":
		if value != noDeriver {
			p.info.Deriver, err = ParseBase(value)
		}
	case "CA":
		p.info.CA = value
	}
	return err
}

// finish checks what only the whole can show.
func (p *narInfoParser) finish() error {
	if err := p.info.Validate(); err != nil {
		return err
	}
	if c := p.seen["Compression"]; c != "none" {
		return fmt.Errorf("compression %s, want none", quote(c))
	}
	if u := p.seen["URL"]; u != NarURL(p.info.NarHash) {
		return fmt.Errorf("URL %s is not that of its NAR hash", quote(u))
	}
	if s, ok := p.seen["FileHash"]; ok {
		if h, err := ParseHash(s); err != nil || h != p.info.NarHash {
			return errors.New("file hash and NAR hash differ without compression")
		}
	}
	if s, ok := p.seen["FileSize"]; ok {
		if n, err := parseSize(s); err != nil || n != p.info.NarSize {
			return errors.New("file size and NAR size differ without compression")
		}
	}
	return nil
}

// parseSize reads a decimal number in its one form: no sign, no leading zero.
func parseSize(s string) (uint64, error) {
	n, err := strconv.ParseUint(s, 10, 64)
	if err != nil || strconv.FormatUint(n, 10) != s {
		return 0, fmt.Errorf("%s is not a size", quote(s))
	}
	return n, nil
}

func parseReferences(s string) ([]Path, error) {
	if s == "" {
		return nil, nil
	}
	if strings.Count(s, " ") >= MaxReferences {
		return nil, fmt.Errorf("more than %d references", MaxReferences)
	}
	var refs []Path
	for base := range strings.SplitSeq(s, " ") {
		r, err := ParseBase(base)
		if err != nil {
			return nil, err
		}
		refs = append(refs, r)
	}
	return SortedPaths(refs), nil
}
