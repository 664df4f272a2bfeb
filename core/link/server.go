package link

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"log/slog"
	"net"
	"net/http"
	"strings"

	"github.com/drv-thru/drv-thru/core/key"
	"github.com/drv-thru/drv-thru/core/wire"
)

// NewServer makes the builder's HTTP server: TLS 1.3 with the builder's key,
// clients by theirs, HTTP/2 and HTTP/1.1. Serve it with ServeTLS(listener, "", ""). A
// handler learns who asks from [PeerID] and by which path from [PathOf].
func NewServer(identity key.Secret, h http.Handler, logger *slog.Logger) (*http.Server, error) {
	cfg, err := identity.ServerTLS()
	if err != nil {
		return nil, fmt.Errorf("make server: %w", err)
	}
	if logger == nil {
		logger = slog.New(slog.DiscardHandler)
	}
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	protocols.SetHTTP2(true)
	return &http.Server{
		Handler:           Handler(h),
		TLSConfig:         circuitTLS(cfg, protoControl, protoBulk),
		Protocols:         protocols,
		HTTP2:             h2Config(serverPingAfter, serverPingTimeout),
		ReadHeaderTimeout: handshakeTimeout,
		MaxHeaderBytes:    maxHeader,
		ErrorLog:          log.New(errorLog{logger}, "", 0),
		ConnContext: func(ctx context.Context, c net.Conn) context.Context {
			return context.WithValue(ctx, connKey{}, c)
		},
	}, nil
}

// Handler is what [NewServer] makes of its handler: one that ends an HTTP/1.1
// connection with the request whose body could not be read, because of a deadline or
// of the client. Net/http cancels the context of every request that follows on it.
func Handler(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.ProtoMajor != 1 {
			h.ServeHTTP(w, r)
			return
		}
		if r.Context().Err() != nil {
			panic(http.ErrAbortHandler)
		}
		h.ServeHTTP(&perhapsLast{ResponseWriter: w, ctx: r.Context()}, r)
	})
}

// perhapsLast says that a connection takes no further request if that is so when
// the answer begins.
type perhapsLast struct {
	http.ResponseWriter
	ctx   context.Context
	begun bool
}

func (w *perhapsLast) WriteHeader(status int) {
	w.begin()
	w.ResponseWriter.WriteHeader(status)
}

func (w *perhapsLast) Write(p []byte) (int, error) {
	w.begin()
	return w.ResponseWriter.Write(p)
}

// begin has net/http say "Connection: close", and close only after the client has
// had time to read the answer (RFC 9112 §9.6), as it does when a body is too large.
func (w *perhapsLast) begin() {
	if !w.begun && w.ctx.Err() != nil {
		_, _ = http.MaxBytesReader(w.ResponseWriter, io.NopCloser(strings.NewReader("x")), 0).Read(make([]byte, 1))
	}
	w.begun = true
}

func (w *perhapsLast) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// PeerID returns the client that a request came from.
func PeerID(r *http.Request) (key.ID, error) {
	if r.TLS == nil {
		return key.ID{}, fmt.Errorf("request without TLS")
	}
	return key.PeerID(*r.TLS)
}

// NoDirect answers for a builder that takes no direct connections.
func NoDirect(next http.Handler) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("POST "+wire.RoutePath, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", wire.TypeJSON)
		_ = json.NewEncoder(w).Encode(wire.PathAnswer{Disabled: true}) // the peer is gone if this fails
	})
	mux.HandleFunc("GET "+wire.RoutePath, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNoContent) })
	mux.Handle("/", next)
	return mux
}

type connKey struct{}

// directPeer is a connection that is no net.Conn.
type directPeer interface{ path() Path }

// PathOf returns the path that a request came by, from its context; the zero
// Path if the server's listener is none of this package's.
func PathOf(ctx context.Context) Path {
	if p, ok := ctx.Value(connKey{}).(directPeer); ok {
		return p.path()
	}
	if c := circuitOf(ctx); c != nil {
		return c.path
	}
	return Path{}
}

// CircuitOf returns what the relay calls the circuit that a request came by, ""
// if it came by none. The logs of the client and of the relay have it, too.
func CircuitOf(ctx context.Context) wire.CircuitID {
	if c := circuitOf(ctx); c != nil {
		return c.id
	}
	return ""
}

func circuitOf(ctx context.Context) *circuit {
	c, _ := ctx.Value(connKey{}).(net.Conn)
	return circuitBelow(c)
}

// errorLog sorts what net/http says by whose fault it is.
type errorLog struct{ log *slog.Logger }

func (l errorLog) Write(p []byte) (int, error) {
	text := string(bytes.TrimSpace(p))
	level := slog.LevelWarn
	switch {
	case bytes.Contains(p, []byte("panic")):
		level = slog.LevelError
	case bytes.Contains(p, []byte("TLS handshake error")), bytes.Contains(p, []byte("http2: server")):
		// Any stranger can cause it, and every client does that has reached several of
		// the builder's addresses and goes on with one.
		level = slog.LevelDebug
	}
	l.log.Log(context.Background(), level, text)
	return len(p), nil
}
