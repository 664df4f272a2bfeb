package main

import (
	"bufio"
	"crypto/rand"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"net/netip"
	"os"
	"os/user"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
	"golang.org/x/term"

	"github.com/drv-thru/drv-thru/cmd/internal/usage"
	"github.com/drv-thru/drv-thru/core/key"
	"github.com/drv-thru/drv-thru/core/ticket"
	"github.com/drv-thru/drv-thru/core/wire"
)

// routeFlags say whom to build with and as whom.
type routeFlags struct {
	ticket, builder, server, keyFile string
	ticketFile                       string // of mount alone
	relays                           usage.Names
	noDirect                         bool
	stun                             usage.Names
}

func (f *routeFlags) register(fs *flag.FlagSet) {
	fs.Var((*usage.Word)(&f.ticket), "ticket", "`TICKET` for the builder; - reads it from standard input")
	fs.Var((*usage.Word)(&f.builder), "builder", "`NAME` of a builder in builders.json")
	fs.Var((*usage.Word)(&f.server), "server", "endpoint `ID` of a builder that trusts this client's key")
	fs.Var(&f.relays, "relay-url", "`URL` of a relay of --server (repeatable, or separated by commas)")
	fs.BoolVar(&f.noDirect, "no-direct", false, "use relays only, and look for no direct path")
	fs.Var(&f.stun, "stun", "`HOST:PORT` of a STUN server (repeatable, or separated by commas; default: the relays)")
	fs.Var((*usage.Word)(&f.keyFile), "key-file", "this client's secret key `FILE` (default for --builder and --server: ~/.config/drv-thru/secret.key; for tickets: a new key each time)")
}

// named is how many builders there are.
func (f *routeFlags) named() int {
	n := 0
	for _, way := range []string{f.ticket, f.ticketFile, f.builder, f.server} {
		if way != "" {
			n++
		}
	}
	return n
}

// check makes sure that at most one builder is named.
func (f *routeFlags) check(a *app) error {
	switch {
	case f.named() > 1 && f.ticketFile != "":
		return a.twoWays("--ticket-file excludes --ticket, --builder and --server")
	case f.named() > 1:
		return a.twoWays("--ticket, --builder and --server exclude each other")
	case len(f.relays) > 0 && (f.named() == 0 || f.builder != ""):
		return usagef("--relay-url goes with --server")
	}
	return checkSTUN(f.stun)
}

// twoWays is a command line that names more than one builder. Whoever has exported a
// ticket does not see where it does.
func (a *app) twoWays(text string) error {
	e := &usageError{text: text}
	for _, flag := range []string{"ticket", "ticket-file", "builder", "server"} {
		if name := envPrefix + "_" + strings.ToUpper(strings.ReplaceAll(flag, "-", "_")); a.env(name) != "" {
			e.hint = fmt.Sprintf("%s in the environment counts as --%s: unset %s", name, flag, name)
			break
		}
	}
	return e
}

// route is whom to build with and as whom.
type route struct {
	builder   key.ID
	relays    []string
	direct    []netip.AddrPort // the builder's own addresses
	relayOnly bool
	stun      []string // servers, none for the relays'
	ticket    *ticket.Secret
	identity  key.Secret // zero: a new one for each connection
	// signingKey is what the builder has to sign with; "" says nothing of that.
	signingKey string
}

// ticketError is a ticket that cannot be read. Where file is not empty, what was
// taken for its text is the name of a file.
type ticketError struct {
	err  error
	file string
}

func (e *ticketError) Error() string { return e.err.Error() }
func (e *ticketError) Unwrap() error { return e.err }
func (e *ticketError) Exit() int     { return wire.ExitUsage }

func (e *ticketError) Hint() string {
	switch {
	case e.file != "":
		return "to read it from the file: --ticket - < " + e.file
	case errors.Is(e.err, ticket.ErrDamaged):
		return "a ticket is one long word that begins with drvthru; line breaks in it do no harm"
	case errors.Is(e.err, ticket.ErrSurrounded):
		return "leave away what stands around the ticket, such as quotes"
	case errors.Is(e.err, ticket.ErrNotTicket):
		return "ask the builder's owner for one: drv-thru ticket create"
	}
	return ""
}

// route finds out whom to build with; nil when the command line names nobody.
func (a *app) route(f *routeFlags, note func(string)) (r *route, err error) {
	switch {
	case f.ticket != "" || f.ticketFile != "":
		r, err = a.ticketRoute(f, note)
	case f.server != "":
		r, err = a.serverRoute(f)
	case f.builder != "":
		r, err = a.resolveBuilder(f.builder, f.keyFile)
	}
	if err != nil || r == nil {
		return nil, err
	}
	r.relayOnly, r.stun = f.noDirect, f.stun
	return r, nil
}

