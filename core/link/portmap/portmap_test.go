//go:build !js && !wasip1

package portmap

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/huin/goupnp"
	"github.com/huin/goupnp/dcps/internetgateway2"
)

// device is a router at an address of the loopback network.
func device(t *testing.T, at string, answer func([]byte) []byte) netip.Addr {
	t.Helper()
	a := netip.MustParseAddr(at)
	c, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(a, pcpPort)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	go func() {
		buf := make([]byte, 1500)
		for {
			n, from, err := c.ReadFromUDPAddrPort(buf)
			if err != nil {
				return
			}
			if reply := answer(buf[:n]); reply != nil {
				_, _ = c.WriteToUDPAddrPort(reply, from)
			}
		}
	}()
	return a
}

// pmpDevice speaks NAT-PMP (RFC 6886 §3) and gives port+1.
func pmpDevice(outer [4]byte) func([]byte) []byte {
	return func(p []byte) []byte {
		if p[0] != 0 {
			return nil
		}
		switch p[1] {
		case 0:
			return append([]byte{0, 128, 0, 0, 0, 0, 0, 1}, outer[:]...)
		case 1, 2:
			r := make([]byte, 16)
			r[1] = 128 + p[1]
			copy(r[8:10], p[4:6])
			binary.BigEndian.PutUint16(r[10:], binary.BigEndian.Uint16(p[4:])+1)
			binary.BigEndian.PutUint32(r[12:], 600)
			return r
		}
		return nil
	}
}

func TestPMP(t *testing.T) {
	at := device(t, "127.86.1.1", pmpDevice([4]byte{203, 0, 113, 5}))
	m, release, life, err := pmp(t.Context(), at, 4000)
	want := netip.MustParseAddrPort("203.0.113.5:4001")
	if err != nil || m.UDP != want || m.TCP != want || life != 600*time.Second || !strings.Contains(m.String(), "NAT-PMP") {
		t.Errorf("got %+v, %v, %v", m, life, err)
	}
	release()
	// A router that is behind another one is of no use.
	at = device(t, "127.86.1.2", pmpDevice([4]byte{100, 64, 0, 5}))
	if _, _, _, err := pmp(t.Context(), at, 4000); !errors.Is(err, errTranslated) {
		t.Errorf("got %v", err)
	}
}

func pcpDevice(outer string, code byte) func([]byte) []byte {
	return func(p []byte) []byte {
		if p[0] != pcpVersion {
			return nil
		}
		r := append([]byte(nil), p...)
		r[1] |= pcpAnswer
		r[3] = code
		a := netip.MustParseAddr(outer).As16()
		copy(r[44:], a[:])
		binary.BigEndian.PutUint16(r[42:], binary.BigEndian.Uint16(p[40:])+1)
		return r
	}
}

func TestPCP(t *testing.T) {
	at := device(t, "127.86.1.3", pcpDevice("203.0.113.6", 0))
	m, release, life, err := pcp(t.Context(), at, 4000)
	want := netip.MustParseAddrPort("203.0.113.6:4001")
	if err != nil || m.UDP != want || m.TCP != want || life != lifetime || m.Protocol != "PCP" {
		t.Errorf("got %+v, %v, %v", m, life, err)
	}
	release()
	at = device(t, "127.86.1.4", pcpDevice("203.0.113.6", 8))
	if _, _, _, err := pcp(t.Context(), at, 4000); err == nil || !strings.Contains(err.Error(), "result 8") {
		t.Errorf("got %v", err)
	}
}

// A router that heeds the nonce of a mapping renews it, and takes it back.
func TestPCPRenewal(t *testing.T) {
	mapped := make(map[byte]pcpNonce) // by protocol
	var mu sync.Mutex
	give := pcpDevice("203.0.113.6", 0)
	at := device(t, "127.86.1.5", func(p []byte) []byte {
		mu.Lock()
		defer mu.Unlock()
		r := give(p)
		switch known, ok := mapped[p[36]]; {
		case ok && known != pcpNonce(p[24:36]):
			r[3] = 2 // NOT_AUTHORIZED
		case binary.BigEndian.Uint32(p[4:]) == 0:
			delete(mapped, p[36])
		default:
			mapped[p[36]] = pcpNonce(p[24:36])
		}
		return r
	})
	var release func()
	for range 2 {
		m, r, _, err := pcp(t.Context(), at, 4000)
		if err != nil || !m.UDP.IsValid() || !m.TCP.IsValid() {
			t.Fatalf("got %+v, %v", m, err)
		}
		release = r
	}
	release()
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
		mu.Lock()
		left := len(mapped)
		mu.Unlock()
		if left == 0 {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%d mappings are left", left)
		}
	}
}

func TestPCPRequest(t *testing.T) {
	const golden = "0201000000000e10" + "00000000000000000000ffffc0a80102" + "0102030405060708090a0b0c" + "11000000" + "0fa00fa0" + "00000000000000000000ffff00000000"
	got := pcpRequest(pcpNonce{1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12}, netip.MustParseAddr("192.168.1.2"), protocolUDP, 4000, time.Hour)
	if hex.EncodeToString(got) != golden {
		t.Errorf("got %x", got)
	}
}

func FuzzPCP(f *testing.F) {
	f.Add(pcpDevice("203.0.113.6", 0)(pcpRequest(pcpNonce{}, netip.MustParseAddr("192.168.1.2"), protocolUDP, 4000, time.Hour)))
	f.Fuzz(func(t *testing.T, p []byte) {
		if at, _, err := pcpParse(p, pcpNonce{}, protocolUDP, 4000); err == nil && !at.Addr().IsValid() {
			t.Error("no address")
		}
	})
}

// fakeIGD is a UPnP router.
type fakeIGD struct {
	outer string
	added []string
}

