//go:build !js && !wasip1

package direct

import (
	"context"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/pion/stun/v3"

	"github.com/drv-thru/drv-thru/core/link/linktest"
	"github.com/drv-thru/drv-thru/core/wire"
)

var here = Scope{Own: prefixes("127.0.0.1/8"), Loopback: true}

func open(t *testing.T) *Endpoint {
	t.Helper()
	e, err := Open(netip.MustParseAddrPort("127.0.0.1:0"), nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = e.Close() })
	return e
}

// socket is somebody's UDP socket that gets packets.
func socket(t *testing.T) (*net.UDPConn, netip.AddrPort) {
	t.Helper()
	c, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.MustParseAddrPort("127.0.0.1:0")))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c, addrPort(c.LocalAddr())
}

// stunServer answers with the address it sees, or another port.
func stunServer(t *testing.T, lie uint16) netip.AddrPort {
	c, at := socket(t)
	go linktest.ServeSTUN(c, func(_ *stun.Message, from netip.AddrPort) netip.AddrPort {
		return netip.AddrPortFrom(from.Addr(), from.Port()+lie)
	})
	return at
}

func TestObserve(t *testing.T) {
	e := open(t)
	servers := []netip.AddrPort{stunServer(t, 0), stunServer(t, 0)}
	got := e.Observe(t.Context(), servers)
	if len(got) != 2 || got[0] != (Observed{servers[0], e.Addr()}) || got[1] != (Observed{servers[1], e.Addr()}) {
		t.Errorf("got %v", got)
	}
	if got := e.Observe(t.Context(), nil); got != nil {
		t.Errorf("without servers: %v", got)
	}
	_, silent := socket(t)
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if got := e.Observe(ctx, []netip.AddrPort{silent}); len(got) != 0 {
		t.Errorf("a silent server said %v", got)
	}
	if len(e.stun) != 0 {
		t.Errorf("%d requests stay", len(e.stun))
	}
}

func TestClassify(t *testing.T) {
	at := netip.MustParseAddrPort
	s1, s2 := at("192.0.2.1:3478"), at("192.0.2.2:3478")
	own := []netip.Addr{netip.MustParseAddr("192.168.1.2")}
	for name, c := range map[string]struct {
		asked int
		got   []Observed
		want  wire.NAT
	}{
		"nobody asked": {0, nil, wire.NATUnknown},
		"silence":      {2, nil, wire.NATBlocked},
		"own":          {1, []Observed{{s1, at("192.168.1.2:7")}}, wire.NATNone},
		"one":          {2, []Observed{{s1, at("203.0.113.1:7")}}, wire.NATUnknown},
		"same":         {2, []Observed{{s1, at("203.0.113.1:7")}, {s2, at("203.0.113.1:7")}}, wire.NATCone},
		"ports":        {2, []Observed{{s1, at("203.0.113.1:7")}, {s2, at("203.0.113.1:8")}}, wire.NATSymmetric},
		"hosts":        {2, []Observed{{s1, at("203.0.113.1:7")}, {s2, at("203.0.113.2:7")}}, wire.NATSymmetric},
		"two families": {2, []Observed{{s1, at("203.0.113.1:7")}, {at("[2001:db8::1]:3478"), at("[2001:db8::2]:9")}}, wire.NATUnknown},
	} {
		if got := Classify(c.asked, c.got, own); got != c.want {
			t.Errorf("%s: got %s", name, got)
		}
	}
}

func TestPunchMeets(t *testing.T) {
	a, b := open(t), open(t)
	token := wire.PathToken{1}
	pa, err := a.Punch("", token, here, []netip.AddrPort{b.Addr()})
	if err != nil {
		t.Fatal(err)
	}
	// b knows nothing of a but the token: a's port is news to it.
	pb, err := b.Punch("", token, here, nil)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	go pa.Run(ctx)
	go pb.Run(ctx)
	for _, c := range []struct {
		p    *Punch
		want netip.AddrPort
	}{{pa, b.Addr()}, {pb, a.Addr()}} {
		select {
		case got := <-c.p.Heard():
			if got != c.want {
				t.Errorf("heard %s, want %s", got, c.want)
			}
		case <-time.After(time.Minute):
			t.Fatal("nothing heard")
		}
	}
	if !a.isKnown(b.Addr()) || !b.isKnown(a.Addr()) {
		t.Error("who answered is not known")
	}
	if _, err := a.Punch("", token, here, nil); err == nil {
		t.Error("one token twice")
	}
}

