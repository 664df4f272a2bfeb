package main

import (
	"context"
	"errors"
	"flag"
	"os/signal"
	"syscall"

	"github.com/peterbourgon/ff/v3/ffcli"

	"github.com/drv-thru/drv-thru/cmd/internal/usage"
	"github.com/drv-thru/drv-thru/core/key"
	"github.com/drv-thru/drv-thru/core/ticket"
)

// serveFlags are what the command line of serve sets; each stands above the
// configuration file.
type serveFlags struct {
	config             string
	dataDir            string
	adminSocket        string
	trustedClients     usage.Names
	relays             usage.Names
	relayTokenFiles    usage.List
	embeddedRelay      optionalFlag
	embeddedRelayURLs  usage.Names
	listen             string
	announce           usage.Names
	stun               usage.Names
	allowTrustedDaemon bool
	allowUnsandboxed   bool
	drainTimeout       ticket.Duration
	metrics            string
	metricsPublic      bool
	verbose            bool
	check              bool
}

// optionalFlag is a flag with an optional value: --name or --name=VALUE.
type optionalFlag struct {
	given bool
	value string
}

func (o *optionalFlag) String() string   { return o.value }
func (o *optionalFlag) IsBoolFlag() bool { return true }
func (o *optionalFlag) Set(s string) error {
	if s == "" {
		return new(usage.Word).Set(s)
	}
	o.given = s != "false"
	if s != "true" && s != "false" {
		o.value = s
	}
	return nil
}

func newServeCommand(a *app) *ffcli.Command {
	var f serveFlags
	fs := a.flags("drv-thru serve")
	fs.Var((*usage.Word)(&f.config), "config", "configuration `FILE` (JSON)")
	fs.Var((*usage.Word)(&f.dataDir), "data-dir", "`DIR` for keys, state and builds (default "+systemDataDir+", else $XDG_STATE_HOME/drv-thru)")
	fs.Var((*usage.Word)(&f.adminSocket), "admin-socket", "`PATH` of the socket for ticket and status (default DATA-DIR/"+adminSocketName+")")
	fs.Var(&f.trustedClients, "trusted-client", "`ID` of a client that needs no ticket (repeatable, or separated by commas)")
	fs.Var(&f.relays, "relay", "`URL` of a relay to be found at (repeatable, or separated by commas)")
	fs.Var(&f.relayTokenFiles, "relay-token-file", "`URL=FILE` with the token that the owner of the relay at URL gave out (repeatable)")
	fs.Var(&f.embeddedRelay, "embedded-relay", "run a relay inside, optionally at =`ADDR` (default "+defaultEmbeddedRelay+"; without --relay this is the default)")
	fs.Var(&f.embeddedRelayURLs, "embedded-relay-url", "`URL` at which clients reach the embedded relay (repeatable, or separated by commas; default: this machine's addresses)")
	fs.Var((*usage.Word)(&f.listen), "listen", "`ADDR` for clients that come without a relay, UDP and TCP: :7412, 192.0.2.1:7412; none for none (default: any free port)")
	fs.Var(&f.announce, "announce", "further `ADDR` that leads to --listen's port, such as a router's that forwards it (repeatable, or separated by commas; default: the router is asked to forward it)")
	fs.Var(&f.stun, "stun", "`HOST:PORT` of a STUN server (repeatable, or separated by commas; default: the relays)")
	fs.BoolVar(&f.allowTrustedDaemon, "allow-trusted-daemon", false, "serve although the Nix daemon trusts this user")
	fs.BoolVar(&f.allowUnsandboxed, "allow-unsandboxed", false, "serve although builds are not sandboxed, or run as root")
	fs.Var(&f.drainTimeout, "drain-timeout", "`DURATION` that running builds have to end at SIGTERM before they are handed back (default none)")
	fs.Var((*usage.Word)(&f.metrics), "metrics", "`ADDR` to serve Prometheus metrics on: 9464 or :9464 (both of this machine only), 127.0.0.1:9464 (default: nowhere)")
	fs.BoolVar(&f.metricsPublic, "metrics-public", false, "let --metrics be an address that other machines reach")
	fs.BoolVar(&f.verbose, "verbose", false, "log more")
	fs.BoolVar(&f.check, "check", false, "only check the configuration and the state; the exit code tells")
	return &ffcli.Command{
		Name:       "serve",
		ShortUsage: "drv-thru serve [flags]",
		ShortHelp:  "let others build on this machine",
		LongHelp: "Runs the builder. Whoever holds a ticket (see: drv-thru ticket create), and every\n" +
			"trusted client, may build with this machine's Nix. The user that runs it must not\n" +
			"be a trusted user of the Nix daemon, and builds must be sandboxed.\n\n" +
			"At SIGHUP the configuration file is read again. Trusted clients, policies, relays\n" +
			"and limits change at once; the log says what needs a restart.\n\n" +
			"At SIGTERM no more builds begin. Those that run may end within --drain-timeout; what\n" +
			"is left is handed back: its clients ask again once the builder is back, which spends\n" +
			"nothing, and detached builds begin again by themselves. A second signal ends the wait.",
		FlagSet: fs,
		Exec: func(ctx context.Context, args []string) error {
			if err := noOperands(fs, args); err != nil {
				return err
			}
			cfg, err := f.configure(a)
			if err != nil {
				return err
			}
			if f.check {
				return a.checkServe(ctx, cfg)
			}
			ctx, stop := signal.NotifyContext(ctx, syscall.SIGTERM, syscall.SIGINT)
			defer stop()
			reread := func() (*serveConfig, error) { return f.configure(a) }
			err = a.serve(ctx, cfg, reread, a.logger(f.verbose))
			if ctx.Err() != nil && errors.Is(err, context.Canceled) {
				return nil // it was told to stop before it was ready
			}
			return err
		},
	}
}

