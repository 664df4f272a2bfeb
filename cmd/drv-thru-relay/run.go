package main

import (
	"context"
	"crypto/tls"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"runtime/debug"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/peterbourgon/ff/v3"
	"github.com/peterbourgon/ff/v3/ffcli"

	"github.com/drv-thru/drv-thru/core/wire"
	"github.com/drv-thru/drv-thru/relay"
)

// flags are the command line's.
type flags struct {
	listen       string
	tlsCert      string
	tlsKey       string
	hosts        words
	logLevel     slog.Level
	logAddresses bool
	drain        time.Duration
	limits       relay.Limits
	version      bool
}

func (f *flags) set() *flag.FlagSet {
	fs := flag.NewFlagSet("drv-thru-relay", flag.ContinueOnError)
	fs.StringVar(&f.listen, "listen", ":7411", "`ADDRESS` to listen on; port 0 takes a free one")
	fs.StringVar(&f.tlsCert, "tls-cert", "", "`FILE` with the certificate chain in PEM; without it the relay speaks plain HTTP")
	fs.StringVar(&f.tlsKey, "tls-key", "", "`FILE` with the certificate's key in PEM")
	fs.Var(&f.hosts, "hostname", "`NAME` by which builders know this relay, with or without a port (repeatable); default: the certificate's names")
	fs.TextVar(&f.logLevel, "log-level", slog.LevelInfo, "least `LEVEL` that is logged: debug, info, warn or error")
	fs.BoolVar(&f.logAddresses, "log-addresses", false, "log the addresses of builders and clients")
	fs.DurationVar(&f.drain, "drain-timeout", 5*time.Second, "how long open circuits may go on after SIGTERM")
	l := &f.limits
	count := func(p *int, name string, value int, usage string) {
		*p = value
		fs.Var((*positive)(p), name, usage)
	}
	count(&l.Registrations, "max-registrations", 20_000, "builders at once")
	count(&l.RegistrationsPerAddress, "max-registrations-per-address", 1_000, "builders at once from one address")
	count(&l.Circuits, "max-circuits", 8_192, "circuits at once; a client uses two")
	count(&l.CircuitsPerBuilder, "max-circuits-per-builder", 1_024, "circuits at once to one builder")
	count(&l.CircuitsPerAddress, "max-circuits-per-address", 256, "circuits at once from one address")
	fs.Float64Var(&l.HandshakesPerSecond, "handshake-rate", 50, "new connections per second from one address")
	count(&l.HandshakeBurst, "handshake-burst", 500, "new connections at once from one address")
	fs.DurationVar(&l.Idle, "idle-timeout", 2*time.Minute, "how long a circuit may carry nothing")
	fs.BoolVar(&f.version, "version", false, "print the version and exit")
	return fs
}

// words is a flag that can be given several times.
type words []string

func (w *words) String() string { return strings.Join(*w, " ") }

func (w *words) Set(s string) error {
	if s == "" {
		return errors.New("it is empty")
	}
	*w = append(*w, s)
	return nil
}

// positive is a number flag that cannot be 0.
type positive int

func (p *positive) String() string { return strconv.Itoa(int(*p)) }

func (p *positive) Set(s string) error {
	n, err := strconv.Atoi(s)
	if err != nil || n < 1 {
		return errors.New("want a number of at least 1")
	}
	*p = positive(n)
	return nil
}

// usageError is a command line that cannot be understood.
type usageError struct{ error }