// count returns how many packets arrived, and of how many bytes.
func count(t *testing.T, c *net.UDPConn) (packets, bytes int) {
	t.Helper()
	buf := make([]byte, 1500)
	for {
		// What was sent on loopback before is there already.
		if err := c.SetReadDeadline(time.Now().Add(200 * time.Millisecond)); err != nil {
			t.Fatal(err)
		}
		n, _, err := c.ReadFromUDPAddrPort(buf)
		if err != nil {
			return
		}
		packets, bytes = packets+1, bytes+n
	}
}

// A list of candidates makes an endpoint send few packets, and small ones.
func TestPunchIsBounded(t *testing.T) {
	e := open(t)
	victim, at := socket(t)
	p, err := e.Punch("", wire.PathToken{2}, here, []netip.AddrPort{at, at, at})
	if err != nil {
		t.Fatal(err)
	}
	p.Run(t.Context())
	if packets, bytes := count(t, victim); packets == 0 || packets > len(rounds) || bytes != packets*wire.PunchSize {
		t.Errorf("%d packets of %d bytes", packets, bytes)
	}
	if len(e.punches) != 0 {
		t.Error("the exchange stays")
	}
}

// All exchanges together send within the endpoint's budget.
func TestPunchBudget(t *testing.T) {
	e := open(t)
	e.budget = Quota[string]{Burst: 5}
	victim, at := socket(t)
	p, err := e.Punch("", wire.PathToken{3}, here, []netip.AddrPort{at})
	if err != nil {
		t.Fatal(err)
	}
	p.Run(t.Context())
	if packets, _ := count(t, victim); packets > 5 {
		t.Errorf("%d packets", packets)
	}
}

