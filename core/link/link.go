// Package link makes sessions between a client and a builder that find each
// other through relays, and moves them to direct paths where the networks allow it.
//
// A client calls [Dial] and gets a [Session]: two http.RoundTrippers, one for
// small requests and events, which share a circuit, and one for bulk, of which each
// request has a circuit for itself while it lasts. A builder calls [Listen] and
// gets a net.Listener of raw circuits, for the server of [NewServer]. Inside a
// circuit is TLS 1.3 with both keys pinned, and HTTP/2 or, for bulk, HTTP/1.1; a
// relay sees neither.
//
// A session outlives its circuits: when one is lost, the next request opens
// another, through any relay that works. A request that was under way fails or
// is repeated, see [Session.Control].
//
// A builder that takes direct connections has [ListenDirect] beside its relays: QUIC
// and TCP on sockets of its own. A session looks for such a path in the background
// (search.go); the identities that are pinned are the same on each.
//
// Of the builder's routes the package knows the one by which the ends tell each
// other their addresses, wire.RoutePath, and no other.
package link

import (
	"crypto/tls"
	"net/http"
	"time"

	"github.com/drv-thru/drv-thru/core/wire"
)

// BaseURL is the base of every request of a session, whatever carries it.
const BaseURL = "https://builder/"

// pathURL is where the ends tell each other their addresses.
const pathURL = "https://builder" + wire.RoutePath

// What is inside of a circuit, as TLS negotiates it (RFC 7301): HTTP/2 for small
// requests and events, HTTP/1.1 for bulk.
const (
	protoControl = "h2"
	protoBulk    = "http/1.1"
)

// HTTP/2 settings of both ends (RFC 9113 §6.5.2). net/http's documentation
// puts the windows below 4 MiB, which is 60 ms at 550 Mbit/s; its code takes
// what is set here.
const (
	// streamWindow is bandwidth × delay of 2 Gbit/s at 60 ms. It is also what
	// a reader that stalls makes its peer hold.
	streamWindow = 16 << 20
	// connWindow lets two streams run at full speed.
	connWindow = 32 << 20
	// frameSize is the least that there is: a frame counts as heard when all of it
	// has come, and 256 KiB take longer at 64 kbit/s than a ping may.
	frameSize = 16 << 10
	// maxStreams bounds the requests of one circuit that are under way.
	maxStreams = 250
	// maxHeader bounds what a request has besides its body, of which honest ones have
	// below 1 KiB: it is kept for as long as the request is under way.
	maxHeader = 16 << 10
)

// Liveness of a path. A client pings on the control circuit when it has heard
// nothing there for pingAfter. That circuit carries little, so an answer that takes
// longer than pingTimeout is lost, unless something moves on the path's other
// circuits: what they carry may fill the line for longer (stallAfter bounds that).
const (
	pingAfter   = 5 * time.Second
	pingTimeout = 2 * time.Second
	// watchEvery is how often it is looked at what moves.
	watchEvery = time.Second
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
func circuitTLS(c *tls.Config, protos ...string) *tls.Config {
	c.NextProtos = protos
	// Small records at the start of each burst are for browsers; here every
	// record costs, and its length tells the gathering connection below
	// whether more is coming.
	c.DynamicRecordSizingDisabled = true
	return c
}
