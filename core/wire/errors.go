package wire

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
)

// Code is the stable name of a failure: programs choose on it, documentation
// has an entry for each, and its text never changes its meaning.
type Code string

// The codes. The table below maps each to its HTTP status and exit code.
const (
	// The request itself.
	CodeBadRequest Code = "request.bad"         // cannot be understood
	CodeVersion    Code = "request.version"     // protocol version not spoken here
	CodeTooLarge   Code = "request.too_large"   // larger than the protocol's limit
	CodeNotFound   Code = "request.not_found"   // no such route, build or path, or not yours
	CodeRate       Code = "request.rate"        // too many at once; try later
	CodeConflict   Code = "request.conflict"    // a build of this ID exists with another content
	CodeInternal   Code = "builder.internal"    // the builder failed
	CodeStore      Code = "builder.store"       // the builder's Nix daemon failed
	CodeDisk       Code = "builder.disk_full"   // free space of the builder is below its reserve
	CodeDraining   Code = "builder.draining"    // takes no new builds
	CodeRestarted  Code = "builder.interrupted" // the builder restarted during the build

	// Who is asking.
	CodeNoCredentials  Code = "auth.missing"     // neither ticket nor trusted client
	CodeTicketUnknown  Code = "ticket.not_found" // never made here, or deleted
	CodeTicketRevoked  Code = "ticket.revoked"
	CodeTicketExpired  Code = "ticket.expired"
	CodeTicketBound    Code = "ticket.bound" // bound to a different client
	CodeTicketUsed     Code = "ticket.used"  // has no uses remaining
	CodePolicyDenied   Code = "policy.denied"
	CodeSystemDenied   Code = "limit.system"       // the ticket does not allow this system
	CodeSystemMissing  Code = "builder.system"     // the builder cannot build this system
	CodeFixedOutput    Code = "limit.fixed_output" // the ticket builds no fixed-output derivations
	CodeUploadLimit    Code = "limit.upload_bytes"
	CodeSpoolLimit     Code = "limit.spool_bytes" // too much is held here of inputs that are not complete
	CodeOutputLimit    Code = "limit.output_bytes"
	CodeBuildTimeLimit Code = "limit.build_time"

	// Inputs.
	CodeInputUnasked    Code = "input.not_asked"       // a path that the builder did not ask for
	CodeInputNar        Code = "input.nar"             // not a well-formed NAR
	CodeInputSize       Code = "input.size"            // another size than was stated
	CodeInputHash       Code = "input.hash"            // another NAR hash than was stated
	CodeInputAddress    Code = "input.content_address" // the contents do not give the path's name
	CodeInputUnsigned   Code = "input.unsigned"        // input-addressed, without a signature trusted here
	CodeInputReferences Code = "input.references"      // refers to a path that is not part of the closure
	CodeInputDerivation Code = "input.derivation"      // a .drv that is not a derivation
	CodeInputManifest   Code = "input.manifest"        // a manifest that cannot be the input's
	CodeInputChunk      Code = "input.chunk"           // a chunk that is not in the manifest
	CodeInputIncomplete Code = "input.incomplete"      // ended before all of its chunks were there
	CodeInputStalled    Code = "input.stalled"         // its client is there but sends none

	// The build's own end.
	CodeBuildFailed    Code = "build.failed"
	CodeBuildCancelled Code = "build.cancelled"
	CodeBuildAbandoned Code = "build.abandoned" // its client did not come back
	CodeNotReproduced  Code = "build.not_deterministic"
)

// Exit codes of the command line.
const (
	ExitOK          = 0
	ExitFailed      = 1
	ExitUsage       = 2
	ExitDenied      = 3
	ExitUnreachable = 4
	ExitBuildFailed = 100
)

type codeInfo struct {
	status int
	exit   int
	title  string
}

