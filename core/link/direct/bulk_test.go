//go:build !js && !wasip1

package direct

import (
	"bytes"
	"crypto/sha256"
	"io"
	"math/rand/v2"
	"net/netip"
	"testing"

	"github.com/drv-thru/drv-thru/core/key"
)

// Bulk by QUIC arrives as it was sent, whatever the kernel gathers, on a socket of
// one address and on one of all addresses, which has more to tell of each packet.
func TestBulk(t *testing.T) {
	for _, at := range []netip.AddrPort{netip.MustParseAddrPort("127.0.0.1:0"), {}} {
		t.Run(at.String(), func(t *testing.T) {
			var ends [2]*Endpoint
			var keys [2]key.Secret
			for i := range ends {
				var err error
				if ends[i], err = Open(at, nil); err != nil {
					t.Fatal(err)
				}
				defer ends[i].Close()
				if keys[i], err = key.NewSecret(bytes.NewReader(bytes.Repeat([]byte{byte(i + 1)}, 32))); err != nil {
					t.Fatal(err)
				}
			}
			server, err := keys[0].ServerTLS()
			if err != nil {
				t.Fatal(err)
			}
			client, err := keys[1].ClientTLS(keys[0].ID())
			if err != nil {
				t.Fatal(err)
			}
			server.NextProtos, client.NextProtos = []string{"test"}, []string{"test"}
			l, err := ends[0].Listen(server)
			if err != nil {
				t.Fatal(err)
			}
			go func() { // ends with the endpoint
				conn, err := l.Accept(t.Context())
				if err != nil {
					return
				}
				str, err := conn.AcceptStream(t.Context())
				if err != nil {
					return
				}
				_, _ = io.Copy(str, str)
				_ = str.Close()
			}()
			conn, err := ends[1].Dial(t.Context(), netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), ends[0].Port()), client)
			if err != nil {
				t.Fatal(err)
			}
			str, err := conn.OpenStreamSync(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			const size = 8 << 20
			want := sha256.New()
			sent := make(chan struct{})
			go func() {
				defer close(sent)
				_, _ = io.Copy(str, io.TeeReader(io.LimitReader(rand.NewChaCha8([32]byte{}), size), want))
				_ = str.Close()
			}()
			got := sha256.New()
			if n, err := io.Copy(got, str); n != size || err != nil {
				t.Fatalf("%d bytes, %v", n, err)
			}
			<-sent
			if !bytes.Equal(got.Sum(nil), want.Sum(nil)) {
				t.Error("other bytes arrive")
			}
		})
	}
}
