package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/peterbourgon/ff/v3"
	"github.com/peterbourgon/ff/v3/ffcli"
	"golang.org/x/crypto/acme/autocert"

	"github.com/drv-thru/drv-thru/cmd/internal/notify"
	"github.com/drv-thru/drv-thru/cmd/internal/usage"
	"github.com/drv-thru/drv-thru/core/ticket"
	"github.com/drv-thru/drv-thru/core/wire"
	"github.com/drv-thru/drv-thru/relay"
)

// flags are the command line's.
type flags struct {
	listen         string
	stunListen     string
	metrics        string
	tlsCert        string
	tlsKey         string
	acme           acmeFlags
	hosts          usage.Names
	trustedProxies prefixes
	access         string
	allowlists     usage.List
	tokenFiles     usage.List
	logLevel       slog.Level
	logAddresses   bool
	drain          time.Duration
	limits         relay.Limits
	version        bool
}

// The kinds of access.
const (
	accessOpen      = "open"
	accessAllowlist = "allowlist"
	accessToken     = "token"
)

// stunOff is the --stun-listen that turns STUN off.
const stunOff = "off"

func (f *flags) set() *flag.FlagSet {
	fs := flag.NewFlagSet("drv-thru-relay", flag.ContinueOnError)
	fs.SetOutput(io.Discard)
	f.listen, f.acme.directory = ":7411", autocert.DefaultACMEDirectory
	fs.Var((*usage.Word)(&f.listen), "listen", "`ADDRESS` to listen on; port 0 takes a free one")
	fs.Var((*usage.Word)(&f.stunListen), "stun-listen", "UDP `ADDRESS` to answer STUN on, or off; default: that of --listen, and off behind --trusted-proxies")
	fs.Var((*usage.Word)(&f.metrics), "metrics", "`ADDRESS` to serve Prometheus metrics on; default: nowhere")
	fs.Var((*usage.Word)(&f.tlsCert), "tls-cert", "`FILE` with the certificate chain in PEM, read again when it changes; without certificates the relay speaks plain HTTP")
	fs.Var((*usage.Word)(&f.tlsKey), "tls-key", "`FILE` with the certificate's key in PEM")
	fs.Var(&f.acme.domains, "acme-domain", "`NAME` to get a certificate for by ACME; it has to lead to port 443 of this relay (repeatable, or separated by commas)")
	fs.Var((*usage.Word)(&f.acme.dir), "acme-dir", "`DIRECTORY` where certificates by ACME are kept; default: $STATE_DIRECTORY")
	fs.Var((*usage.Word)(&f.acme.email), "acme-email", "`ADDRESS` that the certificate authority may write to")
	fs.Var((*usage.Word)(&f.acme.directory), "acme-directory", "`URL` of the certificate authority")
	fs.Var(&f.hosts, "hostname", "`NAME` by which builders know this relay, with or without a port (repeatable, or separated by commas); default: the certificate's names")
	fs.Var(&f.trustedProxies, "trusted-proxies", "`ADDRESSES` of proxies (CIDR, separated by commas) whose X-Forwarded-For is believed (repeatable)")
	fs.StringVar(&f.access, "access", accessOpen, "`WHO` may register builders: open, allowlist or token")
	fs.Var(&f.allowlists, "allowlist", "`FILE` with the endpoint IDs of --access allowlist, one a line (repeatable)")
	fs.Var(&f.tokenFiles, "token-file", "`FILE` with the tokens of --access token, one a line (repeatable)")
	fs.Var((*level)(&f.logLevel), "log-level", "least `LEVEL` that is logged: debug, info, warn or error")
	fs.BoolVar(&f.logAddresses, "log-addresses", false, "log the addresses of builders and clients")
	usage.DurationVar(fs, &f.drain, "drain-timeout", 5*time.Second, "`TIME` for which open circuits may go on after SIGTERM")
	f.limits = relay.Limits{}.WithDefaults()
	l := &f.limits
	count := func(p *int, name, text string) { fs.Var((*usage.Count)(p), name, text) }
	count(&l.Registrations, "max-registrations", "`NUMBER` of builders at once")
	count(&l.RegistrationsPerAddress, "max-registrations-per-address", "`NUMBER` of builders at once from one address")
	count(&l.Circuits, "max-circuits", "`NUMBER` of circuits at once; a client uses one, and up to eight more while it moves bulk")
	count(&l.CircuitsPerBuilder, "max-circuits-per-builder", "`NUMBER` of circuits at once to one builder")
	count(&l.CircuitsPerAddress, "max-circuits-per-address", "`NUMBER` of circuits at once from one address")
	count(&l.HalfOpenPerBuilder, "max-half-open-per-builder", "`NUMBER` of circuits at once that one builder has not come for yet")
	count(&l.Connections, "max-connections", "`NUMBER` of connections at once that have asked for nothing yet")
	count(&l.ConnectionsPerAddress, "max-connections-per-address", "`NUMBER` of connections at once that have asked for nothing yet, from one address")
	fs.Var((*speed)(&l.BytesPerSecond), "max-bytes-per-second", "`SIZE` that all circuits together may carry in a second, such as 100M")
	fs.Var((*speed)(&l.CircuitBytesPerSecond), "max-circuit-bytes-per-second", "`SIZE` that one circuit, and so one large transfer, may carry in a second")
	fs.Float64Var(&l.HandshakesPerSecond, "handshake-rate", l.HandshakesPerSecond, "`NUMBER` of new connections per second from one address")
	count(&l.HandshakeBurst, "handshake-burst", "`NUMBER` of new connections at once from one address")
	fs.Float64Var(&l.STUNPerSecond, "stun-rate", l.STUNPerSecond, "`NUMBER` of STUN answers per second to one address")
	usage.DurationVar(fs, &l.HalfOpen, "half-open-timeout", l.HalfOpen, "`TIME` that a builder has to come for a circuit")
	usage.DurationVar(fs, &l.Idle, "idle-timeout", l.Idle, "`TIME` for which a circuit may carry nothing, or take over a piece of a message")
	fs.BoolVar(&f.version, "version", false, "print the version and exit")
	return fs
}