func (a *app) ticketRoute(f *routeFlags, note func(string)) (*route, error) {
	text := f.ticket
	var err error
	switch {
	case f.ticketFile != "":
		text, err = readTicketFile(f.ticketFile)
	case text == "-":
		text, err = a.typedTicket(note)
	case strings.TrimSpace(text) != strings.TrimSpace(a.env(envPrefix+"_TICKET")):
		note("warning: other users of this machine can see the ticket in the list of processes; better put it into DRV_THRU_TICKET or pipe it to --ticket -")
	}
	if err != nil {
		return nil, err
	}
	t, err := ticket.Parse(text)
	if errors.Is(err, ticket.ErrNotTicket) && f.ticket != "-" {
		file := strings.TrimPrefix(f.ticket, "@") // as settings are read from one
		if info, _ := os.Stat(file); info != nil && info.Mode().IsRegular() {
			return nil, &ticketError{err, file}
		}
	}
	if err != nil {
		return nil, &ticketError{err: err}
	}
	r := &route{builder: t.Builder, relays: append(append([]string(nil), t.Relays...), f.relays...), direct: t.Direct, ticket: &t.Secret}
	if f.noDirect && len(r.relays) == 0 {
		return nil, usagef("the ticket names no relay, only addresses of the builder itself: leave --no-direct away, or give --relay-url URL")
	}
	if f.keyFile != "" {
		r.identity, err = loadKey(f.keyFile)
	}
	return r, err
}

// typedTicket reads a ticket's text from standard input: all of it, or the line that
// is typed on a terminal, after asking for it.
func (a *app) typedTicket(note func(string)) (string, error) {
	var in io.Reader = io.LimitReader(a.stdin, ticket.MaxText+1)
	if f, ok := a.stdin.(*os.File); ok && term.IsTerminal(int(f.Fd())) {
		note("paste the ticket and press Enter")
		lines := bufio.NewScanner(in)
		lines.Scan()
		if err := lines.Err(); err != nil {
			return "", fmt.Errorf("read the ticket: %w", err)
		}
		in = strings.NewReader(lines.Text())
	}
	data, err := io.ReadAll(in)
	if err != nil {
		return "", fmt.Errorf("read the ticket from standard input: %w", err)
	}
	if strings.TrimSpace(string(data)) == "" {
		return "", usagef("there is no ticket on standard input")
	}
	return string(data), nil
}

func (a *app) serverRoute(f *routeFlags) (*route, error) {
	id, err := key.ParseID(f.server)
	if err != nil {
		return nil, usagef("--server: %v", err)
	}
	if len(f.relays) == 0 {
		return nil, usagef("--server needs a --relay-url to reach it through")
	}
	for _, u := range f.relays {
		if err := ticket.CheckRelayURL(u); err != nil {
			return nil, usagef("%v", err)
		}
	}
	r := &route{builder: id, relays: f.relays}
	r.identity, err = a.identity(f.keyFile)
	return r, err
}

// identity loads the user's key, making it where it should be by default.
func (a *app) identity(file string) (key.Secret, error) {
	if file != "" {
		return loadKey(file)
	}
	dir, err := a.configDir()
	if err != nil {
		return key.Secret{}, &hintError{err, "name the secret key with --key-file"}
	}
	file = filepath.Join(dir, "secret.key")
	if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
		return key.Secret{}, fmt.Errorf("make a place for the secret key: %w", err)
	}
	return key.LoadOrCreateFile(file, rand.Reader)
}

// loadKey loads a key that was named.
func loadKey(file string) (key.Secret, error) {
	s, err := key.LoadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return s, &hintError{err, "to make one at ~/.config/drv-thru/secret.key: drv-thru key show"}
	}
	return s, err
}

// home is the user's home directory, "" without one. Where sudo -E leaves root somebody
// else's it is root's own, as for Nix: the other could not use what root makes there.
func (a *app) home() string {
	home := a.env("HOME")
	var st unix.Stat_t
	if os.Geteuid() == 0 && unix.Stat(home, &st) == nil && st.Uid != 0 {
		if root, err := user.LookupId("0"); err == nil {
			return root.HomeDir
		}
	}
	return home
}

// configDir is where the user's key and builders.json live.
func (a *app) configDir() (string, error) {
	config := a.env("XDG_CONFIG_HOME")
	if !filepath.IsAbs(config) {
		home := a.home()
		switch {
		case home == "":
			return "", errors.New("HOME is not set, so there is no ~/.config/drv-thru")
		case !filepath.IsAbs(home):
			return "", fmt.Errorf("HOME is %q, which is no whole path, so there is no ~/.config/drv-thru", home)
		}
		config = filepath.Join(home, ".config")
	}
	return filepath.Join(config, "drv-thru"), nil
}
