package link

import (
	"crypto/tls"
	"io"
	"math"
	"net"
	"testing"
	"time"

	"golang.org/x/net/http2"

	"github.com/drv-thru/drv-thru/core/link/linktest"
)

// A builder that breaks HTTP/2's flow control makes a request fail: neither that one
// nor the session's end waits for ever.
func TestBuilderThatOverflowsWindows(t *testing.T) {
	answer := func(fr *http2.Framer, stream uint32) {
		// ":status: 200" is number 8 of HPACK's static table (RFC 7541, appendix A).
		_ = fr.WriteHeaders(http2.HeadersFrameParam{StreamID: stream, BlockFragment: []byte{0x88}, EndHeaders: true})
	}
	for name, frames := range map[string]func(fr *http2.Framer, stream uint32){
		"of a request": func(fr *http2.Framer, stream uint32) { _ = fr.WriteWindowUpdate(stream, math.MaxInt32) },
		"of an answer": func(fr *http2.Framer, stream uint32) {
			answer(fr, stream)
			_ = fr.WriteWindowUpdate(stream, math.MaxInt32)
		},
		"of the connection": func(fr *http2.Framer, _ uint32) { _ = fr.WriteWindowUpdate(0, math.MaxInt32) },
	} {
		t.Run(name, func(t *testing.T) {
			var network linktest.Network
			serveFrames(t, &network, "b", frames)
			s, err := newSession(t.Context(), Config{Identity: secret(t, 1), Peer: secret(t, 2).ID()}, []dialer{&wayTo{network: &network, address: "b"}})
			if err != nil {
				t.Fatal(err)
			}
			failed := make(chan error, 1)
			go func() {
				text, err := get(s.Control(), "")
				_ = s.Close()
				if err == nil {
					t.Errorf("read %q", text)
				}
				failed <- err
			}()
			select {
			case <-failed:
			case <-time.After(time.Minute):
				t.Error("the request does not end")
			}
		})
	}
}

// serveFrames is a builder that answers requests by HTTP/2 with any frames.
func serveFrames(t *testing.T, network *linktest.Network, address string, answer func(fr *http2.Framer, stream uint32)) {
	t.Helper()
	cfg, err := secret(t, 2).ServerTLS()
	if err != nil {
		t.Fatal(err)
	}
	l := tls.NewListener(network.Listen(address), circuitTLS(cfg, protoControl))
	t.Cleanup(func() { _ = l.Close() })
	serve := func(conn net.Conn) {
		defer conn.Close()
		if _, err := io.CopyN(io.Discard, conn, int64(len(http2.ClientPreface))); err != nil {
			return
		}
		fr := http2.NewFramer(conn, conn)
		_ = fr.WriteSettings()
		for {
			f, err := fr.ReadFrame()
			if err != nil {
				return
			}
			if f, ok := f.(*http2.HeadersFrame); ok {
				answer(fr, f.StreamID)
			}
		}
	}
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go serve(conn)
		}
	}()
}