// run is the program without its process: it returns the exit code. It ends
// when ctx does, or with the first SIGINT or SIGTERM; a second one kills it.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	var f flags
	cmd := &ffcli.Command{
		Name:       "drv-thru-relay",
		ShortUsage: "drv-thru-relay [flags]",
		LongHelp: "A relay for drv-thru: builders and clients that cannot reach each other meet here.\n" +
			"Give its URL to builders with \"drv-thru serve --relay URL\"; tickets then name it.\n" +
			"Every flag can be set in the environment too, as DRV_THRU_RELAY_LISTEN for --listen.",
		FlagSet: f.set(),
		Options: []ff.Option{ff.WithEnvVarPrefix("DRV_THRU_RELAY")},
		Exec: func(ctx context.Context, args []string) error {
			if len(args) > 0 {
				return usageError{fmt.Errorf("unexpected argument %q", args[0])}
			}
			return serve(ctx, f, stdout, stderr)
		},
	}
	cmd.FlagSet.SetOutput(stderr)
	err := cmd.Parse(args)
	if err != nil && !errors.Is(err, flag.ErrHelp) {
		// The flag package has printed the error and the usage, ff only the
		// error's cause is in the environment.
		if !flagPrinted(err) {
			fmt.Fprintln(stderr, "error:", err)
		}
		return wire.ExitUsage
	}
	if err == nil {
		err = cmd.Run(ctx)
	}
	switch {
	case err == nil, errors.Is(err, flag.ErrHelp):
		return wire.ExitOK
	case errors.As(err, new(usageError)):
		fmt.Fprintln(stderr, "error:", err)
		fmt.Fprintln(stderr, "  see drv-thru-relay --help")
		return wire.ExitUsage
	}
	fmt.Fprintln(stderr, "error:", err)
	return wire.ExitFailed
}

func serve(ctx context.Context, f flags, stdout, stderr io.Writer) error {
	if f.version {
		fmt.Fprintf(stdout, "drv-thru-relay %s, protocol %s\n", version(), wire.RelayProtocol)
		return nil
	}
	ctx, stop := signal.NotifyContext(ctx, os.Interrupt, syscall.SIGTERM)
	defer stop()
	log := slog.New(slog.NewTextHandler(stderr, &slog.HandlerOptions{Level: f.logLevel}))

	var certs *tls.Config
	switch {
	case f.limits.HandshakesPerSecond <= 0 || f.limits.Idle <= 0 || f.drain <= 0:
		return usageError{errors.New("--handshake-rate, --idle-timeout and --drain-timeout have to be above 0")}
	case (f.tlsCert == "") != (f.tlsKey == ""):
		return usageError{errors.New("--tls-cert and --tls-key go together")}
	case f.tlsCert != "":
		pair, err := tls.LoadX509KeyPair(f.tlsCert, f.tlsKey)
		if err != nil {
			return fmt.Errorf("load the certificate: %w", err)
		}
		certs = &tls.Config{
			Certificates: []tls.Certificate{pair},
			MinVersion:   tls.VersionTLS12,
			NextProtos:   []string{"http/1.1"},
		}
		if len(f.hosts) == 0 {
			f.hosts = certNames(pair)
		}
	}
	if len(f.hosts) == 0 {
		log.Warn("without --hostname, another relay could register here with what builders sent to it")
	}

	l, err := net.Listen("tcp", f.listen)
	if err != nil {
		return fmt.Errorf("listen: %w", err)
	}
	scheme := "http"
	if certs != nil {
		scheme = "https"
		l = tls.NewListener(l, certs)
	}
	s := relay.New(relay.Config{Hosts: f.hosts, Limits: f.limits, Log: log, LogAddresses: f.logAddresses})
	failed := make(chan error, 1)
	go func() { failed <- s.Serve(l) }()
	fmt.Fprintf(stdout, "relay ready at %s://%s\n", scheme, l.Addr())

	select {
	case err := <-failed:
		return fmt.Errorf("serve: %w", err)
	case <-ctx.Done():
	}
	stop() // the next signal kills
	log.Info("shutting down", slog.Int("circuits", s.Stats().Circuits))
	drain, cancel := context.WithTimeout(context.Background(), f.drain)
	defer cancel()
	if err := s.Shutdown(drain); err != nil {
		log.Info("open circuits were cut")
	}
	if err := <-failed; !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serve: %w", err)
	}
	return nil
}

// certNames returns the names of a certificate, none if it has a wildcard:
// then it does not tell what the relay is called.
func certNames(pair tls.Certificate) []string {
	var names []string
	for _, n := range pair.Leaf.DNSNames {
		if strings.HasPrefix(n, "*") {
			return nil
		}
		names = append(names, n)
	}
	for _, ip := range pair.Leaf.IPAddresses {
		names = append(names, net.JoinHostPort(ip.String(), "443"))
	}
	return names
}

// flagPrinted reports whether the flag package has told the user of err.
func flagPrinted(err error) bool {
	return strings.Contains(err.Error(), "error parsing commandline arguments")
}

func version() string {
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" {
		return info.Main.Version
	}
	return "(devel)"
}