var codes = map[Code]codeInfo{
	CodeBadRequest: {http.StatusBadRequest, ExitFailed, "request cannot be understood"},
	CodeVersion:    {http.StatusUpgradeRequired, ExitFailed, "protocol version is not spoken by the builder"},
	CodeTooLarge:   {http.StatusRequestEntityTooLarge, ExitFailed, "request is larger than the protocol allows"},
	CodeNotFound:   {http.StatusNotFound, ExitFailed, "not found"},
	CodeRate:       {http.StatusTooManyRequests, ExitFailed, "too many requests at once"},
	CodeConflict:   {http.StatusConflict, ExitFailed, "a build with this ID exists and asks for something else"},
	CodeInternal:   {http.StatusInternalServerError, ExitFailed, "the builder failed"},
	CodeStore:      {http.StatusBadGateway, ExitFailed, "the builder's Nix daemon failed"},
	CodeDisk:       {http.StatusInsufficientStorage, ExitFailed, "the builder's disk is too full"},
	CodeDraining:   {http.StatusServiceUnavailable, ExitUnreachable, "the builder takes no new builds"},
	CodeRestarted:  {http.StatusServiceUnavailable, ExitFailed, "the builder restarted during the build"},

	CodeNoCredentials:  {http.StatusUnauthorized, ExitDenied, "neither a ticket nor a trusted client"},
	CodeTicketUnknown:  {http.StatusForbidden, ExitDenied, "ticket not found"},
	CodeTicketRevoked:  {http.StatusForbidden, ExitDenied, "ticket revoked"},
	CodeTicketExpired:  {http.StatusForbidden, ExitDenied, "ticket expired"},
	CodeTicketBound:    {http.StatusForbidden, ExitDenied, "ticket bound to a different client"},
	CodeTicketUsed:     {http.StatusForbidden, ExitDenied, "ticket has no uses remaining"},
	CodePolicyDenied:   {http.StatusForbidden, ExitDenied, "denied by policy"},
	CodeSystemDenied:   {http.StatusForbidden, ExitDenied, "the ticket does not allow this system"},
	CodeSystemMissing:  {http.StatusUnprocessableEntity, ExitFailed, "the builder cannot build for this system"},
	CodeFixedOutput:    {http.StatusForbidden, ExitDenied, "the ticket builds no fixed-output derivations"},
	CodeUploadLimit:    {http.StatusForbidden, ExitDenied, "upload limit exceeded"},
	CodeSpoolLimit:     {http.StatusForbidden, ExitDenied, "too much of inputs that are not complete is held"},
	CodeOutputLimit:    {http.StatusForbidden, ExitDenied, "output limit exceeded"},
	CodeBuildTimeLimit: {http.StatusForbidden, ExitDenied, "build time limit exceeded"},

	CodeInputUnasked:    {http.StatusUnprocessableEntity, ExitFailed, "a path was sent that was not asked for"},
	CodeInputNar:        {http.StatusUnprocessableEntity, ExitFailed, "an input is not a well-formed NAR"},
	CodeInputSize:       {http.StatusUnprocessableEntity, ExitFailed, "an input has another size than was stated"},
	CodeInputHash:       {http.StatusUnprocessableEntity, ExitFailed, "an input has another NAR hash than was stated"},
	CodeInputAddress:    {http.StatusUnprocessableEntity, ExitFailed, "an input's contents do not give its store path"},
	CodeInputUnsigned:   {http.StatusUnprocessableEntity, ExitFailed, "an input is neither content-addressed nor signed by a key that the builder trusts"},
	CodeInputReferences: {http.StatusUnprocessableEntity, ExitFailed, "an input refers to a path outside the closure"},
	CodeInputDerivation: {http.StatusUnprocessableEntity, ExitFailed, "an input is not a valid derivation"},
	CodeInputManifest:   {http.StatusUnprocessableEntity, ExitFailed, "a manifest is not that of the input"},
	CodeInputChunk:      {http.StatusUnprocessableEntity, ExitFailed, "a chunk is not the one that the input's manifest names"},
	CodeInputIncomplete: {http.StatusConflict, ExitFailed, "chunks of an input are missing"},
	CodeInputStalled:    {http.StatusConflict, ExitFailed, "the inputs stopped coming"},

	CodeBuildFailed:    {http.StatusUnprocessableEntity, ExitBuildFailed, "build failed"},
	CodeBuildCancelled: {http.StatusConflict, ExitFailed, "build cancelled"},
	CodeBuildAbandoned: {http.StatusConflict, ExitFailed, "build cancelled: its client went away"},
	CodeNotReproduced:  {http.StatusUnprocessableEntity, ExitBuildFailed, "the second build gave another result"},
}

// Codes returns every code, in no order.
func Codes() []Code {
	return slices.Collect(maps.Keys(codes))
}

