package policies

import (
	"cmp"
	"context"
	"errors"
	"strings"
	"time"

	"github.com/drv-thru/drv-thru/cmd/drv-thru/internal/state"
	"github.com/drv-thru/drv-thru/core/builder"
	"github.com/drv-thru/drv-thru/core/nix"
	"github.com/drv-thru/drv-thru/core/ticket"
	"github.com/drv-thru/drv-thru/core/wire"
	"github.com/drv-thru/drv-thru/policy"
)

// Decide implements [builder.Policy].
func (m *Manager) Decide(ctx context.Context, r *builder.PolicyRequest) (ticket.Limits, error) {
	pinned := builder.TicketPolicy{}
	if r.Ticket != nil {
		pinned = r.Ticket.Policy
	} else if r.Trusted != nil {
		pinned.Name = r.Trusted.Policy
	}
	return m.decide(ctx, pinned, requestOf(r), r.Limits, string(r.Build))
}

// decide asks, records, and says what holds: limits, or the error for the
// ticket's holder.
func (m *Manager) decide(ctx context.Context, pinned builder.TicketPolicy, r policy.Request, current ticket.Limits, build string) (ticket.Limits, error) {
	c, err := m.choose(ctx, pinned)
	var res policy.Result
	if err == nil {
		r.Settings = c.settings
		res, err = c.module.Decide(ctx, r, current)
	}
	var failed *policy.Error
	if err != nil && !errors.As(err, &failed) {
		failed = &policy.Error{Code: policy.CodeTrap, Detail: err.Error(), Err: err}
	}
	if failed != nil && failed.Code == policy.CodeCanceled {
		return ticket.Limits{}, failed
	}
	d := state.Decision{
		At: m.cfg.Now(), Policy: c.name, Hash: c.hash, Event: string(r.Event), Ticket: r.Ticket.ID, TicketName: r.Ticket.Name,
		Client: r.Client.ID, Build: build, Monitor: c.monitor, Verdict: string(res.Decision.Decision), Reason: res.Decision.Reason,
		Stderr: res.Stderr, Limits: res.Limits, Wall: res.Cost.Wall, Memory: res.Cost.Memory,
	}
	if failed != nil {
		d.Verdict, d.Code, d.Reason, d.Detail, d.Limits = string(policy.Deny), string(failed.Code), failed.Error(), failed.Detail, ticket.Limits{}
	}
	m.record(ctx, c, d)
	switch {
	case c.monitor:
		return current, nil
	case failed != nil:
		return ticket.Limits{}, denial(c.name, failed)
	}
	return res.Limits, nil
}

// record tells the owner. What the built-in module has nothing against is not
// worth a line.
func (m *Manager) record(ctx context.Context, c chosen, d state.Decision) {
	if m.cfg.Decided != nil {
		m.cfg.Decided(d)
	}
	if d.Verdict == string(policy.Allow) && c.module == m.builtin && !d.Monitor {
		return
	}
	attrs := []any{"policy", d.Policy, "event", d.Event, "verdict", d.Verdict, "ticket", cmp.Or(d.TicketName, d.Ticket), "client", d.Client}
	if d.Build != "" {
		attrs = append(attrs, "build", d.Build)
	}
	if d.Code != "" {
		attrs = append(attrs, "code", d.Code, "reason", d.Reason, "detail", d.Detail)
	}
	if d.Code == string(policy.CodeChanged) {
		attrs = append(attrs, "hint", reissue(d.Policy))
	}
	if d.Stderr != "" {
		attrs = append(attrs, "stderr", d.Stderr)
	}
	if d.Monitor {
		attrs = append(attrs, "effect", "none, it is in mode monitor")
	}
	attrs = append(attrs, "took", d.Wall.Round(time.Microsecond))
	if d.Verdict == string(policy.Deny) {
		m.cfg.Log.Warn("policy decided", attrs...)
	} else {
		m.cfg.Log.Info("policy decided", attrs...)
	}
	if err := m.cfg.Record(context.WithoutCancel(ctx), d); err != nil {
		m.cfg.Log.Error("record decision", "err", err)
	}
}

// reissue tells the owner what to do about a module that was changed.
func reissue(name string) string {
	return "put the old module back, or revoke the ticket and make another: drv-thru ticket create --policy " + name
}

// denial is what the holder is told.
func denial(name string, e *policy.Error) error {
	return &denied{holder: holderError(name, e), cause: e}
}

// denied is a denial with two faces.
type denied struct {
	holder *wire.Error
	cause  *policy.Error // for the owner
}

func (d *denied) Error() string { return d.holder.Error() }

// Unwrap returns the holder's face only: what is written to a client must not
// find the other.
func (d *denied) Unwrap() error { return d.holder }

func holderError(name string, e *policy.Error) *wire.Error {
	w := wire.Errorf(wire.CodePolicyDenied, "%q: %s", name, e.Error())
	switch e.Code {
	case policy.CodeDenied:
		return w
	case policy.CodeChanged:
		return w.WithHint("the policy was changed after this ticket was made: ask the builder's owner for a new ticket")
	case policy.CodeBusy:
		return w.WithHint("try again in a moment")
	}
	return w.WithHint("tell the builder's owner, who sees why in: drv-thru policy log")
}

func requestOf(r *builder.PolicyRequest) policy.Request {
	out := policy.Request{
		Now: policy.Count(max(0, r.Now.Unix())), Event: policy.Event(r.Event),
		Client: policy.Client{ID: r.Client.String(), Name: r.ClientName, Usage: usageOf(r.Usage.Client)},
		Request: policy.Build{
			ToBuildCount: policy.Count(len(r.ToBuild)), ClosurePaths: policy.Count(r.ClosurePaths),
			UploadBytes: count(r.UploadBytes), Rebuild: r.Rebuild,
		},
	}
	if r.Ticket != nil {
		out.Ticket.ID, out.Ticket.Name = r.Ticket.ID.String(), r.Ticket.Name
		out.Usage, out.Ticket.NameUsage = usageOf(r.Usage.Ticket), usageOf(r.Usage.Name)
	} else {
		// The standing permission of a client is used by it alone.
		out.Ticket.Name = r.ClientName
		out.Usage, out.Ticket.NameUsage = out.Client.Usage, out.Client.Usage
	}
	for _, root := range r.Roots {
		out.Request.Roots = append(out.Request.Roots, policy.Root{Name: drvName(root.Drv), System: root.System, Outputs: root.Outputs})
	}
	for _, p := range r.ToBuild {
		out.Request.ToBuild = append(out.Request.ToBuild, policy.Planned{
			Name: drvName(p.Drv), System: p.System, FixedOutput: p.FixedOutput, Features: p.Features,
		})
	}
	for i := range r.Sources {
		out.Request.Sources = append(out.Request.Sources, policy.Source{
			Path: r.Sources[i].Path.Base(), NarHash: r.Sources[i].NarHash.SRI(),
		})
	}
	return out
}

func usageOf(u builder.Usage) policy.Usage {
	return policy.Usage{
		Builds: policy.Count(u.Builds), BuildsHour: policy.Count(u.BuildsHour), BuildsDay: policy.Count(u.BuildsDay),
		Active: policy.Count(u.Active), UploadBytes: count(u.UploadBytes), OutputBytes: count(u.OutputBytes),
		// Rounded up, so that many short builds do not count as none.
		BuildSeconds: policy.Count((u.BuildTime + time.Second - 1) / time.Second),
	}
}

func count(n uint64) policy.Count { return policy.Count(min(n, policy.MaxNumber)) }

func drvName(p nix.Path) string { return strings.TrimSuffix(p.Name(), ".drv") }
