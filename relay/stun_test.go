package relay_test

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"runtime"
	"testing"
	"time"

	"github.com/pion/stun/v3"

	"github.com/drv-thru/drv-thru/core/wire"
	"github.com/drv-thru/drv-thru/relay"
)

// padding is the PADDING attribute of RFC 5780 §7.6.
type padding int

func (p padding) AddTo(m *stun.Message) error {
	m.Add(0x0026, make([]byte, p))
	return nil
}

// request is a binding request of at least the length that is answered.
func request(t testing.TB, setters ...stun.Setter) []byte {
	m, err := stun.Build(append([]stun.Setter{stun.TransactionID, stun.BindingRequest}, setters...)...)
	if err != nil {
		t.Fatal(err)
	}
	return m.Raw
}

const enough = padding(wire.RelaySTUNRequest - 20 - 4)

func serveSTUN(t *testing.T, address string, limits relay.Limits) (*relay.Server, netip.AddrPort) {
	t.Helper()
	s := relay.New(relay.Config{Limits: limits})
	c, err := net.ListenPacket("udp", address)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- s.ServeSTUN(c.(*net.UDPConn)) }()
	t.Cleanup(func() {
		_ = s.Shutdown(context.Background())
		if err := <-done; !errors.Is(err, net.ErrClosed) {
			t.Error(err)
		}
	})
	return s, c.LocalAddr().(*net.UDPAddr).AddrPort()
}

// asker is a socket that asks a server, on an address of the loopback network.
func asker(t *testing.T, from string, server netip.AddrPort) *net.UDPConn {
	t.Helper()
	d := net.Dialer{LocalAddr: net.UDPAddrFromAddrPort(netip.AddrPortFrom(netip.MustParseAddr(from), 0))}
	c, err := d.Dial("udp", server.String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c.(*net.UDPConn)
}

// answered asks until an answer to one of its requests comes.
func answered(t *testing.T, c *net.UDPConn) {
	t.Helper()
	buf := make([]byte, 1500)
	for {
		req := request(t, enough)
		if _, err := c.Write(req); err != nil {
			t.Fatal(err)
		}
		_ = c.SetReadDeadline(time.Now().Add(time.Second))
		n, err := c.Read(buf)
		if errors.Is(err, context.DeadlineExceeded) || errors.As(err, new(net.Error)) {
			continue // UDP
		}
		if err != nil {
			t.Fatal(err)
		}
		if n > len(req) {
			t.Errorf("an answer of %d bytes to %d", n, len(req))
		}
		m := &stun.Message{Raw: buf[:n]}
		var mapped stun.XORMappedAddress
		if err := m.Decode(); err != nil {
			t.Fatal(err)
		}
		if err := mapped.GetFrom(m); err != nil || m.Type != stun.BindingSuccess {
			t.Fatalf("%v: %v", m, err)
		}
		if got, want := mapped.String(), c.LocalAddr().String(); got != want {
			t.Errorf("mapped address %s, want %s", got, want)
		}
		return
	}
}

func TestSTUN(t *testing.T) {
	for _, address := range []string{"127.0.0.1", "::1"} {
		s, server := serveSTUN(t, net.JoinHostPort(address, "0"), relay.Limits{})
		c := asker(t, address, server)
		for name, packet := range map[string][]byte{
			"short":   request(t),
			"invalid": []byte("hello, hello, hello, hello, hello, hello, hello!"),
		} {
			if _, err := c.Write(packet); err != nil {
				t.Fatal(err)
			}
			for metric(t, s, "stun_packets_total", name) == 0 {
				time.Sleep(time.Millisecond)
			}
		}
		indication, err := stun.Build(stun.TransactionID, stun.NewType(stun.MethodBinding, stun.ClassIndication), enough)
		if err != nil {
			t.Fatal(err)
		}
		_, _ = c.Write(indication.Raw)
		answered(t, c)
	}
}

// A flood gets few answers, costs a bounded amount of memory, and leaves others
// theirs.
func TestSTUNFlood(t *testing.T) {
	s, server := serveSTUN(t, "127.0.0.1:0", relay.Limits{STUNPerSecond: 1})
	flood := asker(t, "127.0.0.2", server)
	for metric(t, s, "stun_packets_total", "rate") < 100 {
		for range 100 {
			if _, err := flood.Write(request(t, enough)); err != nil {
				t.Fatal(err)
			}
		}
	}
	answered(t, asker(t, "127.0.0.3", server))
}

func FuzzSTUN(f *testing.F) {
	f.Add(request(f))
	f.Add(request(f, enough))
	f.Add([]byte{})
	s := relay.New(relay.Config{Limits: relay.Limits{STUNPerSecond: 1e9}})
	f.Fuzz(func(t *testing.T, packet []byte) {
		for _, from := range []string{"192.0.2.1:1", "[2001:db8::1]:65535"} {
			if answer := s.AnswerSTUN(packet, netip.MustParseAddrPort(from)); len(answer) > len(packet) {
				t.Errorf("an answer of %d bytes to %d", len(answer), len(packet))
			}
		}
	})
}

// An answer is not answered: two relays would go on for ever, once somebody had sent one
// of them a request in the other's name.
func TestSTUNAnswersRequestsOnly(t *testing.T) {
	s := relay.New(relay.Config{})
	for _, typ := range []stun.MessageType{
		stun.BindingRequest, stun.BindingSuccess, stun.BindingError,
		stun.NewType(stun.MethodBinding, stun.ClassIndication), stun.NewType(stun.MethodAllocate, stun.ClassRequest),
	} {
		m, err := stun.Build(stun.TransactionID, typ, enough)
		if err != nil {
			t.Fatal(err)
		}
		if answer := s.AnswerSTUN(m.Raw, netip.MustParseAddrPort("192.0.2.1:1")); (answer != nil) != (typ == stun.BindingRequest) {
			t.Errorf("%s is answered with %d bytes", typ, len(answer))
		}
	}
}

// The answer comes from the address that was asked, of several that the host has: by
// another no address translator lets it in.
func TestSTUNAnswersFromWhereItWasAsked(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("elsewhere the system chooses")
	}
	for _, listen := range []string{":0", "0.0.0.0:0"} {
		_, at := serveSTUN(t, listen, relay.Limits{})
		for _, host := range []string{"127.0.0.1", "127.0.0.5"} {
			// A connected socket hears nobody else.
			c := asker(t, "127.0.0.1", netip.AddrPortFrom(netip.MustParseAddr(host), at.Port()))
			if _, err := c.Write(request(t, enough)); err != nil {
				t.Fatal(err)
			}
			_ = c.SetReadDeadline(time.Now().Add(10 * time.Second))
			if _, err := c.Read(make([]byte, 1500)); err != nil {
				t.Errorf("asked at %s of %q: %v", host, listen, err)
			}
		}
	}
}
