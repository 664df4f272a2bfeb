package helper

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/drv-thru/drv-thru/core/nix"
)

// DefaultSocket is where the helper listens.
const DefaultSocket = "/run/drv-thru-import-helper.socket"

// DefaultPath is where the helper looks for nix: NixOS, Nix's installer,
// distributions.
const DefaultPath = "/run/current-system/sw/bin:/nix/var/nix/profiles/default/bin:/usr/local/bin:/usr/bin:/bin"

// Limits of the protocol.
const (
	// Version is that of the protocol.
	Version = 1
	// MaxPaths bounds the paths of one import.
	MaxPaths = 8192
	// MaxRequest bounds a request in bytes: that many of the longest paths.
	MaxRequest = 4 << 20
	// MaxEvent bounds an event in bytes.
	MaxEvent = 64 << 10
	// MaxText bounds the text of an event.
	MaxText = 16 << 10
	// maxKey is longer than the longest key that makes sense.
	maxKey = 512
)

// What a request asks for.
const (
	OpCheck  = "check"  // whether the key would be taken
	OpImport = "import" // import paths
)

// Request is the first message of a client.
type Request struct {
	Version int    `json:"version"`
	Op      string `json:"op"`
	// Key is the whole public key, "name:base64", as it stands on the list.
	Key string `json:"key"`
	// Paths are store paths, references before referrers, no derivations.
	Paths []string `json:"paths,omitempty"`
	// URL is where the client serves the cache itself, without a mount:
	// http://127.0.0.1:PORT or http://[::1]:PORT, and at most one name more.
	URL string `json:"url,omitempty"`
}

// Ready is the second message of a client: it serves the device.
type Ready struct {
	Ready bool `json:"ready"`
}

// Types of events.
const (
	TypeAccepted = "accepted"
	TypeRefused  = "refused"
	TypeDevice   = "device"
	TypeProgress = "progress"
	TypeDone     = "done"
	TypeFailed   = "failed"
)

// Event is a message of the helper.
type Event struct {
	Type string `json:"type"`
	// Code is why the request was refused.
	Code Code `json:"code,omitempty"`
	// Text explains a refusal, or is what nix said when it failed.
	Text string `json:"text,omitempty"`
	// Done and Expected count the bytes of an import.
	Done     uint64 `json:"done,omitempty"`
	Expected uint64 `json:"expected,omitempty"`
}

// Code is the reason of a refusal.
type Code string

// Reasons of refusals.
const (
	CodeRequest Code = "request" // malformed, or too late
	CodeVersion Code = "version"
	CodeKey     Code = "key"   // not on the list, byte for byte
	CodePaths   Code = "paths" // none, or too many
	CodePath    Code = "path"  // not a store path that can be imported
	CodeURL     Code = "url"
	CodeBusy    Code = "busy"
	CodeMount   Code = "mount"  // the helper cannot mount
	CodeClient  Code = "client" // did not serve what was mounted
)

// RefusedError is a request that the helper refused.
type RefusedError struct {
	Code Code
	Text string
}

func (e *RefusedError) Error() string { return "the import helper refused: " + e.Text }

func refusef(code Code, format string, args ...any) *RefusedError {
	return &RefusedError{code, fmt.Sprintf(format, args...)}
}

// check decides whether a request is one that may be granted; keys are those on
// the list.
func (r *Request) check(keys []string) *RefusedError {
	switch {
	case r.Version != Version:
		return refusef(CodeVersion, "protocol version %d; this helper speaks %d", r.Version, Version)
	case r.Op != OpCheck && r.Op != OpImport:
		return refusef(CodeRequest, "unknown operation %.40q", r.Op)
	case !slices.Contains(keys, r.Key):
		return refusef(CodeKey, "the key %.200q is not on the helper's list", r.Key)
	}
	if r.Op == OpCheck {
		if len(r.Paths) > 0 || r.URL != "" {
			return refusef(CodeRequest, "a check has no paths and no URL")
		}
		return nil
	}
	switch {
	case len(r.Paths) == 0:
		return refusef(CodePaths, "no paths")
	case len(r.Paths) > MaxPaths:
		return refusef(CodePaths, "%d paths; at most %d at once", len(r.Paths), MaxPaths)
	}
	for _, text := range r.Paths {
		p, err := nix.ParsePath(text)
		if err != nil {
			return refusef(CodePath, "%.300q is not a store path", text)
		}
		if p.IsDrv() {
			// To some versions of nix copy it is what it builds.
			return refusef(CodePath, "%.300q is a derivation", text)
		}
	}
	if r.URL != "" {
		if _, err := parseURL(r.URL); err != nil {
			return refusef(CodeURL, "%v", err)
		}
	}
	return nil
}

// loopbackURL is compiled when it is asked for: that takes as long as a tenth of the
// program's start.
var loopbackURL = sync.OnceValue(func() *regexp.Regexp {
	return regexp.MustCompile(`\Ahttp://(127\.0\.0\.1|\[::1\]):([1-9][0-9]{0,4})(?:/[0-9A-Za-z]{1,64})?\z`)
})

// parseURL takes the loopback URLs that a client may name, and no other.
func parseURL(text string) (netip.AddrPort, error) {
	m := loopbackURL().FindStringSubmatch(text)
	if m == nil {
		return netip.AddrPort{}, fmt.Errorf("the URL %.200q is not one of this machine's loopback interface", text)
	}
	port, err := strconv.ParseUint(m[2], 10, 16)
	if err != nil {
		return netip.AddrPort{}, fmt.Errorf("the URL %.200q has no port that exists", text)
	}
	addr, err := netip.ParseAddr(strings.Trim(m[1], "[]"))
	return netip.AddrPortFrom(addr, uint16(port)), err
}

// errLong is a message longer than allowed.
var errLong = errors.New("message is too long")

// readMessage reads one message of at most most bytes into v.
func readMessage(r io.Reader, most int, v any) error {
	var head [4]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return err
	}
	n := binary.BigEndian.Uint32(head[:])
	if n > uint32(most) {
		return fmt.Errorf("%w: %d bytes", errLong, n)
	}
	// Not allocated by what a stranger says, but by what comes.
	var body bytes.Buffer
	if k, err := io.CopyN(&body, r, int64(n)); err != nil {
		if k > 0 && errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return err
	}
	dec := json.NewDecoder(&body)
	dec.DisallowUnknownFields()
	if err := dec.Decode(v); err != nil {
		return fmt.Errorf("malformed message: %w", err)
	}
	if _, err := dec.Token(); err != io.EOF {
		return errors.New("malformed message: something follows it")
	}
	return nil
}

// encodeMessage makes a message of v.
func encodeMessage(v any) ([]byte, error) {
	body, err := json.Marshal(v)
	if err != nil {
		return nil, err
	}
	return append(binary.BigEndian.AppendUint32(make([]byte, 0, 4+len(body)), uint32(len(body))), body...), nil
}

// clip keeps the end of a text.
func clip(text string, most int) string {
	if len(text) > most {
		text = "…" + text[len(text)-most:]
	}
	return strings.ToValidUTF8(text, "�")
}
