package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"github.com/coreos/go-systemd/v22/activation"
	"github.com/nix-community/go-nix/pkg/narinfo/signature"

	"github.com/drv-thru/drv-thru/cmd/drv-thru/internal/admin"
	"github.com/drv-thru/drv-thru/cmd/drv-thru/internal/metrics"
	"github.com/drv-thru/drv-thru/cmd/drv-thru/internal/policies"
	"github.com/drv-thru/drv-thru/cmd/drv-thru/internal/state"
	"github.com/drv-thru/drv-thru/cmd/internal/notify"
	"github.com/drv-thru/drv-thru/core/builder"
	"github.com/drv-thru/drv-thru/core/builder/nixstore"
	"github.com/drv-thru/drv-thru/core/cache"
	"github.com/drv-thru/drv-thru/core/key"
	"github.com/drv-thru/drv-thru/core/link"
	"github.com/drv-thru/drv-thru/core/nix"
	"github.com/drv-thru/drv-thru/core/nix/daemon"
)

const (
	// registerWait is how long serve waits for its first relay before it says
	// that it is still trying.
	registerWait = 5 * time.Second
	// shutdownWait bounds how long serve waits for requests at its end.
	shutdownWait = 5 * time.Second
)

// serve runs the builder until ctx ends. At SIGHUP it reads its configuration
// again.
func (a *app) serve(ctx context.Context, cfg *serveConfig, reread func() (*serveConfig, error), log *slog.Logger) error {
	// From the start on, as the signal would end the process.
	hangups := make(chan os.Signal, 1)
	signal.Notify(hangups, syscall.SIGHUP)
	defer signal.Stop(hangups)
	ctx, fail := context.WithCancelCause(ctx)
	defer fail(nil)
	if err := makeDataDir(cfg.DataDir); err != nil {
		return err
	}
	unlock, err := lockDataDir(cfg.DataDir)
	if err != nil {
		return err
	}
	defer unlock()
	identity, err := key.LoadOrCreateFile(cfg.SecretKeyFile, rand.Reader)
	if err != nil {
		return err
	}
	signing, err := signingKey(cfg.DataDir, identity.ID())
	if err != nil {
		return err
	}
	adminListener, adminSocket, err := listenAdmin(cfg.AdminSocket)
	if err != nil {
		return err
	}
	defer adminListener.Close()
	db, err := state.Open(ctx, filepath.Join(cfg.DataDir, "state.db"))
	if err != nil {
		return err
	}
	defer db.Close()
	settings, err := readNixSettings(ctx, a.environ)
	if err != nil {
		return err
	}
	settings.only = cfg.Systems
	store := nixstore.New(nixstore.Config{
		Dial: daemon.Config{Dial: a.builderDialer()}, MaxJobs: settings.maxJobs,
		NoSubstitutes: !settings.substitute,
	})
	defer store.Close()
	info, err := a.checkDaemon(ctx, cfg, store, settings)
	if err != nil {
		return err
	}
	if settings.machinesErr != nil {
		log.Warn("some machines that nix-daemon sends builds to are not offered, as nobody but it may read of them", "err", settings.machinesErr)
	}
	if _, err := os.Stat(settings.netrc); err == nil {
		log.Warn("fixed-output derivations of others can fetch with the logins in Nix's netrc-file; with ticket create --no-fixed-output none are built", "file", settings.netrc)
	}
	counted := metrics.New()
	decider, err := policies.New(ctx, policies.Config{
		Policies: cfg.Policies, Dir: filepath.Join(cfg.DataDir, "policies"), Log: log, Now: time.Now,
		Record: db.AddDecision, Decided: counted.Decided,
	})
	if err != nil {
		return err
	}
	defer decider.Close()
	svc, err := newService(ctx, cfg, identity.ID(), signing, db, decider, counted, store, settings, info, log)
	if err != nil {
		return err
	}
	defer svc.Close()
	failed := func(err error) {
		if err != nil && !errors.Is(err, http.ErrServerClosed) {
			fail(err)
		}
	}
	counted.Watch(svc.Load, freeDiskOf(cfg))
	metricsServer, err := cfg.serveMetrics(counted, log, failed)
	if err != nil {
		return err
	}
	defer metricsServer.Close()
	reload := &reloader{cfg: cfg, reread: reread, svc: svc, policies: decider, nix: settings, log: log}
	network := link.Network{Proxy: http.ProxyFromEnvironment, Agent: softwareName()}
	if cfg.EmbeddedRelay != "" {
		embedded, err := startEmbeddedRelay(cfg, log, failed)
		if err != nil {
			return err
		}
		defer embedded.stop()
		reload.embedded, network = embedded, embedded.network(network)
	}
	if err := reload.readTokens(cfg); err != nil {
		return err
	}
	circuits, err := link.Listen(link.ListenConfig{
		Identity: identity, Relays: reload.relays(cfg), Token: reload.token, Log: log, Network: network,
	})
	if err != nil {
		return err
	}
	defer circuits.Close()
	reload.circuits = circuits
	if err := circuits.Watch(); err != nil {
		log.Debug("changes of the network are not noticed", slog.Any("error", err))
	}
	paths, err := openDirect(ctx, cfg, identity, svc, circuits, log)
	if err != nil {
		return err
	}
	defer paths.Close()
	server, err := link.NewServer(identity, paths.handler(svc), log)
	if err != nil {
		return err
	}
	link.LimitStrangers(server, svc.Authorize)
	go func() { failed(paths.serve(server)) }()
	go func() { failed(server.ServeTLS(circuits, "", "")) }()
	reload.setRelays(cfg.Relays)
	started := time.Now()
	adminServer := &http.Server{
		ReadHeaderTimeout: 10 * time.Second,
		Handler: admin.NewHandler(admin.Config{
			Tickets: db, Service: svc, Policies: decider, Decisions: db, Builder: identity.ID(), Now: time.Now, Rand: rand.Reader,
			Relays: reload.tickets, Addresses: paths.addresses,
			Describe: func(st *admin.Status) {
				st.Software, st.NixVersion, st.Started = softwareName(), info.NixVersion, started
				st.Systems, _ = settings.offered()
				st.SigningKey = signing.ToPublicKey().String()
				st.Direct = paths.status()
				st.Relays = reload.relayStatus(circuits.Status())
			},
			State: db,
		}),
	}
	go func() { failed(adminServer.Serve(adminListener)) }()
	var telling sync.WaitGroup
	telling.Go(func() { notify.Watchdog(ctx, func() { svc.Status() }) })
	telling.Go(func() { reload.tellReady(ctx) })
	a.announce(ctx, circuits, identity.ID(), reload.tickets(), paths, signing, adminSocket)
	reload.run(ctx, hangups)
	telling.Wait()
	notify.Stopping()
	log.Info("stopping")
	// Builds first, then what still reads.
	settle(svc, reload.cfg.DrainTimeout.Std(), log)
	svc.Close()
	stopCtx, cancel := context.WithTimeout(context.WithoutCancel(ctx), shutdownWait)
	defer cancel()
	if server.Shutdown(stopCtx) != nil {
		_ = server.Close()
	}
	if adminServer.Shutdown(stopCtx) != nil {
		_ = adminServer.Close()
	}
	if cause := context.Cause(ctx); !errors.Is(cause, context.Canceled) {
		return cause
	}
	return nil
}