// Status returns the HTTP status of the code, 500 for an unknown one.
func (c Code) Status() int {
	if i, ok := codes[c]; ok {
		return i.status
	}
	return http.StatusInternalServerError
}

// Exit returns the command line's exit code for the code.
func (c Code) Exit() int {
	if i, ok := codes[c]; ok {
		return i.exit
	}
	return ExitFailed
}

// Title returns the code's fixed one-line text, the code itself for an unknown one.
func (c Code) Title() string {
	if i, ok := codes[c]; ok {
		return i.title
	}
	return string(c)
}

// Error is a failure that crosses the wire: an RFC 9457 problem document.
type Error struct {
	Code   Code   `json:"code"`
	Status int    `json:"status,omitempty"`
	Title  string `json:"title,omitempty"`
	// Detail says what happened this time.
	Detail string `json:"detail,omitempty"`
	// Hint says what to do about it, when anything can be done.
	Hint string `json:"hint,omitempty"`
}

// Errorf makes an Error of a code and what happened.
func Errorf(code Code, format string, args ...any) *Error {
	return &Error{Code: code, Status: code.Status(), Title: code.Title(), Detail: fmt.Sprintf(format, args...)}
}

// WithHint returns a copy of e that says what to do.
func (e *Error) WithHint(format string, args ...any) *Error {
	c := *e
	c.Hint = fmt.Sprintf(format, args...)
	return &c
}

// Error returns the title and what happened.
func (e *Error) Error() string {
	title := e.Title
	if title == "" {
		title = e.Code.Title()
	}
	switch {
	case e.Detail == "":
		return title
	case e.Code == CodePolicyDenied: // denied by policy "name": reason
		return title + " " + e.Detail
	}
	return title + ": " + e.Detail
}

// Is reports whether target is an Error of the same code, so that
// errors.Is(err, wire.CodeX.Err()) works through wrapping.
func (e *Error) Is(target error) bool {
	t, ok := target.(*Error)
	return ok && t.Code == e.Code
}

// Err returns a bare Error of the code, for errors.Is.
func (c Code) Err() *Error { return &Error{Code: c, Status: c.Status(), Title: c.Title()} }

// CodeOf returns the code of the first Error in err's chain, "" without one.
func CodeOf(err error) Code {
	var e *Error
	if errors.As(err, &e) {
		return e.Code
	}
	return ""
}

// maxText bounds each text of a problem document that is shown to a user.
const maxText = 8 << 10

// WriteError answers a request with err: as it is when its chain holds an
// [Error], else as [CodeInternal] without err's text, which may name paths and
// addresses of the builder. Log err before.
func WriteError(w http.ResponseWriter, err error) {
	var e *Error
	if !errors.As(err, &e) {
		e = Errorf(CodeInternal, "see the builder's log")
	}
	c := *e
	c.Status, c.Title = c.Code.Status(), c.Code.Title()
	body, err := json.Marshal(&c)
	if err != nil {
		http.Error(w, string(c.Code), c.Status)
		return
	}
	h := w.Header()
	h.Set("Content-Type", TypeProblem)
	h.Del("Content-Encoding")
	h.Del("Content-Length")
	w.WriteHeader(c.Status)
	_, _ = w.Write(body) // the peer is gone if this fails
}

// ReadError turns an answer of status 400 and above into an error. It reads at
// most [MaxDocument] bytes of the body and does not close it.
func ReadError(resp *http.Response) error {
	body, _ := io.ReadAll(io.LimitReader(resp.Body, MaxDocument))
	var e Error
	if json.Unmarshal(body, &e) != nil || e.Code == "" {
		return fmt.Errorf("builder answered %s without saying why", resp.Status)
	}
	e.Status = resp.StatusCode
	e.Title = clean(e.Code.Title()) // an unknown code's is what the peer has sent
	e.Detail, e.Hint = clean(e.Detail), clean(e.Hint)
	return &e
}

// clean makes a peer's text safe for a terminal: no control characters but
// newline and tab, bounded length.
func clean(s string) string {
	if len(s) > maxText {
		s = s[:maxText] + "…"
	}
	out := make([]rune, 0, len(s))
	for _, r := range s {
		if r == '\n' || r == '\t' || (r >= ' ' && r != 0x7f && (r < 0x80 || r > 0x9f)) {
			out = append(out, r)
		}
	}
	return string(out)
}
