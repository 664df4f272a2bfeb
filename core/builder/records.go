package builder

import (
	"context"
	"encoding/json"
	"errors"
	"time"

	"github.com/drv-thru/drv-thru/core/key"
	"github.com/drv-thru/drv-thru/core/ticket"
	"github.com/drv-thru/drv-thru/core/wire"
)

// ErrNoRecord is returned by Records for what it does not hold.
var ErrNoRecord = errors.New("no such record")

// ErrBuildExists is returned by Records.Admit for an ID that is taken.
var ErrBuildExists = errors.New("a build of this ID is recorded already")

// Records is the builder's durable state. Implementations are safe for
// concurrent use, and what a method has returned from survives a crash.
type Records interface {
	// Ticket returns the ticket's record, or ErrNoRecord.
	Ticket(ctx context.Context, id ticket.ID) (TicketRecord, error)
	// Admit records a new build in one transaction with checking its ticket
	// ([TicketRecord.Check] at b.Created by b.Client) and spending one use. The
	// ticket's error is returned as it is; [CodeTicketUnknown] without a record.
	//
	// A record of the same ID in [wire.StateInterrupted] with the same content,
	// client and ticket is revived: the ticket is checked but for its uses, and
	// nothing is spent. Any other record of that ID gives ErrBuildExists.
	Admit(ctx context.Context, b BuildRecord) error
	// UpdateBuild replaces the record of a build that exists.
	UpdateBuild(ctx context.Context, b BuildRecord) error
	// Builds returns every record, oldest first.
	Builds(ctx context.Context) ([]BuildRecord, error)
	// DeleteBuild forgets a build. What it used stays counted.
	DeleteBuild(ctx context.Context, id wire.BuildID) error
	// Usage returns what was used until now, in one consistent read.
	Usage(ctx context.Context, q UsageQuery) (Usages, error)
}

// UsageQuery names whose usage is asked for.
type UsageQuery struct {
	Ticket ticket.ID // zero for a trusted client
	Name   string    // of the ticket
	Client key.ID
	Now    time.Time
	// Except is a build under way that does not count.
	Except wire.BuildID
}

// Usages is what was used by a ticket, by all tickets of its name, and by a
// client with whatever ticket. Those of no ticket are zero.
type Usages struct {
	Ticket, Name, Client Usage
}

// Usage is what the builds of a ticket or client have used. An interrupted
// build that is revived counts once.
type Usage struct {
	Builds      int64 // ever admitted
	BuildsHour  int64 // of them, in the last hour
	BuildsDay   int64 // and day
	Active      int64 // not ended
	UploadBytes uint64
	OutputBytes uint64
	BuildTime   time.Duration
}

// TicketRecord is what a builder knows of a ticket that it made.
type TicketRecord struct {
	ID      ticket.ID
	Secret  ticket.Secret
	Name    string
	Created time.Time
	// Expires is zero for never.
	Expires time.Time
	// MaxUses is 0 for unlimited.
	MaxUses int64
	Used    int64
	Limits  ticket.Limits
	// Bind is the only client that may use it; zero for any.
	Bind key.ID
	// Revoked is zero while it is not.
	Revoked time.Time
	// Policy is what decides on its builds; zero is the builder's default.
	Policy TicketPolicy
	// Direct tells that its text holds the builder's own addresses, not relays.
	Direct bool
}

// TicketPolicy is the policy that a ticket was made with.
type TicketPolicy struct {
	Name string `json:"name,omitempty"`
	// Hash is the BLAKE3 of the only module that may decide, in hexadecimal.
	// Empty is the module that is part of the program.
	Hash string `json:"hash,omitempty"`
	// Kept tells that the module came with the ticket rather than from the
	// configuration.
	Kept bool `json:"kept,omitempty"`
	// Settings replace those of the configuration, unless empty.
	Settings json.RawMessage `json:"settings,omitempty"`
}

// UsesLeft returns -1 for unlimited.
func (t *TicketRecord) UsesLeft() int64 {
	if t.MaxUses == 0 {
		return -1
	}
	return max(0, t.MaxUses-t.Used)
}

// CheckHolder tells whether client may present the ticket at all: to see, fetch
// and cancel what it has paid for. Expiry and uses do not matter there.
func (t *TicketRecord) CheckHolder(client key.ID) error {
	switch {
	case !t.Revoked.IsZero():
		return wire.CodeTicketRevoked.Err()
	case !t.Bind.IsZero() && t.Bind != client:
		return wire.CodeTicketBound.Err()
	}
	return nil
}

// Check tells whether client may start a build with the ticket now. reuse says that
// it was admitted before an interruption: then it has spent its use, in time.
func (t *TicketRecord) Check(client key.ID, now time.Time, reuse bool) error {
	if err := t.CheckHolder(client); err != nil {
		return err
	}
	switch {
	case !reuse && !t.Expires.IsZero() && !now.Before(t.Expires):
		// By which of two clocks, one of which may be wrong, the client cannot know.
		return wire.Errorf(wire.CodeTicketExpired, "at %s; the builder's clock says %s",
			t.Expires.UTC().Format(time.RFC3339), now.UTC().Format(time.RFC3339))
	case t.UsesLeft() == 0 && !reuse:
		return wire.CodeTicketUsed.Err()
	}
	return nil
}

// BuildRecord is what outlives the process of a build.
type BuildRecord struct {
	ID     wire.BuildID
	Client key.ID
	// ClientName is the trusted client's name in the configuration.
	ClientName string
	// Ticket is zero for a trusted client's build.
	Ticket ticket.ID
	// Content is the SHA-256 of the request.
	Content   [32]byte
	Roots     []wire.Root
	Mode      wire.Mode
	KeepGoing bool
	Detach    bool
	State     wire.State
	Created   time.Time
	// Started and Ended are zero until then.
	Started time.Time
	Ended   time.Time
	// Result of a build under way has what was used until now, if anything.
	Result *wire.Result
	// Limits are what admission decided; nil in records of versions that did
	// not keep them.
	Limits *ticket.Limits
	// OutputBytes is the sum of the NAR sizes of the outputs asked for.
	OutputBytes uint64
}

// sent are the NAR bytes of inputs that were accepted.
func (r *BuildRecord) sent() uint64 {
	if r.Result == nil {
		return 0
	}
	return r.Result.UploadBytes
}
