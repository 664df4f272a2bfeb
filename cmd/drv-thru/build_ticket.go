package main

import (
	"bufio"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/term"

	"github.com/drv-thru/drv-thru/core/key"
	"github.com/drv-thru/drv-thru/core/ticket"
	"github.com/drv-thru/drv-thru/core/wire"
)

// route is whom to build with and as whom.
type route struct {
	builder  key.ID
	relays   []string
	direct   []netip.AddrPort // the builder's own addresses
	ticket   *ticket.Secret
	identity key.Secret
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
func (a *app) route(f *buildFlags, onCommandLine bool, note func(string)) (*route, error) {
	switch {
	case f.ticket != "":
		return a.ticketRoute(f, onCommandLine, note)
	case f.server != "":
		return a.serverRoute(f)
	case f.builder != "":
		return a.resolveBuilder(f.builder, f.keyFile)
	}
	return nil, nil
}

func (a *app) ticketRoute(f *buildFlags, onCommandLine bool, note func(string)) (*route, error) {
	text := f.ticket
	if text == "-" {
		var err error
		if text, err = a.typedTicket(note); err != nil {
			return nil, err
		}
	} else if onCommandLine {
		note("warning: other users of this machine can see the ticket in the list of processes; better put it into DRV_THRU_TICKET or pipe it to --ticket -")
	}
	t, err := ticket.Parse(text)
	if errors.Is(err, ticket.ErrNotTicket) && f.ticket != "-" {
		if info, _ := os.Stat(f.ticket); info != nil && info.Mode().IsRegular() {
			return nil, &ticketError{err, f.ticket}
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
		r.identity, err = key.LoadFile(f.keyFile)
	} else {
		// A new key each time: nothing links the builds of two tickets.
		r.identity, err = key.NewSecret(rand.Reader)
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

func (a *app) serverRoute(f *buildFlags) (*route, error) {
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
		return key.LoadFile(file)
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

// configDir is where the user's key and builders.json live.
func (a *app) configDir() (string, error) {
	config := a.env("XDG_CONFIG_HOME")
	if !filepath.IsAbs(config) {
		home := a.env("HOME")
		if home == "" {
			return "", errors.New("HOME is not set, so there is no ~/.config/drv-thru")
		}
		config = filepath.Join(home, ".config")
	}
	return filepath.Join(config, "drv-thru"), nil
}

// onCommandLine tells whether the arguments themselves hold a ticket.
func onCommandLine(environTicket, flagTicket string) bool {
	return flagTicket != "" && flagTicket != "-" && strings.TrimSpace(environTicket) != strings.TrimSpace(flagTicket)
}
