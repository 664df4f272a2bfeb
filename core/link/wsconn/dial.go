//go:build !js

package wsconn

import (
	"context"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/url"

	"github.com/coder/websocket"
)

// Dial does a WebSocket handshake with a http, https, ws or wss URL. The
// response is the server's answer if there was one, also when the handshake
// failed; its body then holds at most its first 1024 bytes.
func Dial(ctx context.Context, rawURL string, o DialOptions) (*Socket, *http.Response, error) {
	dial := o.DialContext
	if dial == nil {
		dial = DialHost
	}
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true) // a WebSocket handshake is HTTP/1.1
	tr := &http.Transport{
		Proxy:           o.Proxy,
		TLSClientConfig: o.TLS,
		Protocols:       protocols,
		DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
			c, err := dial(ctx, network, address)
			if err == nil {
				Tune(c)
			}
			return c, err
		},
		OnProxyConnectResponse: func(_ context.Context, _ *url.URL, _ *http.Request, resp *http.Response) error {
			if resp.StatusCode != http.StatusOK {
				return &ProxyError{resp.Status}
			}
			return nil
		},
	}
	// The transport is this connection's alone; one that failed must not stay.
	defer tr.CloseIdleConnections()

	s := &Socket{}
	ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{
		GotConn: func(i httptrace.GotConnInfo) {
			s.below, s.local, s.remote = i.Conn, i.Conn.LocalAddr(), i.Conn.RemoteAddr()
		},
	})
	client := &http.Client{
		Transport: framingTransport{tr, s},
		// A redirect would be followed with a handshake for another host.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	ws, resp, err := websocket.Dial(ctx, rawURL, &websocket.DialOptions{
		HTTPClient:      client,
		HTTPHeader:      o.Header,
		Subprotocols:    o.Protocols,
		CompressionMode: websocket.CompressionDisabled,
	})
	if err != nil {
		return nil, resp, err
	}
	s.Conn = ws
	return s, resp, nil
}

// framingTransport puts a framer between the WebSocket and its connection.
// That is above TLS, so that a message is also encrypted in full records.
type framingTransport struct {
	*http.Transport
	s *Socket
}

func (t framingTransport) RoundTrip(req *http.Request) (*http.Response, error) {
	resp, err := t.Transport.RoundTrip(req)
	if err != nil {
		return nil, err
	}
	// Anything else than a connection is no WebSocket either.
	if rwc, ok := resp.Body.(io.ReadWriteCloser); ok {
		t.s.frames = &framer{rwc: rwc, masks: true}
		resp.Body = t.s.frames
	}
	return resp, nil
}
