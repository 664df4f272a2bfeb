package link

import (
	"errors"
	"fmt"
	"strings"

	"github.com/drv-thru/drv-thru/core/key"
	"github.com/drv-thru/drv-thru/core/wire"
)

// ErrWrongPeer is wrapped by errors about a peer that proved another identity
// than the one asked for: a relay that connects to the wrong builder, or a
// builder whose key was replaced. It is core/key's.
var ErrWrongPeer = key.ErrWrongPeer

// ErrClosed means that the session or the listener was closed.
var ErrClosed = errors.New("link is closed")

// RelayError is what went wrong at one relay. The relay's own answer, if it
// gave one, is a [*wire.Error] in its chain.
type RelayError struct {
	Relay string // URL
	Err   error
}

func (e *RelayError) Error() string { return fmt.Sprintf("relay %s: %v", e.Relay, e.Err) }
func (e *RelayError) Unwrap() error { return e.Err }

// UnreachableError means that no path led to the builder. Its chain holds the
// error of every path that was tried.
type UnreachableError struct {
	Builder key.ID
	Errs    []error
}

func (e *UnreachableError) Error() string {
	texts := make([]string, len(e.Errs))
	for i, err := range e.Errs {
		texts[i] = err.Error()
	}
	if len(texts) == 0 {
		texts = []string{"no relay is known"}
	}
	return fmt.Sprintf("cannot reach builder %s: %s", e.Builder.Short(), strings.Join(texts, "; "))
}

func (e *UnreachableError) Unwrap() []error { return e.Errs }

// Exit is the command line's exit code.
func (e *UnreachableError) Exit() int { return wire.ExitUnreachable }

// Hint says what to do, in one line.
func (e *UnreachableError) Hint() string {
	offline, hint := 0, ""
	for _, err := range e.Errs {
		switch {
		case errors.Is(err, ErrWrongPeer):
			return "whoever answered is not the builder of this ticket or configuration: ask its owner for its endpoint ID, or use another relay"
		case wire.CodeOf(err) == wire.CodeRelayNoBuilder:
			offline++
		}
		var we *wire.Error
		if hint == "" && errors.As(err, &we) {
			hint = we.Hint
		}
	}
	switch {
	case len(e.Errs) == 0:
		return "give the URL of a relay that the builder uses"
	case offline == len(e.Errs):
		return "check on the builder that drv-thru serve runs and that its relays are the ones above"
	case hint != "":
		return hint
	}
	return "check the network and any proxy settings; on the builder, drv-thru serve prints the relays it uses"
}
