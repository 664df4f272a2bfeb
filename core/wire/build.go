package wire

import (
	"time"

	"github.com/drv-thru/drv-thru/core/key"
	"github.com/drv-thru/drv-thru/core/ticket"
)

// Info answers GET /v1/info: what the builder is and, when the request named a
// ticket, what the ticket still allows. An unusable ticket fails the request
// with the ticket's own error code, so asking for Info checks a ticket without
// spending it.
// With ?build=ID, a build that the request may see, a ticket that has expired or
// has no uses left does not fail it.
type Info struct {
	Version    int        `json:"version"`  // protocol version
	Software   string     `json:"software"` // "drv-thru 1.2.3"
	Builder    key.ID     `json:"builder"`
	NixVersion string     `json:"nix_version"`
	Systems    []string   `json:"systems"`     // systems that can be built, native first
	Features   []string   `json:"features"`    // Nix system features
	SigningKey string     `json:"signing_key"` // "name:base64", what clients put in trusted-public-keys
	Slots      int        `json:"slots"`       // builds that run at once
	Active     int        `json:"active"`
	Waiting    int        `json:"waiting"`
	Ticket     *TicketUse `json:"ticket,omitempty"`
	// CADerivations tells that the daemon has the ca-derivations feature enabled.
	CADerivations bool `json:"ca_derivations,omitempty"`
	// You is the client's own ID as the builder sees it.
	You key.ID `json:"you"`
	// Trusted tells that the client needs no ticket.
	Trusted bool `json:"trusted,omitempty"`
}

// TicketUse is what a ticket's holder may know of it.
type TicketUse struct {
	ID       ticket.ID     `json:"id"`
	Name     string        `json:"name"`
	Expires  time.Time     `json:"expires,omitzero"` // zero: never
	UsesLeft int64         `json:"uses_left"`        // -1: unlimited
	Limits   ticket.Limits `json:"limits"`
}

// Root is something to build: a derivation and the names of its outputs.
type Root struct {
	Drv     string   `json:"drv"`     // store path of the .drv
	Outputs []string `json:"outputs"` // at least one
	// Label is what the user called it, for status screens; at most MaxLabel bytes.
	Label string `json:"label,omitempty"`
}

// Input is one path of the closure that the roots need: a .drv file, a source,
// or (rarely) a built path that the evaluation refers to directly.
type Input struct {
	Path    string `json:"path"`
	NarHash string `json:"nar_hash"` // 52 characters of Nix's base32, SHA-256
	NarSize uint64 `json:"nar_size"`
	// References are indexes into the closure; a reference to the path itself is its own index.
	References []int `json:"refs,omitempty"`
	// CA is the content address ("text:…", "fixed:…"); empty for an input-addressed path.
	CA      string   `json:"ca,omitempty"`
	Deriver string   `json:"deriver,omitempty"`
	Sigs    []string `json:"sigs,omitempty"`
}

// PlanRequest asks POST /v1/plan what a build would move, without starting it
// or spending anything.
type PlanRequest struct {
	Roots   []Root  `json:"roots"`
	Closure []Input `json:"closure"` // references before referrers
}

// Plan answers a PlanRequest.
type Plan struct {
	// Wanted are the indexes into Closure that the builder would ask for, rising.
	Wanted []int `json:"wanted"`
	// UploadBytes is the sum of their NAR sizes.
	UploadBytes uint64 `json:"upload_bytes"`
	// Built tells that every root's derivation and outputs are valid on the
	// builder already, so nothing would be built.
	Built bool `json:"built,omitempty"`
	// WillBuild, WillSubstitute, DownloadBytes and UnpackBytes are the Nix
	// daemon's estimate; known only when nothing is Wanted.
	WillBuild      []string `json:"will_build,omitempty"`
	WillSubstitute []string `json:"will_substitute,omitempty"`
	DownloadBytes  uint64   `json:"download_bytes,omitempty"`
	UnpackBytes    uint64   `json:"unpack_bytes,omitempty"`
	// OutputPaths and OutputBytes are the paths of the closure of the wanted
	// outputs and the sum of their NAR sizes; known only when Built.
	OutputPaths int    `json:"output_paths,omitempty"`
	OutputBytes uint64 `json:"output_bytes,omitempty"`
}

