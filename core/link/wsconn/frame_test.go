//go:build !js

package wsconn

import (
	"bytes"
	"testing"
	"testing/synctest"

	"github.com/coder/websocket"
)

// A frame's length has three forms (RFC 6455 §5.2), and each frame of a client its
// own mask (§5.3).
func TestFrameLengths(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client, server, _ := sockets(t)
		for name, way := range map[string]struct{ from, to *Socket }{
			"masked": {client, server}, "unmasked": {server, client},
		} {
			way.to.SetReadLimit(maxMessage)
			masks := map[[keySize]byte]bool{}
			for _, size := range []int{1, 125, 126, 127, 0xffff, 0x10000, MessageSize} {
				want := bytes.Repeat([]byte("x"), size)
				var m message
				if n := m.add(way.from, want); n != size {
					t.Fatalf("%s: %d bytes of %d fit", name, n, size)
				}
				masks[m.key] = true
				sent := make(chan error, 1)
				go func() { sent <- m.send(way.from) }()
				typ, got, err := way.to.Read(t.Context())
				if err != nil || typ != websocket.MessageBinary || !bytes.Equal(got, want) {
					t.Fatalf("%s: of %d bytes came %d (%v), %v", name, size, len(got), typ, err)
				}
				if err := <-sent; err != nil {
					t.Error(err)
				}
			}
			if way.from == client && len(masks) < 2 {
				t.Error("all frames have the same mask")
			}
		}
	})
}
