package link

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync/atomic"
	"time"

	"github.com/coder/websocket"

	"github.com/drv-thru/drv-thru/core/key"
	"github.com/drv-thru/drv-thru/core/link/wsconn"
	"github.com/drv-thru/drv-thru/core/wire"
)

// Network says how to reach relays. The zero value dials them directly with
// the system's certificates. In a browser it has no effect.
type Network struct {
	// Proxy names the proxy for a request, as http.Transport.Proxy does:
	// http.ProxyFromEnvironment heeds HTTPS_PROXY. Nil is none.
	Proxy func(*http.Request) (*url.URL, error)
	// TLS is used for https relays; nil trusts the system's certificates.
	TLS *tls.Config
	// DialContext opens connections; nil is a net.Dialer's.
	DialContext func(ctx context.Context, network, address string) (net.Conn, error)
	// Agent is the User-Agent of handshakes; "" is net/http's.
	Agent string
}

// open does a WebSocket handshake at a relay for one of its routes, with a
// token unless that is "". It also returns what the relay says in its answer,
// a refusal included.
func (n Network) open(ctx context.Context, relay, route, token string) (ws *wsconn.Socket, says relaySays, err error) {
	o := wsconn.DialOptions{
		Protocols:   []string{wire.RelayProtocol},
		Proxy:       n.Proxy,
		DialContext: n.DialContext,
	}
	if n.TLS != nil {
		o.TLS = n.TLS.Clone()
	}
	o.Header = http.Header{}
	if n.Agent != "" {
		o.Header.Set(wire.HeaderAgent, n.Agent)
	}
	if token != "" {
		o.Header.Set("Authorization", "Bearer "+token)
	}
	ws, resp, err := wsconn.Dial(ctx, relay+route+errorsQuery, o)
	if resp != nil { // a browser shows none
		says.stun = relaySTUN(relay, resp.Header.Get(wire.HeaderRelaySTUN))
		if id, err := wire.ParseCircuitID(resp.Header.Get(wire.HeaderRelayCircuit)); err == nil {
			says.circuit = id
		}
	}
	if err != nil {
		return nil, says, &RelayError{relay, handshakeError(ctx, resp, err)}
	}
	if ws.Subprotocol() != wire.RelayProtocol {
		_ = ws.CloseNow()
		return nil, says, &RelayError{relay, errNoRelay}
	}
	return ws, says, nil
}

// relaySays is what headers of a relay's answer say; "" for nothing.
type relaySays struct {
	stun    string // where it answers STUN
	circuit wire.CircuitID
}

// relaySTUN is the host and port at which a relay says that it answers STUN,
// "" for nowhere.
func relaySTUN(relay, place string) string {
	u, err := url.Parse(relay)
	if err != nil || len(place) > maxSTUNPlace {
		return ""
	}
	host, port, err := net.SplitHostPort(place)
	if err != nil || port == "" {
		return ""
	}
	if host == "" {
		host = u.Hostname()
	}
	return net.JoinHostPort(host, port)
}

// maxSTUNPlace is a DNS name of 253 characters and a port.
const maxSTUNPlace = 253 + 6

// handshakeError finds the best that can be said about a failed handshake.
func handshakeError(ctx context.Context, resp *http.Response, err error) error {
	switch {
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case resp == nil:
		var ue *url.Error
		if errors.As(err, &ue) {
			return ue.Err
		}
		return err
	case resp.StatusCode >= 400 && strings.HasPrefix(resp.Header.Get("Content-Type"), wire.TypeProblem):
		return wire.ReadError(resp)
	case resp.StatusCode == http.StatusProxyAuthRequired:
		return &wsconn.ProxyError{Status: resp.Status}
	case resp.StatusCode == http.StatusBadGateway, resp.StatusCode == http.StatusServiceUnavailable, resp.StatusCode == http.StatusGatewayTimeout:
		return fmt.Errorf("%w: it says %s", errRelayDown, resp.Status)
	}
	says := resp.Status
	if to, err := resp.Location(); err == nil {
		// Often it is https://, or where a network has its users log in.
		says += ", see " + to.Scheme + "://" + to.Host
	}
	return fmt.Errorf("%w: it says %s", errNoRelay, says)
}

// relayDialer is the path through one relay.
type relayDialer struct {
	network Network
	relay   string
	builder key.ID
	// brief tells that the last circuit did not last.
	brief atomic.Bool
	// stun is where the relay said that it answers STUN.
	stun atomic.Pointer[string]
}

// lasting is how long a circuit lasts at a relay that means well.
const lasting = time.Minute

// unsteady is asked when there is a choice: a relay that opens circuits and
// spoils them must not be taken again and again.
func (d *relayDialer) unsteady() bool { return d.brief.Load() }

func (d *relayDialer) path() Path { return Path{Kind: PathRelay, Via: d.relay} }

func (d *relayDialer) dial(ctx context.Context) (*circuit, error) {
	route := strings.Replace(wire.RouteRelayDial, "{endpoint}", d.builder.String(), 1)
	ws, says, err := d.network.open(ctx, d.relay, route, "")
	if says.stun != "" {
		d.stun.Store(&says.stun)
	}
	if err != nil {
		return nil, err
	}
	begin := time.Now()
	return &circuit{Conn: wsconn.New(ws, wire.RelayMaxMessage), path: d.path(), id: says.circuit, ended: func(well bool) {
		if brief := time.Since(begin) < lasting; !brief || !well {
			d.brief.Store(brief)
		}
	}}, nil
}

// relayCause makes a [*wire.Error] of what a relay says at the end of a
// circuit, where it says something.
func relayCause(err error) error {
	var te *wsconn.TextError
	if errors.As(err, &te) {
		if m, perr := wire.ParseRelayMessage(te.Text); perr == nil && m.Type == wire.RelayRefused {
			if code, ok := wire.RelayCode(string(m.Code)); ok {
				return code.Err()
			}
		}
		return err
	}
	var ce *wsconn.CloseError
	if !errors.As(err, &ce) {
		return err
	}
	switch ce.Code {
	case wire.RelayCloseProof, wire.RelayCloseReplaced:
		if code, ok := wire.RelayCode(ce.Reason); ok {
			return code.Err()
		}
	case wire.RelayCloseBroken:
		return wire.CodeRelayLost.Err()
	case int(websocket.StatusGoingAway):
		return wire.CodeRelayClosing.Err()
	}
	return err
}
