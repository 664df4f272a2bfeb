package policy

import (
	"encoding/json"
	"fmt"
	"time"
)

// Event is when a policy is asked.
type Event string

// Events.
const (
	EventBuild  Event = "build"  // before a build is admitted; to_build is empty, as it is not known yet
	EventStart  Event = "start"  // again once to_build is known, before anything is built
	EventCreate Event = "create" // a dry check when a ticket is made
)

// Request is the document on a policy's standard input.
type Request struct {
	ABI      string          `json:"abi"`
	Now      Count           `json:"now"` // seconds since 1970, UTC
	Event    Event           `json:"event"`
	Ticket   Ticket          `json:"ticket"`
	Usage    Usage           `json:"usage"` // of the ticket
	Client   Client          `json:"client"`
	Request  Build           `json:"request"`
	Settings json.RawMessage `json:"settings,omitempty"` // as the owner wrote them
}

// Ticket is the ticket, or the standing permission of a trusted client, whose
// ID is then empty.
type Ticket struct {
	ID     string `json:"id"`
	Name   string `json:"name"`
	Limits Limits `json:"limits"`
	// NameUsage is that of all tickets of this name, this one included.
	NameUsage Usage `json:"name_usage"`
}

// Client is who asks.
type Client struct {
	ID    string `json:"id"`   // endpoint ID, base32
	Name  string `json:"name"` // a trusted client's in the configuration; empty for who comes with a ticket
	Usage Usage  `json:"usage"`
}

// Usage is what was used before this request.
type Usage struct {
	Builds       Count `json:"builds"`        // ever admitted
	BuildsHour   Count `json:"builds_hour"`   // in the last 60 minutes
	BuildsDay    Count `json:"builds_day"`    // in the last 24 hours
	Active       Count `json:"active"`        // queued or running now
	UploadBytes  Count `json:"upload_bytes"`  // NAR bytes received
	OutputBytes  Count `json:"output_bytes"`  // NAR bytes of outputs
	BuildSeconds Count `json:"build_seconds"` // from leaving the queue to the end
}

// Build is what is asked for.
type Build struct {
	Roots            []Root    `json:"roots"`
	RootsTruncated   bool      `json:"roots_truncated"`
	ToBuild          []Planned `json:"to_build"`
	ToBuildCount     Count     `json:"to_build_count"`
	ToBuildTruncated bool      `json:"to_build_truncated"` // an allowlist must then deny
	Sources          []Source  `json:"sources"`
	SourcesTruncated bool      `json:"sources_truncated"`
	ClosurePaths     Count     `json:"closure_paths"` // derivations and sources
	UploadBytes      Count     `json:"upload_bytes"`  // NAR bytes of those that the builder lacks
	Rebuild          bool      `json:"rebuild"`       // to compare: --rebuild
}

// Source is an input that is no derivation: a file or directory that the client
// has, or rarely a path that was built. Its contents are what its hash says.
type Source struct {
	Path    string `json:"path"`     // store path without the store: "hash-name"
	NarHash string `json:"nar_hash"` // as in flake.lock: "sha256-" and base64
}

// Root is a derivation whose outputs the client wants.
type Root struct {
	Name    string   `json:"name"`   // without hash and ".drv"
	System  string   `json:"system"` // may be empty before EventStart
	Outputs []string `json:"outputs"`
}

// Planned is a derivation that would be built rather than substituted.
type Planned struct {
	Name        string   `json:"name"`
	System      string   `json:"system"`
	FixedOutput bool     `json:"fixed_output"` // has the network of the builder's host, as impure ones have
	Features    []string `json:"features"`
}

// DecodeRequest reads a request strictly: only known fields, each once.
func DecodeRequest(data []byte) (Request, error) {
	var r Request
	if len(data) > MaxStdin {
		return Request{}, errorf(CodeTooLarge, "a request of %d bytes, more than %d", len(data), MaxStdin)
	}
	err := decodeStrict(data, &r)
	if err == nil {
		err = r.check()
	}
	if err != nil {
		return Request{}, &Error{Code: CodeBadRequest, Detail: err.Error(), Err: err}
	}
	return r, nil
}