// check finds what cannot be meant.
func (f *flags) check() error {
	files := f.tlsCert != "" || f.tlsKey != ""
	switch {
	case !(f.limits.HandshakesPerSecond > 0 && f.limits.STUNPerSecond > 0): // NaN is not either
		return errors.New("--handshake-rate and --stun-rate have to be above 0")
	case (f.tlsCert == "") != (f.tlsKey == ""):
		return errors.New("--tls-cert and --tls-key go together")
	case files && len(f.acme.domains) > 0:
		return errors.New("certificates come from files or by ACME, not both")
	case len(f.acme.domains) > 0 && f.acme.dir == "":
		return errors.New("--acme-domain needs --acme-dir, a directory that stays: certificate authorities give only a few certificates a week")
	case f.limits.Idle < leastTimeout || f.limits.HalfOpen < leastTimeout:
		return fmt.Errorf("--idle-timeout and --half-open-timeout are at least %s", leastTimeout)
	case !isAddress(f.listen):
		return fmt.Errorf("--listen=%s: want :PORT or ADDRESS:PORT", f.listen)
	case f.stunListen != "" && f.stunListen != stunOff && !isAddress(f.stunListen):
		return fmt.Errorf("--stun-listen=%s: want :PORT, ADDRESS:PORT or %s", f.stunListen, stunOff)
	case f.metrics != "" && !isAddress(f.metrics):
		return fmt.Errorf("--metrics=%s: want :PORT or ADDRESS:PORT", f.metrics)
	}
	for _, h := range f.hosts {
		if strings.ContainsAny(h, nowhereInNames) || strings.HasPrefix(h, ":") || strings.Count(h, ":") == 1 && !isAddress(h) {
			return notName("hostname", h)
		}
	}
	for _, d := range f.acme.domains {
		if strings.ContainsAny(d, nowhereInNames+":") {
			return notName("acme-domain", d)
		}
	}
	if !strings.HasPrefix(f.acme.directory, "https://") && !strings.HasPrefix(f.acme.directory, "http://") {
		return fmt.Errorf("--acme-directory=%s: want a URL with https:// or http://", f.acme.directory)
	}
	switch f.access {
	case accessOpen, accessAllowlist, accessToken:
	default:
		return fmt.Errorf("--access is open, allowlist or token, not %q", f.access)
	}
	if (f.access == accessAllowlist) != (len(f.allowlists) > 0) {
		return errors.New("--access allowlist and --allowlist go together")
	}
	if (f.access == accessToken) != (len(f.tokenFiles) > 0) {
		return errors.New("--access token and --token-file go together")
	}
	return nil
}

// isAddress reports whether text can be an address to listen on. A name in it is not
// looked up: that can fail once and do later.
func isAddress(text string) bool {
	_, port, err := net.SplitHostPort(text)
	if err != nil || port == "" {
		return false
	}
	_, err = net.LookupPort("tcp", port)
	return err == nil
}

// nowhereInNames is what a URL or a list has, and a name has not. The relay would run
// with either, and let nobody register.
const nowhereInNames = "/, \t"

func notName(flag, value string) error {
	return fmt.Errorf("--%s=%s: want a name, such as relay.example.org", flag, value)
}

// speed is a flag for a number of bytes a second.
type speed int64

// leastTimeout keeps a typing error from ending every circuit.
const leastTimeout = time.Second

// leastSpeed is below what is of use to a circuit.
const leastSpeed = 16 << 10

func (b *speed) String() string {
	if *b == 0 {
		return "unlimited"
	}
	return ticket.Size(*b).String()
}

func (b *speed) Set(text string) error {
	n, err := ticket.ParseSize(text)
	if err != nil {
		return err
	}
	if n != 0 && n < leastSpeed {
		return errors.New("want at least 16K")
	}
	*b = speed(n)
	return nil
}

// level is a flag for what is logged.
type level slog.Level

func (l *level) String() string { return strings.ToLower(slog.Level(*l).String()) }

func (l *level) Set(text string) error {
	var parsed slog.Level
	if err := parsed.UnmarshalText([]byte(text)); err != nil {
		return errors.New("want debug, info, warn or error")
	}
	*l = level(parsed)
	return nil
}

