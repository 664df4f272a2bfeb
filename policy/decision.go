package policy

import (
	"errors"
	"fmt"
	"strings"
	"unicode"
)

// Verdict is what a policy decides.
type Verdict string

// Verdicts.
const (
	Allow  Verdict = "allow"
	Deny   Verdict = "deny"
	Narrow Verdict = "narrow"
)

// Decision is the document on a policy's standard output.
type Decision struct {
	ABI      string  `json:"abi"`
	Decision Verdict `json:"decision"`
	// Reason is shown to the ticket's holder: at most MaxReason bytes.
	Reason string `json:"reason,omitempty"`
	// Limits are those that become tighter; only narrow has them.
	Limits *Limits `json:"limits,omitempty"`
}

// DecodeDecision reads the whole of a policy's standard output strictly.
// Characters of the reason that a terminal might act on become spaces. The
// error is an [*Error] with [CodeOutputLimit] or [CodeBadOutput].
func DecodeDecision(data []byte) (Decision, error) {
	if len(data) > MaxStdout {
		return Decision{}, errorf(CodeOutputLimit, "more than %d bytes on standard output", MaxStdout)
	}
	var d Decision
	err := decodeStrict(data, &d)
	if err == nil {
		err = d.check()
	}
	if err != nil {
		return Decision{}, &Error{Code: CodeBadOutput, Detail: err.Error(), Err: err}
	}
	d.Reason = printable(d.Reason)
	return d, nil
}

func (d *Decision) check() error {
	switch {
	case d.ABI != ABI:
		return fmt.Errorf("abi is %.40q, not %q", d.ABI, ABI)
	case len(d.Reason) > MaxReason:
		return fmt.Errorf("a reason of %d bytes, more than %d", len(d.Reason), MaxReason)
	}
	switch d.Decision {
	case Allow, Deny:
		if d.Limits != nil {
			return fmt.Errorf("limits belong to %q, not %q", Narrow, d.Decision)
		}
		return nil
	case Narrow:
		if d.Limits == nil || d.Limits.empty() {
			return fmt.Errorf("%q without limits", Narrow)
		}
		return d.Limits.check()
	case "":
		return errors.New("no decision")
	}
	return fmt.Errorf("unknown decision %.40q", d.Decision)
}

// printable keeps what a terminal shows and nothing that it obeys, direction
// marks included.
func printable(s string) string {
	s = strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return ' '
	}, s)
	return strings.Join(strings.Fields(s), " ")
}
