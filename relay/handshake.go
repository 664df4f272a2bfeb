package relay

import (
	"context"
	"encoding/base64"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"strings"

	"github.com/coder/websocket"

	"github.com/drv-thru/drv-thru/core/link/wsconn"
	"github.com/drv-thru/drv-thru/core/wire"
)

// handshake wraps a route: rate limit, version, and refusals in the form that
// the peer can see. The route returns why it refuses, or nil when it has
// answered.
func (s *Server) handshake(name string, route func(http.ResponseWriter, *http.Request, netip.Addr) error) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		s.metrics.handshakes.WithLabelValues(name).Inc()
		if s.cfg.STUN != "" {
			w.Header().Set(wire.HeaderRelaySTUN, s.cfg.STUN)
		}
		addr := group(s.cfg.ClientAddr(r))
		err := s.admit(r, addr)
		if err == nil {
			err = route(w, r, addr)
		}
		if err != nil {
			if code := wire.CodeOf(err); code == wire.CodeRelayFull && s.full.due() {
				s.logFor(r).Warn("refused", slog.String("route", r.Pattern), slog.Any("error", err))
			} else {
				s.logFor(r).Debug("refused", slog.String("route", r.Pattern), slog.String("code", string(code)))
			}
			s.metrics.refusal(name, err)
			s.refuse(w, r, addr, err)
		}
	}
}

func (s *Server) admit(r *http.Request, addr netip.Addr) error {
	if s.closing.Err() != nil {
		return closingError()
	}
	if !s.calledFor(r) && !s.rate.allow(addr) {
		return wire.CodeRelayRate.Err().WithHint("try again in a few seconds")
	}
	if !asksForSocket(r) {
		// Whoever's client it is, its version is not what is wrong.
		return wire.Errorf(wire.CodeRelayRequest, "it asks for no WebSocket").
			WithHint("a proxy on the way has to pass on HTTP/1.1 with Upgrade and Connection")
	}
	if !lists(r, "Sec-WebSocket-Protocol", wire.RelayProtocol) {
		return wire.Errorf(wire.CodeRelayVersion, "this relay speaks %s", wire.RelayProtocol).
			WithHint("update the older of builder, client and relay")
	}
	return nil
}

// calledFor reports whether a builder comes for a circuit that it was called for:
// that is a dial's, which was counted, and many clients are one builder's.
func (s *Server) calledFor(r *http.Request) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.pending[wire.CircuitID(r.PathValue("circuit"))] != nil
}

func closingError() error {
	return wire.CodeRelayClosing.Err().WithHint("try again in a few seconds, or use another relay")
}

// asksForSocket reports whether a handshake can be completed (RFC 6455 §4.2.1). That is
// asked before anything else is done for it: a dial's is completed only once the builder
// has come.
func asksForSocket(r *http.Request) bool {
	keys := r.Header.Values("Sec-WebSocket-Key")
	if len(keys) != 1 || r.Method != http.MethodGet || !r.ProtoAtLeast(1, 1) {
		return false
	}
	nonce, err := base64.StdEncoding.DecodeString(strings.TrimSpace(keys[0]))
	return err == nil && len(nonce) == 16 && lists(r, "Connection", "Upgrade") &&
		lists(r, "Upgrade", "websocket") && r.Header.Get("Sec-WebSocket-Version") == "13"
}

// lists reports whether a header that is a list has an element.
func lists(r *http.Request, header, element string) bool {
	for _, line := range r.Header.Values(header) {
		for e := range strings.SplitSeq(line, ",") {
			if strings.EqualFold(strings.TrimSpace(e), element) {
				return true
			}
		}
	}
	return false
}

// refuse answers a failed handshake: with a problem document, or for a page in
// a browser with a message on a WebSocket, of which there are as many as there
// may be connections that have asked for nothing.
func (s *Server) refuse(w http.ResponseWriter, r *http.Request, addr netip.Addr, err error) {
	if r.URL.Query().Get(wire.RelayErrorsQuery) != wire.RelayErrorsSocket || !s.countRefusal(addr) {
		if wire.CodeOf(err) == wire.CodeRelayVersion {
			// RFC 9110 §15.5.22 wants it beside a 426.
			w.Header().Set("Upgrade", "websocket")
		}
		wire.WriteError(w, err)
		return
	}
	defer s.uncountRefusal(addr)
	code := wire.CodeOf(err)
	if code == "" {
		code = wire.CodeInternal
	}
	ws, err := upgrade(w, r, wire.RelayMaxControl)
	if err != nil {
		return // it has answered
	}
	ctx, cancel := context.WithTimeout(context.Background(), sendTimeout)
	defer cancel()
	m := wire.RelayMessage{Type: wire.RelayRefused, Code: code}
	if ws.Write(ctx, websocket.MessageText, m.Encode()) == nil {
		// The peer closes: a browser drops what it has not read when we do.
		_, _, _ = ws.Reader(ctx)
	}
	_ = ws.CloseNow()
}

func (s *Server) countRefusal(addr netip.Addr) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.refusals.all >= s.limits.Connections || s.refusals.by[addr] >= s.limits.ConnectionsPerAddress {
		return false
	}
	s.refusals.add(addr)
	return true
}

func (s *Server) uncountRefusal(addr netip.Addr) {
	s.mu.Lock()
	s.refusals.drop(addr)
	s.mu.Unlock()
}

// upgrade completes the handshake. When it fails it has answered the request.
func upgrade(w http.ResponseWriter, r *http.Request, readLimit int64) (*wsconn.Socket, error) {
	ws, err := wsconn.Accept(w, r, wire.RelayProtocol)
	if err != nil {
		return nil, err
	}
	ws.SetReadLimit(readLimit)
	return ws, nil
}

// logFor is the log for what a request brings about.
func (s *Server) logFor(r *http.Request) *slog.Logger {
	if s.cfg.LogAddresses {
		return s.log.With("address", s.cfg.ClientAddr(r))
	}
	return s.log
}

// withoutAddresses is what is wrong with a socket, for the log: the error itself names
// both of its ends.
func withoutAddresses(err error) error {
	if op := (*net.OpError)(nil); errors.As(err, &op) {
		return op.Err
	}
	return err
}
