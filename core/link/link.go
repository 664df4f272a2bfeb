// Package link makes sessions between a client and a builder that find each
// other through relays.
//
// A client calls [Dial] and gets a [Session]: two http.RoundTrippers, one for
// small requests and events and one for bulk, each with a circuit of its own.
// A builder calls [Listen] and gets a net.Listener of raw circuits, for the
// server of [NewServer]. Inside a circuit is TLS 1.3 with both keys pinned and
// HTTP/2; a relay sees neither.
//
// A session outlives its circuits: when one is lost, the next request opens
// another, through any relay that works. A request that was under way fails or
// is repeated, see [Session.Control].
//
// The package opens no listening socket and knows no routes of the builder's.
// How a circuit comes about is behind an interface (path.go), so that other
// ways than relays can be added.
package link

import (
	"crypto/tls"
	"net/http"
	"time"
)

// BaseURL is the base of every request of a session, whatever carries it.
const BaseURL = "https://builder/"

// nextProto is the only protocol inside a circuit (RFC 9113 §3.2).
const nextProto = "h2"

// HTTP/2 settings of both ends (RFC 9113 §6.5.2). net/http's documentation
// puts the windows below 4 MiB, which is 60 ms at 550 Mbit/s; its code takes
// what is set here.
const (
	// streamWindow is bandwidth × delay of 2 Gbit/s at 60 ms. It is also what
	// a reader that stalls makes its peer hold.
	streamWindow = 16 << 20
	// connWindow lets two streams run at full speed.
	connWindow = 32 << 20
	// frameSize makes a write of 256 KiB one frame.
	frameSize = 256 << 10
	// maxStreams bounds the requests of one circuit that are under way.
	maxStreams = 250
)

// Liveness of a circuit. A client pings when it has heard nothing for
// pingAfter. The control circuit carries little, so an answer that takes longer
// than pingTimeout is lost; on the bulk circuit the ping queues behind what was
// written before it, and slowness must not be taken for death.
const (
	pingAfter       = 5 * time.Second
	pingTimeout     = 2 * time.Second
	bulkPingTimeout = 15 * time.Second
	// The builder only needs to get rid of clients that are gone.
	serverPingAfter   = 15 * time.Second
	serverPingTimeout = 15 * time.Second
	// dialTimeout bounds opening one circuit: a relay waits for the builder
	// for up to 10 s (wire.RelayAcceptTimeout).
	dialTimeout = 15 * time.Second
	// handshakeTimeout bounds TLS inside a circuit.
	handshakeTimeout = 10 * time.Second
)

func h2Config(after, timeout time.Duration) *http.HTTP2Config {
	return &http.HTTP2Config{
		MaxConcurrentStreams:          maxStreams,
		MaxReadFrameSize:              frameSize,
		MaxReceiveBufferPerConnection: connWindow,
		MaxReceiveBufferPerStream:     streamWindow,
		SendPingTimeout:               after,
		PingTimeout:                   timeout,
	}
}

// circuitTLS completes a pinned configuration for use inside a circuit.
func circuitTLS(c *tls.Config) *tls.Config {
	c.NextProtos = []string{nextProto}
	// Small records at the start of each burst are for browsers; here every
	// record costs, and its length tells the gathering connection below
	// whether more is coming.
	c.DynamicRecordSizingDisabled = true
	return c
}
