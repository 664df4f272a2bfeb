package policy

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// Case is a row of an author's table: a request, and what should come of it.
type Case struct {
	Name string `json:"name"`
	// Request is a JSON merge patch (RFC 7396) of [Sample].
	Request json.RawMessage `json:"request,omitempty"`
	Expect  Expect          `json:"expect"`
}

// Expect is what should come of a request. What is left out does not matter.
type Expect struct {
	Decision Verdict `json:"decision"`
	// Code of a denial; by default it must be the policy's own, [CodeDenied].
	Code   Code    `json:"code,omitempty"`
	Reason string  `json:"reason,omitempty"` // a part of it
	Limits *Limits `json:"limits,omitempty"` // that hold afterwards, those named
}

// MaxCases bounds the bytes of a table of cases.
const MaxCases = 8 << 20

// ParseCases reads a table, {"cases": […]}.
func ParseCases(data []byte) ([]Case, error) {
	var table struct {
		Cases []Case `json:"cases"`
	}
	if err := decodeStrict(data, &table); err != nil {
		return nil, fmt.Errorf("read cases: %w", err)
	}
	for i, c := range table.Cases {
		switch {
		case c.Name == "":
			return nil, fmt.Errorf("read cases: number %d has no name", i+1)
		case c.Expect.Decision != Allow && c.Expect.Decision != Deny && c.Expect.Decision != Narrow:
			return nil, fmt.Errorf("read cases: %q expects %q, which is no decision", c.Name, c.Expect.Decision)
		}
	}
	return table.Cases, nil
}

// Sample is an ordinary request: hello for x86_64-linux, at noon (UTC) of a
// Monday, by a ticket with the default limits that was not used before.
func Sample() Request {
	return Request{
		ABI: ABI, Now: 1_767_614_400, Event: EventBuild,
		Ticket: Ticket{
			ID: "aaaaaaaaaaaaaaaaaaaaaaaaaa", Name: "ci",
			Limits: Limits{MaxBuildSeconds: 1800, MaxUploadBytes: 20 << 30},
		},
		Client: Client{ID: strings.Repeat("a", 52)},
		Request: Build{
			Roots:        []Root{{Name: "hello-2.12", System: "x86_64-linux", Outputs: []string{"out"}}},
			ClosurePaths: 12, UploadBytes: 4096,
			Sources: []Source{{
				Path: "00000000000000000000000000000000-source", NarHash: "sha256-47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=",
			}},
		},
	}
}

// Patch returns r changed by a JSON merge patch (RFC 7396).
func (r Request) Patch(patch json.RawMessage) (Request, error) {
	text, err := r.Encode()
	if err != nil || len(patch) == 0 {
		return r, err
	}
	if err := checkValue(patch); err != nil {
		return r, fmt.Errorf("read request: %w", err)
	}
	merged, err := mergePatch(text, patch)
	if err != nil {
		return r, fmt.Errorf("read request: %w", err)
	}
	return DecodeRequest(merged)
}

func mergePatch(target, patch json.RawMessage) (json.RawMessage, error) {
	var into, from map[string]json.RawMessage
	if json.Unmarshal(patch, &from) != nil || from == nil {
		return patch, nil // no object: it replaces
	}
	if json.Unmarshal(target, &into) != nil || into == nil {
		into = map[string]json.RawMessage{}
	}
	for _, name := range slices.Sorted(maps.Keys(from)) {
		if string(from[name]) == "null" {
			delete(into, name)
			continue
		}
		merged, err := mergePatch(into[name], from[name])
		if err != nil {
			return nil, err
		}
		into[name] = merged
	}
	return json.Marshal(into)
}

// Check asks the policy as the case says, under the limits in its request. The
// error says what is not as expected.
func (m *Module) Check(ctx context.Context, c Case) (Result, error) {
	r, err := Sample().Patch(c.Request)
	if err != nil {
		return Result{}, err
	}
	res, err := m.Decide(ctx, r, r.Ticket.Limits.Native())
	got, reason, code := res.Decision.Decision, res.Decision.Reason, Code("")
	var failed *Error
	if errors.As(err, &failed) {
		got, reason, code = Deny, failed.Error(), failed.Code
	} else if err != nil {
		return res, err
	}
	want := c.Expect.Code
	if want == "" && c.Expect.Decision == Deny {
		want = CodeDenied
	}
	switch {
	case got != c.Expect.Decision || code != want:
		if failed != nil {
			return res, fmt.Errorf("got %s (%s), want %s", got, failed.Owner(), strings.TrimSpace(string(c.Expect.Decision)+" "+string(want)))
		}
		return res, fmt.Errorf("got %s, want %s", got, strings.TrimSpace(string(c.Expect.Decision)+" "+string(want)))
	case !strings.Contains(reason, c.Expect.Reason):
		return res, fmt.Errorf("got the reason %q, want %q in it", reason, c.Expect.Reason)
	case c.Expect.Limits != nil:
		return res, c.Expect.Limits.within(LimitsOf(res.Limits))
	}
	return res, nil
}

// within tells which of the limits in l are not the same in got.
func (l *Limits) within(got Limits) error {
	switch {
	case l.MaxBuildSeconds != 0 && l.MaxBuildSeconds != got.MaxBuildSeconds:
		return fmt.Errorf("max_build_seconds is %d, want %d", got.MaxBuildSeconds, l.MaxBuildSeconds)
	case l.MaxUploadBytes != 0 && l.MaxUploadBytes != got.MaxUploadBytes:
		return fmt.Errorf("max_upload_bytes is %d, want %d", got.MaxUploadBytes, l.MaxUploadBytes)
	case l.MaxOutputBytes != 0 && l.MaxOutputBytes != got.MaxOutputBytes:
		return fmt.Errorf("max_output_bytes is %d, want %d", got.MaxOutputBytes, l.MaxOutputBytes)
	case l.Systems != nil && !slices.Equal(l.Systems, got.Systems):
		return fmt.Errorf("systems are %q, want %q", got.Systems, l.Systems)
	case l.NoFixedOutput != nil && *l.NoFixedOutput != (got.NoFixedOutput != nil && *got.NoFixedOutput):
		return fmt.Errorf("no_fixed_output is %t, want %t", !*l.NoFixedOutput, *l.NoFixedOutput)
	}
	return nil
}
