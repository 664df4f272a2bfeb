package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/signal"
	"strconv"
	"sync"
	"syscall"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/drv-thru/drv-thru/cmd/internal/notify"
	"github.com/drv-thru/drv-thru/core/wire"
	"github.com/drv-thru/drv-thru/relay"
)

func serve(ctx context.Context, f flags, stdout, stderr io.Writer) error {
	if f.version {
		_, err := fmt.Fprintf(stdout, "drv-thru-relay %s, protocol %s\n", version, wire.RelayProtocol)
		return err
	}
	if f.acme.dir == "" {
		f.acme.dir = os.Getenv("STATE_DIRECTORY") // systemd.exec(5)
	}
	if err := f.check(); err != nil {
		return usageError{err}
	}
	ctx, stop := signal.NotifyContext(ctx, os.Interrupt, syscall.SIGTERM)
	defer stop()
	reload := make(chan os.Signal, 1)
	signal.Notify(reload, syscall.SIGHUP)
	defer signal.Stop(reload)
	log := slog.New(notify.LogHandler(stderr, f.logLevel))
	for _, name := range unknownVariables(new(flags).set(), os.Environ()) {
		log.Warn("a variable of the environment sets no flag", "name", name)
	}

	access, err := f.readAccess()
	if err != nil {
		return err
	}
	var certs *tls.Config
	var files *certFiles
	var authority *acmeCerts
	var shown *validity
	named := false // by the certificate in files
	switch {
	case f.tlsCert != "":
		if files, err = newCertFiles(f.tlsCert, f.tlsKey, log); err != nil {
			return err
		}
		certs, shown = serverTLS(files.get), files.shown
		if f.hosts == nil {
			f.hosts, named = certNames(files.pair), true
		} else {
			files.changed = func(pair *tls.Certificate) { f.compareNames(pair, log) }
			files.changed(files.pair)
		}
	case len(f.acme.domains) > 0:
		if err := os.MkdirAll(f.acme.dir, 0o700); err != nil {
			return &hintError{fmt.Errorf("make a place for certificates: %w", err), "name another with --acme-dir DIRECTORY"}
		}
		authority = newACME(f.acme, log)
		certs, shown = authority.config(), authority.shown
		if len(f.hosts) == 0 {
			f.hosts = f.acme.domains
		}
	}
	if len(f.hosts) == 0 {
		log.Warn("without --hostname, another relay could register here with what builders sent to it")
	}

	l, err := net.Listen("tcp", f.listen)
	if err != nil {
		return &hintError{fmt.Errorf("listen: %w", err), "listen elsewhere with --listen ADDRESS"}
	}
	scheme, bound := "http", l.Addr()
	if certs != nil {
		scheme = "https"
		l = tls.NewListener(l, certs)
	}
	packets, err := f.listenSTUN(bound)
	if err != nil {
		_ = l.Close()
		return err
	}
	cfg := relay.Config{
		Hosts: f.hosts, Limits: f.limits, Log: log, LogAddresses: f.logAddresses, Access: access,
		ClientAddr: f.clientAddr(log),
	}
	if len(f.trustedProxies) > 0 {
		cfg.Proxy = f.trustedProxies.contains
	}
	if packets != nil {
		cfg.STUN = f.stunPlace(packets.LocalAddr())
	}
	s := relay.New(cfg)
	if named {
		files.changed = func(pair *tls.Certificate) {
			// One with a wildcard takes no name away.
			if names := certNames(pair); len(names) > 0 {
				s.SetHosts(names)
			}
		}
	}
	metrics, err := f.listenMetrics(s, shown, log)
	if err != nil {
		_ = l.Close()
		return err
	}
	defer metrics.Close()
	failed := make(chan error, 2)
	go func() { failed <- s.Serve(l) }()
	if packets != nil {
		go func() {
			if err := s.ServeSTUN(packets); !errors.Is(err, net.ErrClosed) {
				failed <- fmt.Errorf("STUN: %w", err)
			}
		}()
	}
	if authority != nil {
		go authority.prepare(f.acme.domains)
	}
	fmt.Fprintf(stdout, "relay ready at %s://%s\n", scheme, bound)
	notify.Ready()
	watched := make(chan struct{})
	go func() {
		defer close(watched)
		notify.Watchdog(ctx, func() { s.Stats() })
	}()

	for ctx.Err() == nil {
		select {
		case err := <-failed:
			return fmt.Errorf("serve: %w", err)
		case <-reload:
			notify.Reloading()
			f.reload(s, files, log)
			notify.Ready()
		case <-ctx.Done():
		}
	}
	<-watched
	notify.Stopping()
	notify.Extend(f.drain + closeWait)
	stop() // the next signal kills
	log.Info("shutting down", slog.Int("circuits", s.Stats().Circuits))
	drain, cancel := context.WithTimeout(context.Background(), f.drain)
	defer cancel()
	if err := s.Shutdown(drain); err != nil {
		log.Info("open circuits were closed")
	}
	if err := <-failed; !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serve: %w", err)
	}
	return nil
}

