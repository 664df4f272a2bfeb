package admin

import (
	"cmp"
	"encoding/json"
	"time"

	"github.com/drv-thru/drv-thru/cmd/drv-thru/internal/policies"
	"github.com/drv-thru/drv-thru/cmd/drv-thru/internal/state"
	"github.com/drv-thru/drv-thru/core/builder"
	"github.com/drv-thru/drv-thru/core/key"
	"github.com/drv-thru/drv-thru/core/link"
	"github.com/drv-thru/drv-thru/core/ticket"
	"github.com/drv-thru/drv-thru/policy/builtin"
)

// Status is the running builder.
type Status struct {
	Endpoint   key.ID    `json:"endpoint"`
	Software   string    `json:"software"`
	NixVersion string    `json:"nix_version"`
	SigningKey string    `json:"signing_key"`
	Systems    []string  `json:"systems"`
	Started    time.Time `json:"started"`
	Relays     []Relay   `json:"relays"`
	// Direct is nil when the builder takes no direct connections.
	Direct *link.DirectStatus `json:"direct,omitempty"`
	// Denials are the newest by policies, newest first.
	Denials []state.Decision `json:"denials"`
	builder.Status
}

// Relay is one of the builder's relays.
type Relay struct {
	URL        string `json:"url"`
	Registered bool   `json:"registered"`
	Error      string `json:"error,omitempty"`
}

// Ticket is a ticket without its secret.
type Ticket struct {
	ID      ticket.ID `json:"id"`
	Name    string    `json:"name"`
	State   string    `json:"state"` // "usable", or why not: "revoked", "expired", "used"
	Created time.Time `json:"created"`
	Expires time.Time `json:"expires,omitzero"` // zero: never
	// MaxUses is 0 for unlimited.
	MaxUses int64         `json:"max_uses"`
	Used    int64         `json:"used"`
	Limits  ticket.Limits `json:"limits"`
	Bind    key.ID        `json:"bind_client,omitzero"`
	Revoked time.Time     `json:"revoked,omitzero"`
	Policy  TicketPolicy  `json:"policy"`
}

// TicketPolicy is what decides on a ticket's builds.
type TicketPolicy struct {
	Name string `json:"name"`
	// Hash is the pinned module's BLAKE3; "" is the built-in one.
	Hash     string          `json:"hash,omitempty"`
	Settings json.RawMessage `json:"settings,omitempty"` // instead of the configuration's
}

// NewTicket asks for a ticket.
type NewTicket struct {
	Name    string          `json:"name"`             // "": ticket-<unix time>
	Expires ticket.Duration `json:"expires,omitzero"` // 0: never
	MaxUses int64           `json:"max_uses"`
	Limits  ticket.Limits   `json:"limits"`
	Bind    key.ID          `json:"bind_client,omitzero"`
	// Direct asks for the builder's own addresses in place of its relays.
	Direct bool            `json:"direct,omitempty"`
	Policy policies.Choice `json:"policy,omitzero"`
}

// TicketText is a ticket with its secret: Text is what its holder needs.
type TicketText struct {
	Ticket
	Text string `json:"ticket"`
}

// Revoked answers a revocation.
type Revoked struct {
	Cancelled int `json:"cancelled"` // builds
}

func ticketOf(t builder.TicketRecord, now time.Time) Ticket {
	state := "usable"
	switch {
	case !t.Revoked.IsZero():
		state = "revoked"
	case !t.Expires.IsZero() && !now.Before(t.Expires):
		state = "expired"
	case t.UsesLeft() == 0:
		state = "used"
	}
	return Ticket{
		ID: t.ID, Name: t.Name, State: state, Created: t.Created, Expires: t.Expires, MaxUses: t.MaxUses,
		Used: t.Used, Limits: t.Limits, Bind: t.Bind, Revoked: t.Revoked,
		Policy: TicketPolicy{Name: cmp.Or(t.Policy.Name, builtin.Name), Hash: t.Policy.Hash, Settings: t.Policy.Settings},
	}
}
