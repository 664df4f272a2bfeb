package policy

import (
	"fmt"
	"strings"
)

// Code says why there is no permission. Codes are stable.
type Code string

// Reasons for which a decision, or a module, is refused.
const (
	CodeDenied      Code = "policy.denied"       // the policy said so
	CodeTrap        Code = "policy.trap"         // unreachable, out of bounds, stack overflow
	CodeTimeout     Code = "policy.timeout"      // longer than MaxWall
	CodeMemory      Code = "policy.memory"       // asked for more than MaxMemory or MaxTable
	CodeOutputLimit Code = "policy.output_limit" // more than MaxStdout or MaxStderr
	CodeBadOutput   Code = "policy.bad_output"   // not exactly one Decision
	CodeWidens      Code = "policy.widens"       // a limit wider than before
	CodeExit        Code = "policy.exit"         // exit code other than 0
	CodeMissing     Code = "policy.missing"      // the module's file is not there
	CodeChanged     Code = "policy.changed"      // not the module that was pinned
	CodeTooLarge    Code = "policy.too_large"    // module or request above its limit
	CodeImports     Code = "policy.imports"      // needs what no policy is given
	CodeInvalid     Code = "policy.invalid"      // not a WebAssembly command
	CodeBadRequest  Code = "policy.bad_request"  // not a Request; the host's fault
	CodeBusy        Code = "policy.busy"         // too many decisions are waiting
	CodeCanceled    Code = "policy.canceled"     // whoever asked has gone
)

// holderText is what a ticket's holder is told.
var holderText = map[Code]string{
	CodeDenied:      "no reason given",
	CodeTrap:        "the policy failed",
	CodeTimeout:     "the policy took too long",
	CodeMemory:      "the policy needed too much memory",
	CodeOutputLimit: "the policy wrote too much",
	CodeBadOutput:   "the policy gave no valid decision",
	CodeWidens:      "the policy tried to widen a limit",
	CodeExit:        "the policy failed",
	CodeMissing:     "the policy is missing",
	CodeChanged:     "the policy is not the one that was agreed on",
	CodeTooLarge:    "the policy or what it was asked is too large",
	CodeImports:     "the policy is not usable",
	CodeInvalid:     "the policy is not usable",
	CodeBadRequest:  "the policy could not be asked",
	CodeBusy:        "too many decisions are waiting",
	CodeCanceled:    "the request was withdrawn",
}

// Error is a refusal. Its message may be shown to the ticket's holder; Detail
// and Stderr are for the owner only.
type Error struct {
	Code   Code
	Reason string // what the policy said, for CodeDenied; printable
	Detail string // what happened, with the module's internals
	Stderr string // what the module wrote there, at most MaxStderr; as it came
	Err    error  // the cause, if there is one to match
}

// Error returns what the ticket's holder may know.
func (e *Error) Error() string {
	if e.Reason != "" {
		return e.Reason
	}
	if text, ok := holderText[e.Code]; ok {
		return text
	}
	return "the policy failed"
}

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

// Owner returns everything, for the owner's logs and screens. Stderr is quoted.
func (e *Error) Owner() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s: %s", e.Code, e.Error())
	if e.Detail != "" {
		fmt.Fprintf(&b, ": %s", e.Detail)
	}
	if e.Stderr != "" {
		fmt.Fprintf(&b, " (stderr: %q)", e.Stderr)
	}
	return b.String()
}

func errorf(code Code, format string, args ...any) *Error {
	return &Error{Code: code, Detail: fmt.Sprintf(format, args...)}
}
