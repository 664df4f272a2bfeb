package wsconn

import (
	"context"
	"crypto/tls"
	"net"
	"net/http"
	"net/url"
	"strings"
)

// DialOptions says how [Dial] reaches a server. The zero value dials TCP
// directly and trusts the system's certificates. A browser's WebSocket heeds
// only Protocols; the rest is the browser's own business.
type DialOptions struct {
	// Protocols are offered in Sec-WebSocket-Protocol, best first.
	Protocols []string
	// Header is added to the handshake.
	Header http.Header
	// Proxy names the proxy of a request as http.Transport.Proxy does; nil is none.
	Proxy func(*http.Request) (*url.URL, error)
	// TLS is used for wss.
	TLS *tls.Config
	// DialContext opens network connections; nil is a net.Dialer's.
	DialContext func(ctx context.Context, network, address string) (net.Conn, error)
}

// ProxyError is the answer of a proxy that does not let a connection through.
type ProxyError struct{ Status string }

func (e *ProxyError) Error() string { return "the proxy says " + e.Status }

// WantsPassword reports whether the proxy asks who wants to pass.
func (e *ProxyError) WantsPassword() bool { return strings.HasPrefix(e.Status, "407") }
