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
	Usage    Usage           `json:"usage"`
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
}

// Client is who asks.
type Client struct {
	ID    string `json:"id"`   // endpoint ID, base32
	Name  string `json:"name"` // as the owner or the client named it; may be empty
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
	ClosurePaths     Count     `json:"closure_paths"`
	UploadBytes      Count     `json:"upload_bytes"`
	Rebuild          bool      `json:"rebuild"`
}

// Root is a derivation whose outputs the client wants.
type Root struct {
	Name    string   `json:"name"` // without hash and ".drv"
	System  string   `json:"system"`
	Outputs []string `json:"outputs"`
}

// Planned is a derivation that would be built rather than substituted.
type Planned struct {
	Name        string   `json:"name"`
	System      string   `json:"system"`
	FixedOutput bool     `json:"fixed_output"` // has the network of the builder's host
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

// Encode writes the request, cutting first its derivations and then its roots
// where it would pass [MaxStdin], and says so in it. An empty ABI is filled in.
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
	plan, roots := withoutNils(r.Request)
	planCut, rootsCut := r.Request.ToBuildTruncated, r.Request.RootsTruncated
	encode := func(planned, rooted int) []byte {
		r.Request.ToBuild, r.Request.Roots = plan[:planned], roots[:rooted]
		r.Request.ToBuildTruncated = planCut || planned < len(plan)
		r.Request.RootsTruncated = rootsCut || rooted < len(roots)
		var data []byte
		data, err = json.Marshal(r)
		return data
	}
	data := encode(len(plan), len(roots))
	if err == nil && len(data) > MaxStdin {
		room := MaxStdin - len(encode(0, 0)) - len("falsefalse") + len("truetrue")
		rooted := fitting(roots, &room)
		planned := fitting(plan, &room)
		data = encode(planned, rooted)
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
	var v struct {
		Settings json.RawMessage `json:"settings"`
	}
	wrapped := append(append([]byte(`{"settings":`), settings...), '}')
	if err := decodeStrict(wrapped, &v); err != nil {
		return fmt.Errorf("settings: %w", err)
	}
	return nil
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

// withoutNils copies the lists so that empty ones are [] rather than null.
func withoutNils(b Build) ([]Planned, []Root) {
	plan, roots := append([]Planned{}, b.ToBuild...), append([]Root{}, b.Roots...)
	for i := range plan {
		plan[i].Features = append([]string{}, plan[i].Features...)
	}
	for i := range roots {
		roots[i].Outputs = append([]string{}, roots[i].Outputs...)
	}
	return plan, roots
}
