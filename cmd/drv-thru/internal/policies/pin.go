package policies

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/drv-thru/drv-thru/core/builder"
	"github.com/drv-thru/drv-thru/core/wire"
	"github.com/drv-thru/drv-thru/policy"
	"github.com/drv-thru/drv-thru/policy/builtin"
)

// Choice is the policy that a new ticket is to have: one of the configuration by
// its name, or a module.
type Choice struct {
	Name     string          `json:"name,omitempty"`
	Module   []byte          `json:"module,omitempty"`
	Settings json.RawMessage `json:"settings,omitempty"`
}

// Pin chooses the policy of a ticket that is being made, keeps its module, and
// asks it (event "create"): what would deny every build denies the ticket.
func (m *Manager) Pin(ctx context.Context, n Choice, t *builder.TicketRecord) error {
	if len(n.Settings) > 0 {
		if err := policy.CheckSettings(n.Settings); err != nil {
			return wire.Errorf(wire.CodeBadRequest, "policy: %s", err)
		}
	}
	t.Policy = builder.TicketPolicy{Name: n.Name, Settings: n.Settings}
	if len(n.Module) > 0 {
		if err := m.keep(ctx, n, t); err != nil {
			return err
		}
	} else if n.Name != "" {
		configured, ok := m.configured.Load().policies[n.Name]
		if !ok && n.Name != builtin.Name {
			return wire.Errorf(wire.CodeBadRequest, "the builder's configuration has no policy %.60q", n.Name).
				WithHint("see: drv-thru policy list; or name a module's file")
		}
		if configured.Module != "" {
			module, err := m.fromFile(ctx, configured.Module, policy.Hash{})
			if err != nil {
				return ownersDenial(n.Name, err)
			}
			t.Policy.Hash = module.Hash().String()
		}
	}
	r := policy.Request{
		Now: policy.Count(max(0, m.cfg.Now().Unix())), Event: policy.EventCreate,
		Ticket: policy.Ticket{ID: t.ID.String(), Name: t.Name},
	}
	if !t.Bind.IsZero() {
		r.Client.ID = t.Bind.String()
	}
	if _, err := m.decide(ctx, t.Policy, r, t.Limits, ""); err != nil {
		return ownersDenial(t.Policy.Name, err)
	}
	return nil
}

// keep checks a module that comes with a ticket and writes it down under its
// hash.
func (m *Manager) keep(ctx context.Context, n Choice, t *builder.TicketRecord) error {
	hash := policy.HashOf(n.Module)
	if _, err := m.load(ctx, hash, n.Module); err != nil {
		return ownersDenial(n.Name, err)
	}
	t.Policy.Hash, t.Policy.Kept = hash.String(), true
	path := m.keptFile(hash)
	if have, err := policy.ReadModule(os.DirFS(m.kept()), hash.String()+".wasm"); err == nil && policy.HashOf(have) == hash {
		return nil
	}
	f, err := os.CreateTemp(m.kept(), ".new-*")
	if err != nil {
		return fmt.Errorf("keep policy module: %w", err)
	}
	_, err = f.Write(n.Module)
	err = errors.Join(err, f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		if gone := os.Remove(f.Name()); !errors.Is(gone, fs.ErrNotExist) {
			err = errors.Join(err, gone)
		}
		return fmt.Errorf("keep policy module: %w", err)
	}
	return nil
}

// ownersDenial tells the owner, who makes the ticket, all of it.
func ownersDenial(name string, err error) error {
	name = cmp.Or(name, builtin.Name)
	var denied *denied
	var failed *policy.Error
	switch {
	case errors.As(err, &denied):
		failed = denied.cause
	case !errors.As(err, &failed):
		return err
	}
	if failed.Code == policy.CodeDenied && failed.Stderr == "" {
		return wire.Errorf(wire.CodePolicyDenied, "%q: %s", name, failed.Error())
	}
	return wire.Errorf(wire.CodePolicyDenied, "%q: %s", name, failed.Owner())
}