// settle gives builds that run time to end, unless a second signal comes.
func settle(svc *builder.Service, most time.Duration, log *slog.Logger) {
	ctx, cancel := context.WithTimeout(context.Background(), most)
	defer cancel()
	ctx, stop := signal.NotifyContext(ctx, syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	if most > 0 {
		log.Info("running builds may end first", "within", most)
		notify.Extend(most + 2*shutdownWait)
	}
	svc.Settle(ctx)
}

// listenAdmin returns the socket that systemd has handed over, or one of our own at
// path, and where it is.
func listenAdmin(path string) (net.Listener, string, error) {
	given, err := activation.Listeners()
	if err != nil {
		return nil, "", fmt.Errorf("take over the admin socket: %w", err)
	}
	switch len(given) {
	case 0:
		l, err := admin.Listen(path)
		switch {
		case errors.Is(err, syscall.EINVAL):
			err = &hintError{err, "its path may be too long, as one of a socket has about a hundred bytes: name another with --admin-socket"}
		case err != nil:
			err = &hintError{err, "name another with --admin-socket"}
		}
		return l, path, err
	case 1:
		return given[0], given[0].Addr().String(), nil
	}
	return nil, "", fmt.Errorf("systemd has handed over %d sockets, want the admin socket alone", len(given))
}

func (e *embeddedRelay) stop() {
	ctx, cancel := context.WithTimeout(context.Background(), shutdownWait)
	defer cancel()
	_ = e.relay.Shutdown(ctx) // what is left was cut
}

// announce prints who and where the builder is, once a relay knows it.
func (a *app) announce(ctx context.Context, circuits *link.Listener, id key.ID, relays []string, paths *directPaths, signing nix.SecretKey, adminSocket string) {
	waitCtx, cancel := context.WithTimeout(ctx, registerWait)
	defer cancel()
	registered := circuits.Registered(waitCtx)
	if ctx.Err() != nil {
		return
	}
	out := func(format string, args ...any) { fmt.Fprintf(a.stdout, format+"\n", args...) }
	out("endpoint ID    %s", id)
	for _, r := range relays {
		out("relay          %s", r)
	}
	for _, at := range paths.addresses() {
		out("listens at     %s", at)
	}
	out("signing key    %s", signing.ToPublicKey())
	out("admin socket   %s", adminSocket)
	if registered != nil {
		a.warnOfRelays(circuits.Status())
	}
	out("ready          make a ticket with: drv-thru ticket create")
}

// warnOfRelays tells of relays that do not know the builder.
func (a *app) warnOfRelays(relays []link.RelayStatus) {
	for _, r := range relays {
		if r.Err != nil {
			fmt.Fprintf(a.stderr, "warning: no connection to relay %s: %s; trying on\n", r.URL, plain(r.Err.Error()))
			if hint := hintOf(r.Err); hint != "" {
				fmt.Fprintf(a.stderr, "hint: %s\n", plain(hint))
			}
		}
	}
}

// signingKey reads or makes the key that signs narinfos, and keeps its public
// half beside it.
func signingKey(dir string, id key.ID) (nix.SecretKey, error) {
	path := filepath.Join(dir, "signing-secret.key")
	text, err := key.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		secret, _, err := signature.GenerateKeypair("drv-thru-"+id.Short()+"-1", rand.Reader)
		if err != nil {
			return nix.SecretKey{}, err
		}
		if err := key.WriteFile(path, []byte(secret.String()+"\n")); err != nil {
			return nix.SecretKey{}, err
		}
		text = []byte(secret.String())
	} else if err != nil {
		return nix.SecretKey{}, err
	}
	secret, err := nix.ParseSecretKey(string(text))
	if err != nil {
		return nix.SecretKey{}, fmt.Errorf("%s: %w", path, err)
	}
	public := []byte(secret.ToPublicKey().String() + "\n")
	publicPath := filepath.Join(dir, "signing-public.key")
	if old, err := os.ReadFile(publicPath); err != nil || string(old) != string(public) {
		if err := os.WriteFile(publicPath, public, 0o644); err != nil {
			return nix.SecretKey{}, fmt.Errorf("write public key: %w", err)
		}
		// Whatever a service's umask says: this half is for everybody.
		if err := os.Chmod(publicPath, 0o644); err != nil {
			return nix.SecretKey{}, fmt.Errorf("write public key: %w", err)
		}
	}
	return secret, nil
}

