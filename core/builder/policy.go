package builder

import (
	"context"

	"github.com/drv-thru/drv-thru/core/key"
	"github.com/drv-thru/drv-thru/core/nix"
	"github.com/drv-thru/drv-thru/core/ticket"
	"github.com/drv-thru/drv-thru/core/wire"
)

// Policy may refuse or narrow what a ticket or trusted client asks for. It runs
// after the native limits and before a use is spent; what it returns replaces
// the limits and may only be tighter, which the implementation answers for. An
// error is a denial; one that is no [wire.Error] is told as builder.internal.
type Policy interface {
	// Admit decides on a new build.
	Admit(ctx context.Context, r PolicyRequest) (ticket.Limits, error)
	// Start decides again once it is known what would be built.
	Start(ctx context.Context, r PolicyRequest, toBuild []Planned) error
}

// PolicyRequest is what a policy may know of a build.
type PolicyRequest struct {
	Client       key.ID
	ClientName   string
	Ticket       *TicketRecord // nil for a trusted client
	Limits       ticket.Limits
	Roots        []wire.Root
	Rebuild      bool
	ClosurePaths int
	UploadBytes  uint64
}

// Planned is a derivation that the daemon would build.
type Planned struct {
	Drv         nix.Path
	System      string
	FixedOutput bool
	Features    []string
}