// prefixes is a flag for networks.
type prefixes []netip.Prefix

func (p *prefixes) String() string {
	texts := make([]string, len(*p))
	for i, prefix := range *p {
		texts[i] = prefix.String()
	}
	return strings.Join(texts, ",")
}

func (p *prefixes) Set(text string) error {
	for t := range strings.SplitSeq(text, ",") {
		prefix, err := netip.ParsePrefix(strings.TrimSpace(t))
		if err != nil {
			a, addrErr := netip.ParseAddr(strings.TrimSpace(t))
			if addrErr != nil {
				return fmt.Errorf("%q is neither an address nor a network such as 10.0.0.0/8", t)
			}
			prefix = netip.PrefixFrom(a, a.BitLen())
		}
		if a := prefix.Addr(); a.Is4In6() && prefix.Bits() >= 96 {
			// Peers are compared by their IPv4 addresses.
			prefix = netip.PrefixFrom(a.Unmap(), prefix.Bits()-96)
		}
		*p = append(*p, prefix.Masked())
	}
	return nil
}

func (p prefixes) contains(a netip.Addr) bool {
	return slices.ContainsFunc(p, func(prefix netip.Prefix) bool { return prefix.Contains(a) })
}

// hintError is an error and what to do about it.
type hintError struct {
	error
	hint string
}

func (e *hintError) Unwrap() error { return e.error }

// usageError is a command line that cannot be understood.
type usageError struct{ error }

func (e usageError) Unwrap() error { return e.error }

// envPrefix begins the names of the variables that set flags.
const envPrefix = "DRV_THRU_RELAY"

// unknownVariables are the variables of the environment that are named as if they set
// a flag, and set none.
func unknownVariables(fs *flag.FlagSet, environ []string) (names []string) {
	// drv-thru's --relay-url begins so as well.
	known := map[string]bool{envPrefix + "_URL": true}
	fs.VisitAll(func(f *flag.Flag) {
		known[envPrefix+"_"+strings.ToUpper(strings.ReplaceAll(f.Name, "-", "_"))] = true
	})
	for _, v := range environ {
		name, value, _ := strings.Cut(v, "=")
		if strings.HasPrefix(name, envPrefix+"_") && value != "" && !known[name] {
			names = append(names, name)
		}
	}
	return names
}

// command makes the program's command.
func command(f *flags, stdout, stderr io.Writer) *ffcli.Command {
	return &ffcli.Command{
		Name:       "drv-thru-relay",
		ShortUsage: "drv-thru-relay [flags]",
		ShortHelp:  "let drv-thru's builders and clients meet",
		LongHelp: "A relay for drv-thru: builders and clients that cannot reach each other meet here.\n" +
			"Give its URL to builders with \"drv-thru serve --relay URL\"; tickets then name it.\n" +
			"Every flag can be set in the environment too, as DRV_THRU_RELAY_LISTEN for --listen.",
		FlagSet:     f.set(),
		Options:     []ff.Option{ff.WithEnvVarPrefix(envPrefix)},
		Subcommands: []*ffcli.Command{newCompletionCommand(stdout), newManCommand()},
		UsageFunc:   func(*ffcli.Command) string { return "" },
		Exec: func(ctx context.Context, args []string) error {
			if len(args) > 0 {
				return usageError{fmt.Errorf("drv-thru-relay takes no arguments, got %q", args[0])}
			}
			return serve(ctx, *f, stdout, stderr)
		},
	}
}

// run is the program without its process: it returns the exit code. It ends
// when ctx does, or with the first SIGINT or SIGTERM; a second one kills it.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	var f flags
	cmd := command(&f, stdout, stderr)
	err := error(nil)
	if word := os.Getenv(usage.WordVar(cmd.Name)); word != "" {
		err = complete(ctx, cmd, stdout, word, args)
	} else if err = cmd.Parse(args); err == nil {
		err = cmd.Run(ctx)
	} else if !errors.Is(err, flag.ErrHelp) {
		err = usageError{usage.ParseError(usage.Find(cmd, args).FlagSet, err)}
	}
	if errors.Is(err, flag.ErrHelp) {
		_, err = fmt.Fprint(stdout, usage.Help(usage.Find(cmd, args)))
	}
	if err == nil {
		return wire.ExitOK
	}
	code, hint := wire.ExitFailed, ""
	if errors.As(err, new(usageError)) {
		code, hint = wire.ExitUsage, "see: "+usage.Find(cmd, args).FlagSet.Name()+" --help"
		if near := usage.NearestFlag(cmd.FlagSet, err); near != "" {
			hint = "did you mean: " + near
		}
	}
	if e := (*hintError)(nil); errors.As(err, &e) {
		hint = e.hint
	}
	fmt.Fprintf(stderr, "%serror: %v\n", notify.Mark(stderr, slog.LevelError), err)
	if hint != "" {
		fmt.Fprintf(stderr, "hint: %s\n", hint)
	}
	return code
}

// release is set by the linker in release builds.
var release string

var version = usage.Version(release)