// Mode is how to build.
type Mode string

// Modes.
const (
	ModeNormal Mode = ""      // build what is not valid yet
	ModeCheck  Mode = "check" // build again and compare
)

// BuildRequest creates a build: PUT /v1/builds/{id}. Repeating it attaches;
// with another content it fails with CodeConflict.
type BuildRequest struct {
	Roots     []Root  `json:"roots"`
	Closure   []Input `json:"closure"` // references before referrers
	Mode      Mode    `json:"mode,omitempty"`
	KeepGoing bool    `json:"keep_going,omitempty"`
	Detach    bool    `json:"detach,omitempty"`
}

// State is where a build is in its life. The order is the order of life; the
// last five are ends.
type State string

// States.
const (
	StateUploading   State = "uploading" // wanted inputs are not there yet; holds its place in the queue
	StateQueued      State = "queued"
	StateBuilding    State = "building"
	StateBuilt       State = "built"
	StateFailed      State = "failed"
	StateCancelled   State = "cancelled"
	StateInterrupted State = "interrupted" // the builder restarted
)

// Ended reports whether nothing more will happen.
func (s State) Ended() bool {
	switch s {
	case StateBuilt, StateFailed, StateCancelled, StateInterrupted:
		return true
	}
	return false
}

// Build answers the requests on /v1/builds/{id}.
type Build struct {
	ID       BuildID   `json:"id"`
	State    State     `json:"state"`
	Created  time.Time `json:"created"`
	Position int       `json:"position,omitempty"` // in the queue, 1 is next
	// KeepGoing is what the request said: outputs count although there is an Error.
	KeepGoing bool `json:"keep_going,omitempty"`
	// Wanted are the indexes into Closure that are still to be sent, rising.
	Wanted []int `json:"wanted,omitempty"`
	// LastEvent is the number of the newest event.
	LastEvent int64 `json:"last_event"`
	// Result is set when the state has ended.
	Result *Result `json:"result,omitempty"`
}

// MissingChunks answers PUT /v1/builds/{id}/inputs/{index}/manifest: what is to
// be sent of the input.
type MissingChunks struct {
	// Missing are ranges of the manifest's chunks, the first one's ordinal and
	// how many follow each other, rising. Of chunks that are equal only the
	// first is named.
	Missing [][2]int `json:"missing,omitempty"`
}

// Result is how a build ended.
type Result struct {
	// Error is nil when every root was built.
	Error *Error `json:"error,omitempty"`
	// Outputs of the roots that were built.
	Outputs []Output `json:"outputs,omitempty"`
	// Derivations that the daemon reported on, one for each root.
	Derivations []DrvResult `json:"derivations,omitempty"`
	QueueTime   float64     `json:"queue_seconds"`
	BuildTime   float64     `json:"build_seconds"`
	// UploadBytes is the sum of the NAR sizes of the inputs that were taken for
	// this build, however few of their chunks had to be sent.
	UploadBytes uint64 `json:"upload_bytes"`
	// Machines counts the derivations that each machine has built, where the
	// builder's Nix sent some to others.
	Machines map[string]int `json:"machines,omitempty"`
}

// MachineSelf is what the builder's own machine is called beside those that its
// Nix sends builds to.
const MachineSelf = "builder"

// Output is one built output of a root.
type Output struct {
	Drv  string `json:"drv"`
	Name string `json:"name"`
	Path string `json:"path"`
	// Realisation is Nix's JSON realisation of a content-addressed derivation's output.
	Realisation string `json:"realisation,omitempty"`
}

// DrvResult is the daemon's report on one root.
type DrvResult struct {
	Drv              string `json:"drv"`
	Status           string `json:"status"` // name of Nix's BuildResult status: "Built", "AlreadyValid", "TimedOut", …
	Error            string `json:"error,omitempty"`
	TimesBuilt       uint64 `json:"times_built,omitempty"`
	NonDeterministic bool   `json:"non_deterministic,omitempty"`
}