// compareNames says for which of the relay's names a certificate is not: who uses one
// meets an error of TLS, of which the relay learns nothing.
func (f *flags) compareNames(pair *tls.Certificate, log *slog.Logger) {
	for _, name := range f.hosts {
		host, _, err := net.SplitHostPort(name)
		if err != nil {
			host = name
		}
		if err := pair.Leaf.VerifyHostname(host); err != nil {
			log.Warn("the certificate is for another name than --hostname", slog.Any("error", err))
		}
	}
}

// clientAddr tells who sent a request. It says once what is missing between the relay and
// a proxy in front: nothing fails without, but all who come through it share the limits
// of one address.
func (f *flags) clientAddr(log *slog.Logger) func(*http.Request) netip.Addr {
	addr := relay.ForwardedBy(f.trustedProxies)
	var once sync.Once
	return func(r *http.Request) netip.Addr {
		a, forwarded := addr(r), r.Header.Get("X-Forwarded-For") != ""
		switch {
		case !forwarded && f.trustedProxies.contains(a):
			once.Do(func() {
				log.Warn("an address of --trusted-proxies asks without X-Forwarded-For; all who come through it count as one address")
			})
		case forwarded && len(f.trustedProxies) == 0 && (a.IsLoopback() || a.IsPrivate()):
			once.Do(func() {
				log.Warn("a proxy asks, as X-Forwarded-For says; name it in --trusted-proxies, or all who come through it count as one address")
			})
		}
		return a
	}
}

// closeWait is what closing circuits that are left may take.
const closeWait = 10 * time.Second

// reload reads again what is in files. What cannot be read leaves things as
// they are.
func (f *flags) reload(s *relay.Server, files *certFiles, log *slog.Logger) {
	access, err := f.readAccess()
	if err == nil {
		s.SetAccess(access)
	}
	if files != nil {
		err = errors.Join(err, files.reload())
	}
	if err != nil {
		log.Error("reload", slog.Any("error", err))
		return
	}
	log.Info("reloaded")
}

// listenSTUN opens the UDP socket, if there is to be one.
func (f *flags) listenSTUN(bound net.Addr) (*net.UDPConn, error) {
	address := f.stunListen
	switch {
	case address == stunOff, address == "" && len(f.trustedProxies) > 0:
		return nil, nil
	case address == "":
		address = bound.String()
	}
	c, err := net.ListenPacket("udp", address)
	if err != nil {
		return nil, &hintError{fmt.Errorf("listen for STUN: %w", err), "set --stun-listen to another address, or to " + stunOff}
	}
	return c.(*net.UDPConn), nil
}

// stunPlace is what peers are told: the port, of the relay's own host. That is the
// proxy's if there is one in front, so a public address of --stun-listen is told too.
func (f *flags) stunPlace(bound net.Addr) string {
	at := bound.(*net.UDPAddr).AddrPort()
	if a := at.Addr().Unmap(); f.stunListen != "" && a.IsGlobalUnicast() && !a.IsPrivate() {
		return netip.AddrPortFrom(a, at.Port()).String()
	}
	return ":" + strconv.Itoa(int(at.Port()))
}

// listenMetrics serves metrics, and the health pages too, which the relay's own
// listener shows only until it shuts down.
func (f *flags) listenMetrics(s *relay.Server, shown *validity, log *slog.Logger) (io.Closer, error) {
	if f.metrics == "" {
		return new(http.Server), nil // closes as one that never served
	}
	l, err := net.Listen("tcp", f.metrics)
	if err != nil {
		return nil, &hintError{fmt.Errorf("listen for metrics: %w", err), "listen elsewhere with --metrics ADDRESS"}
	}
	registry := prometheus.NewRegistry()
	if err := registerMetrics(registry, s, shown); err != nil {
		l.Close()
		return nil, err
	}
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(registry, promhttp.HandlerOpts{}))
	mux.Handle("GET /healthz", s)
	mux.Handle("GET /readyz", s)
	srv := &http.Server{Handler: mux, ReadHeaderTimeout: 10 * time.Second, ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelDebug)}
	go func() {
		if err := srv.Serve(l); !errors.Is(err, http.ErrServerClosed) {
			log.Error("metrics", slog.Any("error", err))
		}
	}()
	log.Info("metrics", slog.String("address", l.Addr().String()))
	return srv, nil
}

// registerMetrics registers the relay's metrics, that of its certificates, if it has
// any, and those of its process.
func registerMetrics(r prometheus.Registerer, s *relay.Server, shown *validity) error {
	var err error
	if shown != nil {
		err = r.Register(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "drv_thru_relay_certificate_not_after_seconds",
			Help: "When the first of the relay's certificates expires, in Unix time.",
		}, shown.notAfter))
	}
	return errors.Join(err, r.Register(s), r.Register(collectors.NewGoCollector()),
		r.Register(collectors.NewProcessCollector(collectors.ProcessCollectorOpts{})))
}