func newService(ctx context.Context, cfg *serveConfig, id key.ID, signing nix.SecretKey, db *state.DB,
	decider builder.Policy, meter builder.Meter, store *nixstore.Store,
	settings *nixSettings, info daemon.Info, log *slog.Logger,
) (*builder.Service, error) {
	clients, err := cfg.clients()
	if err != nil {
		return nil, err
	}
	systems, features := settings.offered()
	index, err := cache.OpenIndex(cache.IndexConfig{
		Dir: filepath.Join(cfg.DataDir, "index"), MaxBytes: unlimited(cfg.MaxIndexBytes), Now: time.Now, Log: log,
	})
	if err != nil {
		return nil, err
	}
	return builder.New(ctx, builder.Config{
		Identity: id, Software: softwareName(), NixVersion: info.NixVersion, SigningKey: signing,
		Store: store, Records: db, Policy: decider, Meter: meter, Dir: cfg.buildsDir(), Now: time.Now, Log: log, Trace: trace,
		FreeDisk: freeDiskOf(cfg), Tuning: cfg.tuning(settings), Systems: systems, Features: features,
		CADerivations: settings.caDerivations, TrustedKeys: settings.trustedKeys, Clients: clients,
		Index: index, ParallelFills: cfg.parallelFills(),
	})
}

// trace says how a request came: the log of its client has the circuit, too, and so
// has the relay's.
func trace(r *http.Request) []any {
	attrs := []any{"path", link.PathOf(r.Context()).Kind}
	if circuit := link.CircuitOf(r.Context()); circuit != "" {
		attrs = append(attrs, "circuit", circuit)
	}
	return attrs
}

// buildsDir is where builds keep their events and roots.
func (c *serveConfig) buildsDir() string { return filepath.Join(c.DataDir, "builds") }

func freeDiskOf(cfg *serveConfig) func() (uint64, error) {
	return func() (uint64, error) { return freeDisk(nix.StoreDir, cfg.buildsDir()) }
}
