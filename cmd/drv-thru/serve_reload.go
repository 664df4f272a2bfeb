package main

import (
	"cmp"
	"context"
	"log/slog"
	"os"
	"reflect"
	"slices"
	"sync/atomic"

	"github.com/drv-thru/drv-thru/cmd/drv-thru/internal/admin"
	"github.com/drv-thru/drv-thru/cmd/drv-thru/internal/policies"
	"github.com/drv-thru/drv-thru/cmd/internal/notify"
	"github.com/drv-thru/drv-thru/core/builder"
	"github.com/drv-thru/drv-thru/core/link"
)

// reloadable are the keys of the configuration that a running builder takes over.
var reloadable = []string{
	"max_concurrent_builds", "recent_builds_limit", "trusted_clients", "relays", "relay_token_files", "keep_outputs",
	"reattach_grace", "drain_timeout", "max_output_bytes", "max_log_bytes", "min_free", "cores", "max_silent_time", "policies",
}

// tuning is the part of the configuration that is the service's. What it leaves to
// Nix is what nix.conf says.
func (c *serveConfig) tuning(s *nixSettings) builder.Tuning {
	return builder.Tuning{
		Slots: c.MaxConcurrent, KeepOutputs: c.KeepOutputs.Std(), KeepLogs: unlimited(c.MaxLogBytes),
		ReattachGrace: c.ReattachGrace.Std(), MaxSilentTime: cmp.Or(c.MaxSilentTime.Std(), s.maxSilent), MaxOutputBytes: c.MaxOutputBytes,
		MinFree: uint64(c.MinFree), Cores: cmp.Or(c.Cores, s.cores), RecentBuilds: c.RecentBuilds,
	}
}

// reloader is what a running builder can take over of a new configuration, and
// what has to know of it.
type reloader struct {
	cfg      *serveConfig // in effect
	reread   func() (*serveConfig, error)
	svc      *builder.Service
	policies *policies.Manager
	circuits *link.Listener
	embedded *embeddedRelay // nil: there is none
	nix      *nixSettings
	log      *slog.Logger
	ready    atomic.Bool // the service manager has been told so

	tokens atomic.Pointer[func(relay string) string]
	named  atomic.Pointer[[]string] // the relays of the configuration
}

// run reloads at every signal until ctx ends.
func (r *reloader) run(ctx context.Context, hangups <-chan os.Signal) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-hangups:
		}
		r.telling(notify.Reloading)
		next, err := r.reread()
		if err == nil {
			err = r.apply(ctx, next)
		}
		r.telling(notify.Ready)
		if err != nil {
			r.log.Error("the configuration was not reloaded, and nothing has changed", "err", err)
		}
	}
}

// tellReady tells the service manager once the builder can be found.
func (r *reloader) tellReady(ctx context.Context) {
	notify.Status("connecting to a relay")
	if r.circuits.Registered(ctx) != nil {
		return // it ends
	}
	notify.Status("serving")
	notify.Ready()
	r.ready.Store(true)
}

// telling tells of a reload, unless that would say that the builder is ready
// before it is.
func (r *reloader) telling(tell func()) {
	if r.ready.Load() {
		tell()
	}
}

// apply takes over what can be, and says what cannot.
func (r *reloader) apply(ctx context.Context, next *serveConfig) error {
	changed, kept := r.cfg.merge(next)
	clients, err := next.clients()
	if err != nil {
		return err
	}
	urls := r.relays(next)
	if len(urls) == 0 {
		return usagef("without a relay nobody finds the builder, and starting the embedded one takes a restart")
	}
	if err := r.readTokens(next); err != nil {
		return err
	}
	if slices.Contains(changed, "relays") {
		if err := r.circuits.SetRelays(urls); err != nil {
			return err
		}
		r.setRelays(next.Relays)
	}
	if slices.Contains(changed, "policies") {
		r.policies.Configure(ctx, next.Policies)
	}
	r.svc.SetClients(clients)
	r.svc.SetTuning(next.tuning(r.nix))
	r.cfg = next
	r.log.Info("reloaded the configuration", "changed", changed)
	for _, name := range kept {
		r.log.Warn("a change of the configuration needs a restart", "key", name)
	}
	return nil
}

// merge returns the keys of next that differ from c's: those that can change,
// and those that cannot, of which next gets c's values.
func (c *serveConfig) merge(next *serveConfig) (changed, kept []string) {
	was, will := reflect.ValueOf(c).Elem(), reflect.ValueOf(next).Elem()
	for i := range was.NumField() {
		if reflect.DeepEqual(was.Field(i).Interface(), will.Field(i).Interface()) {
			continue
		}
		name := was.Type().Field(i).Tag.Get("json")
		if slices.Contains(reloadable, name) {
			changed = append(changed, name)
			continue
		}
		kept = append(kept, name)
		will.Field(i).Set(was.Field(i))
	}
	return changed, kept
}

// relays are the URLs to register at.
func (r *reloader) relays(cfg *serveConfig) []string {
	urls := slices.Clone(cfg.Relays)
	if r.embedded != nil {
		urls = append(urls, r.embedded.own)
	}
	return urls
}

// tickets are the URLs that tickets say.
func (r *reloader) tickets() []string {
	urls := slices.Clone(*r.named.Load())
	if r.embedded != nil {
		urls = append(urls, r.embedded.urls()...)
	}
	return urls
}

// relayStatus is how it is at each relay, by the URLs at which clients find it:
// that by which the builder reaches the relay inside leads nobody else there.
func (r *reloader) relayStatus(relays []link.RelayStatus) []admin.Relay {
	var out []admin.Relay
	for _, s := range relays {
		urls := []string{s.URL}
		if r.embedded != nil && s.URL == r.embedded.own {
			urls = r.embedded.urls()
		}
		for _, u := range urls {
			at := admin.Relay{URL: u, Registered: s.Connected}
			if s.Err != nil {
				at.Error = s.Err.Error()
			}
			out = append(out, at)
		}
	}
	return out
}

// readTokens reads the tokens of relays.
func (r *reloader) readTokens(cfg *serveConfig) error {
	tokens, err := cfg.relayToken()
	if err == nil {
		r.tokens.Store(&tokens)
	}
	return err
}

// token is what the builder shows at a relay.
func (r *reloader) token(relay string) string {
	if r.embedded != nil && relay == r.embedded.own {
		return r.embedded.token
	}
	return (*r.tokens.Load())(relay)
}

func (r *reloader) setRelays(named []string) {
	r.named.Store(&named)
	if warning := unnamedRelays(r.tickets()); warning != "" {
		r.log.Warn(warning)
	}
}
