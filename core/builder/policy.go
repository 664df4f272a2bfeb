package builder

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/drv-thru/drv-thru/core/key"
	"github.com/drv-thru/drv-thru/core/nix"
	"github.com/drv-thru/drv-thru/core/ticket"
	"github.com/drv-thru/drv-thru/core/wire"
)

// Policy may refuse or narrow what a ticket or trusted client asks for. It runs
// after the native limits; what it returns replaces the limits and may only be
// tighter, which the implementation answers for. An error is a denial; one that
// is no [wire.Error] is told as builder.internal.
type Policy interface {
	Decide(ctx context.Context, r *PolicyRequest) (ticket.Limits, error)
}

// PolicyEvent is when a policy is asked.
type PolicyEvent string

// Events.
const (
	// PolicyBuild is asked before a new build spends a use, once for each. No
	// other admission that shares a counter of its usage is decided meanwhile.
	PolicyBuild PolicyEvent = "build"
	// PolicyStart is asked when it is known what would be built, before it is.
	PolicyStart PolicyEvent = "start"
)

// PolicyRequest is what a policy may know of a build.
type PolicyRequest struct {
	Event        PolicyEvent
	Now          time.Time
	Build        wire.BuildID
	Client       key.ID
	ClientName   string
	Ticket       *TicketRecord  // nil for a trusted client
	Trusted      *TrustedClient // nil for a ticket
	Usage        Usages
	Limits       ticket.Limits
	Roots        []PolicyRoot
	Rebuild      bool
	ClosurePaths int
	UploadBytes  uint64
	// Sources are the inputs that are no derivations.
	Sources []nix.PathInfo
	ToBuild []Planned // empty until PolicyStart
}

// PolicyRoot is a derivation that is asked for.
type PolicyRoot struct {
	Drv     nix.Path
	System  string // "" until the builder has the derivation
	Outputs []string
}

// Planned is a derivation that the daemon would build.
type Planned struct {
	Drv         nix.Path
	System      string
	FixedOutput bool
	Features    []string
}

// policyWait bounds how long an admission waits for others of its ticket or
// client to be decided.
const policyWait = 30 * time.Second

var errPolicyWait = wire.Errorf(wire.CodeRate, "too many builds of this ticket or client wait for its policy").
	WithHint("try again in a moment")

// newPolicyRequest collects what does not change from one question to the next.
func newPolicyRequest(c *caller, b *build, cl *closure, upload uint64, req *wire.BuildRequest) *PolicyRequest {
	r := &PolicyRequest{
		Build: b.rec.ID, Client: c.client, ClientName: b.rec.ClientName, Ticket: c.ticket, Trusted: c.trusted,
		Rebuild: req.Mode == wire.ModeCheck, ClosurePaths: len(cl.infos), UploadBytes: upload,
	}
	for _, root := range cl.roots {
		r.Roots = append(r.Roots, PolicyRoot{Drv: root.Path, Outputs: root.Outputs})
	}
	for i := range cl.infos {
		if !cl.infos[i].Path.IsDrv() {
			r.Sources = append(r.Sources, cl.infos[i])
		}
	}
	return r
}

// ask asks the policy, and takes over the limits that it leaves.
func (s *Service) ask(ctx context.Context, b *build, event PolicyEvent, toBuild []Planned) error {
	if s.cfg.Policy == nil {
		return nil
	}
	r := b.policyRequest
	r.Event, r.Now, r.Limits, r.ToBuild = event, s.cfg.Now(), b.limits, toBuild
	b.mu.Lock()
	for i, root := range r.Roots {
		r.Roots[i].System = b.planned[root.Drv].System
	}
	b.mu.Unlock()
	q := UsageQuery{Ticket: b.rec.Ticket, Client: b.rec.Client, Now: r.Now}
	if r.Ticket != nil {
		q.Name = r.Ticket.Name
	}
	if event == PolicyStart {
		q.Except = b.rec.ID
	}
	var err error
	if r.Usage, err = s.cfg.Records.Usage(ctx, q); err != nil {
		return err
	}
	limits, err := s.cfg.Policy.Decide(ctx, r)
	if err != nil {
		return err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.limits, b.rec.Limits = limits, &limits
	return nil
}

// askToStart asks once it is known what would be built, and holds that against
// the limits that are left.
func (s *Service) askToStart(ctx context.Context, b *build, planned []Planned) error {
	if err := s.ask(ctx, b, PolicyStart, planned); err != nil {
		return err
	}
	for _, p := range planned {
		if err := s.allowed(p, b.limits); err != nil {
			return err
		}
	}
	return nil
}

// decideAndRecord asks the policy and spends a use. The usage that the policy
// decides on is still true when the use is spent: whoever would change it by
// being admitted waits.
func (s *Service) decideAndRecord(ctx context.Context, b *build, cl *closure, wanted []int, planned []Planned) error {
	if s.cfg.Policy != nil {
		wait, cancel := context.WithTimeoutCause(ctx, policyWait, errPolicyWait)
		release, err := s.admissions.take(wait, admissionKeys(b))
		cancel()
		if err != nil {
			return err
		}
		defer release()
	}
	if b.revived == nil {
		if err := s.ask(ctx, b, PolicyBuild, nil); err != nil {
			return err
		}
	} else {
		b.limits = *b.revived
	}
	if least, most := uploadsAtLeast(cl, wanted), b.limits.MaxUploadBytes; most > 0 && least > uint64(most) {
		return uploadLimit(least, most)
	}
	if len(wanted) == 0 {
		if err := s.askToStart(ctx, b, planned); err != nil {
			return err
		}
	}
	return s.record(ctx, b)
}

// admissionKeys name the counters of usage that the build adds to.
func admissionKeys(b *build) []string {
	keys := []string{"client " + b.rec.Client.String()}
	if t := b.policyRequest.Ticket; t != nil {
		keys = append(keys, "name "+t.Name, "ticket "+t.ID.String())
	}
	return keys
}

// countOutputs notes the NAR bytes of the outputs for the usage of ticket and
// client.
func (b *build) countOutputs(closure []nix.PathInfo, outputs []nix.Path) {
	var sum uint64
	for _, info := range closure {
		if _, ok := slices.BinarySearch(outputs, info.Path); ok {
			sum += info.NarSize
		}
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.rec.OutputBytes = sum
}

// turns are locks by name.
type turns struct {
	mu   sync.Mutex
	held map[string]chan struct{} // closed when it is free again
}

// take waits for all of the keys, which must be sorted and distinct.
func (t *turns) take(ctx context.Context, keys []string) (release func(), err error) {
	var taken []string
	release = func() {
		t.mu.Lock()
		defer t.mu.Unlock()
		for _, k := range slices.Backward(taken) {
			close(t.held[k])
			delete(t.held, k)
		}
	}
	for _, k := range keys {
		for {
			t.mu.Lock()
			busy := t.held[k]
			if busy == nil {
				if t.held == nil {
					t.held = make(map[string]chan struct{})
				}
				t.held[k] = make(chan struct{})
				taken = append(taken, k)
			}
			t.mu.Unlock()
			if busy == nil {
				break
			}
			select {
			case <-busy:
			case <-ctx.Done():
				release()
				return nil, context.Cause(ctx)
			}
		}
	}
	return release, nil
}