// configure reads the file and puts the flags on top.
func (f *serveFlags) configure(a *app) (*serveConfig, error) {
	cfg := defaultServeConfig()
	if f.config != "" {
		if err := cfg.readConfig(f.config); err != nil {
			return nil, err
		}
	}
	if f.dataDir != "" {
		cfg.DataDir = f.dataDir
	}
	if f.adminSocket != "" {
		cfg.AdminSocket = f.adminSocket
	} else if socket := a.env(adminSocketEnv); socket != "" {
		cfg.AdminSocket = socket
	}
	for _, text := range f.trustedClients {
		id, err := key.ParseID(text)
		if err != nil {
			return nil, usagef("--trusted-client: %s", err)
		}
		if cfg.TrustedClients == nil {
			cfg.TrustedClients = make(map[string]trustedClient)
		}
		cfg.TrustedClients["client-"+id.Short()] = trustedClient{PublicKey: id}
	}
	cfg.Relays = append(cfg.Relays, f.relays...)
	for _, text := range f.relayTokenFiles {
		if err := cfg.setRelayToken(text); err != nil {
			return nil, err
		}
	}
	cfg.EmbeddedRelayURLs = append(cfg.EmbeddedRelayURLs, f.embeddedRelayURLs...)
	if f.embeddedRelay.given {
		cfg.EmbeddedRelay = defaultEmbeddedRelay
		if f.embeddedRelay.value != "" {
			cfg.EmbeddedRelay = f.embeddedRelay.value
		}
	}
	if f.listen != "" {
		cfg.Listen = f.listen
	}
	cfg.Announce = append(cfg.Announce, f.announce...)
	cfg.STUN = append(cfg.STUN, f.stun...)
	if f.drainTimeout > 0 {
		cfg.DrainTimeout = f.drainTimeout
	}
	if f.metrics != "" {
		cfg.Metrics = f.metrics
	}
	cfg.MetricsPublic = cfg.MetricsPublic || f.metricsPublic
	cfg.AllowTrustedDaemon = cfg.AllowTrustedDaemon || f.allowTrustedDaemon
	cfg.AllowUnsandboxed = cfg.AllowUnsandboxed || f.allowUnsandboxed
	return &cfg, cfg.check(a)
}

var _ flag.Value = (*optionalFlag)(nil)