func (f *fakeIGD) GetExternalIPAddressCtx(context.Context) (string, error) { return f.outer, nil }
func (f *fakeIGD) AddPortMappingCtx(_ context.Context, _ string, _ uint16, protocol string, _ uint16, client string, _ bool, _ string, _ uint32) error {
	f.added = append(f.added, protocol+" "+client)
	return nil
}
func (f *fakeIGD) DeletePortMappingCtx(context.Context, string, uint16, string) error { return nil }
func (f *fakeIGD) LocalAddr() net.IP                                                  { return net.IPv4(192, 168, 1, 2) }

func TestUPnP(t *testing.T) {
	f := &fakeIGD{outer: "203.0.113.7"}
	m, err := upnp(t.Context(), f, 4000)
	if want := netip.MustParseAddrPort("203.0.113.7:4000"); err != nil || m.UDP != want || m.TCP != want || len(f.added) != 2 {
		t.Errorf("got %+v, %v, %v", m, f.added, err)
	}
	for _, outer := range []string{"10.0.0.1", "localhost", "100.64.3.4"} {
		if m, err := upnp(t.Context(), &fakeIGD{outer: outer}, 4000); err == nil {
			t.Errorf("%s: got %+v", outer, m)
		}
	}
}

// Anybody in the network can answer as a router does, and at any length.
func TestUPnPAnswersAreBounded(t *testing.T) {
	const device = `<root xmlns="urn:schemas-upnp-org:device-1-0"><device><serviceList><service>` +
		`<serviceType>` + internetgateway2.URN_WANIPConnection_2 + `</serviceType><controlURL>/control</controlURL></service></serviceList></device></root>`
	const most = 32 << 20 // several times what sockets hold
	var sent atomic.Int64
	router := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/device":
			_, _ = io.WriteString(w, device)
			return
		case "/endless":
			_, _ = io.WriteString(w, `<root xmlns="urn:schemas-upnp-org:device-1-0"><device><friendlyName>`)
		default:
			_, _ = io.WriteString(w, `<Envelope xmlns="http://schemas.xmlsoap.org/soap/envelope/"><Body><a>`)
		}
		for piece := bytes.Repeat([]byte("x"), 1<<20); sent.Load() < most; {
			n, err := w.Write(piece)
			if sent.Add(int64(n)); err != nil {
				return
			}
		}
	}))
	defer router.Close()
	at := func(path string) *url.URL {
		u, err := url.Parse(router.URL + path)
		if err != nil {
			t.Fatal(err)
		}
		return u
	}
	cs, err := internetgateway2.NewWANIPConnection2ClientsByURLCtx(t.Context(), at("/device"))
	if err != nil || len(cs) != 1 {
		t.Fatalf("%d routers, %v", len(cs), err)
	}
	for name, ask := range map[string]func() error{
		"description": func() error { _, err := goupnp.DeviceByURLCtx(t.Context(), at("/endless")); return err },
		"answer":      func() error { _, err := briefly(cs[0]).GetExternalIPAddressCtx(t.Context()); return err },
	} {
		sent.Store(0)
		if err := ask(); err == nil {
			t.Errorf("%s: no error", name)
		}
		if n := sent.Load(); n >= most {
			t.Errorf("%s: %d MiB were read", name, n>>20)
		}
	}
}

// A router that has answered is not said to be silent because it knows one protocol
// only.
func TestAskSaysWhy(t *testing.T) {
	gives := func(err error) asker {
		return func(context.Context, uint16) (Mapping, func(), time.Duration, error) { return Mapping{}, nil, 0, err }
	}
	silent, refused := gives(errors.New("i/o timeout")), fmt.Errorf("%w: PCP result 2", errRefused)
	for _, tt := range []struct {
		want error
		ask  []asker
	}{
		{errNobody, []asker{silent, gives(errPCP), gives(errNobody)}},
		{errTranslated, []asker{gives(errTranslated), silent, gives(errNobody)}},
		{refused, []asker{silent, gives(refused), gives(errNobody)}},
		{errTranslated, []asker{silent, silent, gives(errTranslated)}},
	} {
		if m, _, _ := askBy(t.Context(), 4000, tt.ask...); m.Err != tt.want {
			t.Errorf("got %v, want %v", m.Err, tt.want)
		}
	}
}

func TestKeeperEnds(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	k := &Keeper{port: 4000, kick: make(chan struct{}, 1), done: make(chan struct{})}
	go k.run(ctx, Ask)
	k.Wait()
	k.Renew()
	if m := k.Mapped(); m.UDP.IsValid() || !strings.HasPrefix(m.String(), "none") {
		t.Errorf("got %+v", m)
	}
}

// A router's answers come by another protocol, or not at all; what it has given is given
// back all the same.
func TestKeeperGivesAllBack(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	protocols := make(chan string)
	back := make(chan string, 8)
	k := &Keeper{port: 7412, log: slog.New(slog.DiscardHandler), kick: make(chan struct{}, 1), done: make(chan struct{})}
	go k.run(ctx, func(context.Context, uint16) (Mapping, func(), time.Duration) {
		protocol := <-protocols
		if protocol == "" {
			return Mapping{Err: errNobody}, nil, time.Hour
		}
		return Mapping{Protocol: protocol}, func() { back <- protocol }, time.Hour
	})
	for _, protocol := range []string{"UPnP", "NAT-PMP", "NAT-PMP", ""} {
		protocols <- protocol
		k.Renew()
	}
	cancel()
	close(protocols)
	k.Wait()
	close(back)
	var got []string
	for protocol := range back {
		got = append(got, protocol)
	}
	if slices.Sort(got); !slices.Equal(got, []string{"NAT-PMP", "UPnP"}) {
		t.Errorf("given back: %q", got)
	}
}
