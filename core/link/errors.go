package link

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strings"

	"github.com/drv-thru/drv-thru/core/key"
	"github.com/drv-thru/drv-thru/core/link/wsconn"
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

// Hint says what to do, in one line; "" where the error does not tell.
func (e *RelayError) Hint() string {
	var (
		said        *wire.Error
		refused     *wsconn.ProxyError
		op          *net.OpError
		certificate x509.CertificateInvalidError
		name        x509.HostnameError
		authority   x509.UnknownAuthorityError
		noTLS       tls.RecordHeaderError
	)
	switch {
	case errors.As(e.Err, &said):
		return said.Hint
	case errors.As(e.Err, &refused) && refused.WantsPassword():
		return "give the proxy's user and password in its URL: http://USER:PASSWORD@HOST:PORT"
	case errors.As(e.Err, &refused):
		return "the proxy has to let connections through to the relay; or set NO_PROXY for it"
	case errors.As(e.Err, &op) && op.Op == "proxyconnect": // net/http's
		return "this is the proxy that HTTPS_PROXY or HTTP_PROXY names: correct that, or set NO_PROXY for the relay"
	case errors.As(e.Err, &certificate) && certificate.Reason == x509.Expired:
		return "set this machine's clock if it is wrong; else the relay's owner has to renew its certificate"
	case errors.As(e.Err, &name):
		return "use the name of the relay that its certificate has; a network with a login page answers like this, too"
	case errors.As(e.Err, &authority):
		return "have the relay's authority added to those that this machine trusts (SSL_CERT_FILE names a file); a network that intercepts TLS answers like this, too"
	case errors.As(e.Err, &noTLS), errors.Is(e.Err, http.ErrSchemeMismatch):
		return "what answers there speaks no TLS: check the URL's port, and whether it begins with http://"
	case errors.As(e.Err, new(*net.DNSError)):
		return "check the relay's name, and this machine's DNS"
	case errors.Is(e.Err, errRelayDown):
		return "try again in a few seconds, as the relay may be being restarted; else ask its owner whether it runs"
	case errors.Is(e.Err, errNoRelay):
		return "check the URL; log in first where the network has a login page; a proxy on the way has to let WebSockets through"
	}
	return ""
}

var (
	// errNoRelay is what is wrong with a page.
	errNoRelay = errors.New("what answers there is not a drv-thru relay")
	// errRelayDown is what a proxy says, most often the one in front of the relay.
	errRelayDown = errors.New("a proxy answers there, and does not reach the relay")
)

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
		var at *RelayError
		if hint == "" && errors.As(err, &at) {
			hint = at.Hint()
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