func (r *Request) check() error {
	switch {
	case r.ABI != ABI:
		return fmt.Errorf("abi is %.40q, not %q", r.ABI, ABI)
	case r.Event != EventBuild && r.Event != EventStart && r.Event != EventCreate:
		return fmt.Errorf("unknown event %.40q", r.Event)
	case len(r.Settings) > MaxSettings:
		return fmt.Errorf("settings of %d bytes, more than %d", len(r.Settings), MaxSettings)
	}
	return r.Ticket.Limits.check()
}

// Time returns Now.
func (r Request) Time() time.Time { return time.Unix(int64(r.Now), 0).UTC() }

// maxListed is more elements than have room in a request.
const maxListed = MaxStdin / 16

// Encode writes the request, cutting first its derivations, then its sources and
// then its roots where it would pass [MaxStdin], and says so in it. An empty ABI
// is filled in.
func (r Request) Encode() ([]byte, error) {
	if r.ABI == "" {
		r.ABI = ABI
	}
	err := r.check()
	if err == nil && len(r.Settings) > 0 {
		err = CheckSettings(r.Settings)
	}
	if err != nil {
		return nil, &Error{Code: CodeBadRequest, Detail: err.Error(), Err: err}
	}
	given := r.Request
	plan, sources, roots := withoutNils(given)
	encode := func(planned, sourced, rooted int) []byte {
		b := &r.Request
		b.ToBuild, b.Sources, b.Roots = plan[:planned], sources[:sourced], roots[:rooted]
		b.ToBuildTruncated = given.ToBuildTruncated || planned < len(given.ToBuild)
		b.SourcesTruncated = given.SourcesTruncated || sourced < len(given.Sources)
		b.RootsTruncated = given.RootsTruncated || rooted < len(given.Roots)
		var data []byte
		data, err = json.Marshal(r)
		return data
	}
	data := encode(len(plan), len(sources), len(roots))
	if err == nil && len(data) > MaxStdin {
		room := MaxStdin - len(encode(0, 0, 0)) // "false" has more room than "true"
		rooted := fitting(roots, &room)
		sourced := fitting(sources, &room)
		planned := fitting(plan, &room)
		data = encode(planned, sourced, rooted)
	}
	switch {
	case err != nil:
		return nil, &Error{Code: CodeBadRequest, Detail: err.Error(), Err: err}
	case len(data) > MaxStdin:
		return nil, errorf(CodeTooLarge, "a request of %d bytes without its lists, more than %d", len(data), MaxStdin)
	}
	return data, nil
}

// CheckSettings says whether a policy can be given these settings: one JSON
// value of at most [MaxSettings] bytes, no field given twice.
func CheckSettings(settings json.RawMessage) error {
	if len(settings) > MaxSettings {
		return fmt.Errorf("settings of %d bytes, more than %d", len(settings), MaxSettings)
	}
	if err := checkValue(settings); err != nil {
		return fmt.Errorf("settings: %w", err)
	}
	return nil
}

// checkValue says whether text is one JSON value with no field given twice.
func checkValue(text json.RawMessage) error {
	var v json.RawMessage
	return decodeStrict(text, &v)
}

// fitting returns how many of the first elements have room in a JSON list, and
// takes it.
func fitting[T any](list []T, room *int) int {
	for i := range list {
		text, err := json.Marshal(list[i])
		if err != nil || len(text)+len(",") > *room {
			return i
		}
		*room -= len(text) + len(",")
	}
	return len(list)
}

// withoutNils copies the lists, up to maxListed, so that empty ones are [] rather
// than null.
func withoutNils(b Build) ([]Planned, []Source, []Root) {
	plan := append([]Planned{}, b.ToBuild[:min(len(b.ToBuild), maxListed)]...)
	sources := append([]Source{}, b.Sources[:min(len(b.Sources), maxListed)]...)
	roots := append([]Root{}, b.Roots[:min(len(b.Roots), maxListed)]...)
	for i := range plan {
		plan[i].Features = append([]string{}, plan[i].Features...)
	}
	for i := range roots {
		roots[i].Outputs = append([]string{}, roots[i].Outputs...)
	}
	return plan, sources, roots
}