// Pings without a known token, and what is no ping, get no answer; with a known
// token, the answers are as small and bounded.
func TestPunchAnswersAreBounded(t *testing.T) {
	e := open(t)
	stranger, at := socket(t)
	p, err := e.Punch("", wire.PathToken{4}, here, nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, packet := range [][]byte{
		wire.AppendPunch(nil, wire.PathToken{5}, wire.PunchPing), {0x21}, make([]byte, 1200),
		stun.MustBuild(stun.TransactionID, stun.BindingRequest).Raw,
	} {
		e.packet(packet, at)
	}
	if packets, _ := count(t, stranger); packets != 0 {
		t.Errorf("%d answers to a stranger", packets)
	}
	for range 1000 {
		e.packet(wire.AppendPunch(nil, wire.PathToken{4}, wire.PunchPing), at)
	}
	if packets, bytes := count(t, stranger); packets != maxPongs || bytes != packets*wire.PunchSize {
		t.Errorf("%d answers of %d bytes", packets, bytes)
	}
	for i := range 100 {
		e.packet(wire.AppendPunch(nil, wire.PathToken{4}, wire.PunchPing), netip.AddrPortFrom(at.Addr(), uint16(2000+i)))
	}
	if len(p.peers) > maxReflexive || len(p.heard) > maxReflexive {
		t.Errorf("%d addresses were added", len(p.peers))
	}
	e.packet(wire.AppendPunch(nil, wire.PathToken{4}, wire.PunchPing), netip.MustParseAddrPort("10.1.2.3:4000"))
	for i := range maxPunches {
		_, err = e.Punch("", wire.PathToken{9, byte(i)}, here, nil)
	}
	if err == nil {
		t.Error("exchanges are not bounded")
	}
}

// Who answers a ping answers no answer to it, takes no address from one, and sends
// nothing to where nothing may be sent.
func TestPunchIsNoReflector(t *testing.T) {
	e := open(t)
	other, at := socket(t)
	outside := netip.MustParseAddrPort("10.1.2.3:4000")
	p, err := e.Punch("", wire.PathToken{6}, here, nil)
	if err != nil {
		t.Fatal(err)
	}
	p.packet(wire.PunchPong, at)
	p.packet(wire.PunchPing, outside)
	p.Aim([]netip.AddrPort{outside})
	if len(p.peers) != 0 || p.pongs != 0 || len(p.heard) != 0 {
		t.Errorf("peers %v, %d answers", p.peers, p.pongs)
	}
	p.Aim([]netip.AddrPort{at})
	for range 3 {
		p.packet(wire.PunchPong, at)
	}
	if packets, _ := count(t, other); packets != 0 || len(p.heard) != 1 {
		t.Errorf("%d answers to answers, heard %d times", packets, len(p.heard))
	}
	// Nor does it know whom it does not answer.
	p.extra = maxReflexive
	e.budget = Quota[string]{}
	late := netip.AddrPortFrom(at.Addr(), 4000)
	if p.packet(wire.PunchPing, late); e.isKnown(late) || !e.isKnown(at) {
		t.Error("somebody is known who has shown nothing, or nobody")
	}
}

// Strangers who want to connect have to show that they get what is sent to them.
func TestKnown(t *testing.T) {
	e := open(t)
	at := func(i int) netip.AddrPort { return netip.AddrPortFrom(netip.MustParseAddr("192.0.2.1"), uint16(i)) }
	verifies := func(i int) bool { return e.quic.VerifySourceAddress(net.UDPAddrFromAddrPort(at(i))) }
	now := time.Now()
	long := now.Add(-knownFor - time.Second)
	e.know(at(1), now)
	e.know(at(2), long)
	if verifies(1) || !verifies(2) || !verifies(3) {
		t.Error("known for too long, or not at all")
	}
	for i := range 2 * maxKnown {
		e.know(at(10+i), now)
	}
	if len(e.known) > maxKnown {
		t.Errorf("%d are known", len(e.known))
	}
	clear(e.known)
	for i := range maxKnown {
		e.know(at(10+i), long)
	}
	if e.know(at(3), now); verifies(3) {
		t.Error("there is no room for somebody new")
	}
}

// FuzzPacket: whatever comes, and from wherever, nobody is kept waiting, and only
// what can be sent to is told of.
func FuzzPacket(f *testing.F) {
	token, id := wire.PathToken{1}, [stun.TransactionIDSize]byte{2}
	f.Add(wire.AppendPunch(nil, token, wire.PunchPing), uint16(4000))
	f.Add(wire.AppendPunch(nil, token, wire.PunchPong), uint16(1000))
	f.Add(wire.AppendPunch(nil, wire.PathToken{}, wire.PunchPing), uint16(4000))
	for _, ip := range []net.IP{net.IPv4(192, 0, 2, 1), net.ParseIP("2001:db8::1"), net.ParseIP("::ffff:192.0.2.1").To16()} {
		f.Add(stun.MustBuild(stun.NewTransactionIDSetter(id), stun.BindingSuccess, &stun.XORMappedAddress{IP: ip, Port: 7}).Raw, uint16(3478))
	}
	peers := []netip.AddrPort{netip.MustParseAddrPort("127.0.0.1:4000"), netip.MustParseAddrPort("192.0.2.1:22")}
	f.Fuzz(func(t *testing.T, p []byte, port uint16) {
		e := &Endpoint{ // whose budget allows no packet
			stun: make(map[[stun.TransactionIDSize]byte]func(netip.AddrPort)), punches: make(map[wire.PathToken]*Punch), known: make(map[netip.AddrPort]time.Time),
		}
		punch, err := e.Punch("", token, here, peers)
		if err != nil {
			t.Fatal(err)
		}
		e.expect(id, func(at netip.AddrPort) {
			if !at.IsValid() || at.Port() == 0 || at.Addr().Is4In6() {
				t.Errorf("seen at %s", at)
			}
		})
		for i := range 2 * uint16(cap(punch.heard)) {
			e.packet(p, netip.AddrPortFrom(peers[0].Addr(), port+i))
		}
		if n := len(punch.heard); n > len(peers)+maxReflexive {
			t.Errorf("%d addresses were heard of", n)
		}
		for len(punch.heard) > 0 {
			if at := <-punch.heard; !here.Allows(at) {
				t.Errorf("%s was heard of", at)
			}
		}
	})
}

func TestWatch(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	if _, err := Watch(ctx); err != nil {
		t.Error(err)
	}
}
