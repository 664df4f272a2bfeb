// Package wsconn makes byte streams of WebSockets, fast enough to carry builds.
//
// [Dial] and [Accept] do the WebSocket handshake and return a [Socket]: a
// websocket.Conn whose bulk reaches the network in one piece. [New] makes a
// net.Conn of a Socket: with real deadlines, with writes that are gathered
// into large messages, and with memory that is only held while bytes move.
//
// What that is for: github.com/coder/websocket writes 4 KiB at a time as a
// client, and TLS writes a record of 16 KiB at a time; written through, each
// of them costs a system call here and a wake-up of the process on the other
// side, which together cost several times more than the encryption.
//
// The package knows nothing of relays or TLS. It is used by the ends of a
// circuit (core/link) and by the relay between them.
package wsconn

import "sync"

const (
	// MessageSize is the most payload that is sent as one message: a write of
	// 256 KiB with what HTTP puts around it and the overhead of its 17 TLS
	// records, so that it leaves as one message and not as one and a crumb.
	MessageSize = 264 << 10
	// Headroom is what a frame needs before its payload (RFC 6455 §5.2).
	Headroom = 14
	// keySize is the length of a mask's key (RFC 6455 §5.3).
	keySize = 4
	// frameRoom is room for that, and a page to keep the buffers' size class
	// whole.
	frameRoom = 4 << 10
)

// Buffer is a pooled buffer, large enough for a message and its frame header.
type Buffer [MessageSize + frameRoom]byte

var buffers = sync.Pool{New: func() any { return new(Buffer) }}

// GetBuffer takes a buffer from the pool that all sockets share. Fresh memory
// costs more than copying, so buffers go back as soon as they are empty.
func GetBuffer() *Buffer { return buffers.Get().(*Buffer) }

// PutBuffer gives a buffer back. The caller must not use it any more.
func PutBuffer(b *Buffer) { buffers.Put(b) }
