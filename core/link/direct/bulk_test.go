//go:build !js && !wasip1

package direct

import (
	"bytes"
	"crypto/sha256"
	"io"
	"math/rand/v2"
	"net/netip"
	"testing"
	"time"

	"github.com/quic-go/quic-go"

	"github.com/drv-thru/drv-thru/core/key"
)

// Bulk by QUIC arrives as it was sent, whatever the kernel gathers, on a socket of
// one address and on one of all addresses, which has more to tell of each packet.
func TestBulk(t *testing.T) {
	for _, at := range []netip.AddrPort{netip.MustParseAddrPort("127.0.0.1:0"), {}} {
		t.Run(at.String(), func(t *testing.T) {
			str := echo(t, at, func(to netip.AddrPort) netip.AddrPort { return to })
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

// narrowest is the largest packet of UDP that fits every IPv6 link (RFC 8200 §5).
const narrowest = 1280 - 40 - 8

// A line that takes no more than it must, such as a tunnel's, carries it, too.
func TestNarrowLine(t *testing.T) {
	str := echo(t, netip.MustParseAddrPort("127.0.0.1:0"), func(to netip.AddrPort) netip.AddrPort {
		line, at := socket(t)
		go func() {
			var client netip.AddrPort
			buf := make([]byte, 1<<16)
			for {
				n, from, err := line.ReadFromUDPAddrPort(buf)
				if err != nil {
					return
				}
				next := to
				if from == to {
					next = client
				} else {
					client = from
				}
				if n <= narrowest {
					_, _ = line.WriteToUDPAddrPort(buf[:n], next)
				}
			}
		}()
		return at
	})
	want := bytes.Repeat([]byte("narrow"), 10_000)
	go func() {
		_, _ = str.Write(want)
		_ = str.Close()
	}()
	if got, err := io.ReadAll(str); err != nil || !bytes.Equal(got, want) {
		t.Errorf("%d bytes, %v", len(got), err)
	}
}

// What nobody reads, as nobody has allowed it yet, is soon more than is taken.
func TestUnreadIsBounded(t *testing.T) {
	conn, _ := connect(t, netip.MustParseAddrPort("127.0.0.1:0"), func(to netip.AddrPort) netip.AddrPort { return to })
	taken := 0
	for range 4 {
		str, err := conn.OpenUniStream()
		if err != nil {
			t.Fatal(err)
		}
		_ = str.SetWriteDeadline(time.Now().Add(500 * time.Millisecond))
		n, err := str.Write(make([]byte, 2<<20))
		if err == nil {
			t.Error("all of it is taken")
		}
		taken += n
	}
	// The last piece of each stream is taken before there is room for it.
	if taken == 0 || taken > 1<<20 {
		t.Errorf("%d bytes are taken", taken)
	}
}

// echo opens a stream that gives back what is written, between endpoints at an
// address, by a line to the other.
func echo(t *testing.T, at netip.AddrPort, line func(to netip.AddrPort) netip.AddrPort) *quic.Stream {
	t.Helper()
	conn, l := connect(t, at, line)
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
	str, err := conn.OpenStreamSync(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return str
}

// connect connects two endpoints at an address, by a line to the other.
func connect(t *testing.T, at netip.AddrPort, line func(to netip.AddrPort) netip.AddrPort) (*quic.Conn, *quic.Listener) {
	t.Helper()
	var ends [2]*Endpoint
	var keys [2]key.Secret
	for i := range ends {
		var err error
		if ends[i], err = Open(at, nil); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = ends[i].Close() })
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
	to := netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), ends[0].Port())
	conn, err := ends[1].Dial(t.Context(), line(to), client)
	if err != nil {
		t.Fatal(err)
	}
	return conn, l
}
