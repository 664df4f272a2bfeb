//go:build e2e

package e2e

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"net"
	"net/http"
	"net/netip"
	"testing"
	"time"

	"github.com/drv-thru/drv-thru/core/ticket"
	"github.com/drv-thru/drv-thru/core/wire"
	"github.com/drv-thru/drv-thru/e2e/lab"
)

// What a builder may send at the word of its clients, all of them together: a
// burst, and so many packets a second from then on (core/link/direct).
const (
	mostPunches    = 800
	punchesASecond = 400
	// punchPacket is a packet with the headers of IPv4 and UDP.
	punchPacket = 20 + 8 + wire.PunchSize
	// exchangesAtOnce are the exchanges of one client in a row.
	exchangesAtOnce = 8
)

// A holder of a ticket who names addresses that are not its own makes no scanner
// and no amplifier of the builder: what its host really sends is counted.
func (n *natLab) forgeries(t *testing.T) {
	victim := netip.MustParseAddr("198.51.100.200")
	var never, reached []netip.AddrPort
	for _, text := range []string{
		"127.0.0.1:40000", "127.9.9.9:40000", "[::1]:40000", "0.0.0.0:40000", "[::ffff:127.0.0.1]:40000", "169.254.169.254:40000",
		"224.0.0.1:40000", "239.255.255.250:40000", "[ff02::1]:40000", "255.255.255.255:40000", "198.51.100.255:40000", "198.51.100.0:40000",
		"10.1.2.3:40000", "192.168.1.1:40000", "172.16.3.4:40000", "198.51.100.200:999",
	} {
		never = append(never, netip.MustParseAddrPort(text))
	}
	for i := range wire.MaxCandidates {
		reached = append(reached, netip.AddrPortFrom(victim, uint16(41000+i)))
	}
	n.in.Watch(n.builder, map[string]string{
		"never":  "udp dport { 999, 40000 }",
		"victim": "ip daddr " + victim.String() + " udp dport 41000-41015",
	})
	began := time.Now()
	taken, refused := 0, 0
	for range 3 {
		forger := n.stranger(t)
		for i := range exchangesAtOnce + 4 {
			list := reached
			if i%2 == 0 {
				list = never
			}
			switch a := forger.exchange(list); {
			case a.status == http.StatusOK:
				taken++
			case a.code == wire.CodeRate:
				refused++
			default:
				t.Fatalf("an exchange is answered with %d %s", a.status, a.text)
			}
		}
	}
	if a := n.stranger(t).exchange(append(reached, never...)); a.code != wire.CodeBadRequest {
		t.Errorf("a list of %d addresses is answered with %d %s", len(reached)+len(never), a.status, a.text)
	}
	if refused == 0 {
		t.Errorf("all of %d exchanges were taken", taken)
	}
	// All packets of an exchange are sent within five seconds of it.
	var sent map[string]lab.Counter
	still := func() bool {
		before := sent["victim"].Packets
		sent = n.in.Watched(n.builder)
		return sent["victim"].Packets == before
	}
	still()
	for quiet := 0; quiet < 4; {
		<-time.After(500 * time.Millisecond)
		if still() {
			quiet++
		} else {
			quiet = 0
		}
	}
	most := int64(mostPunches + punchesASecond*time.Since(began).Seconds())
	t.Logf("%d exchanges taken, %d refused; %d packets to the victim, at most %d are allowed", taken, refused, sent["victim"].Packets, most)
	if got := sent["victim"]; got.Packets == 0 || got.Packets > most || got.Bytes != got.Packets*punchPacket {
		t.Errorf("the victim got %+v", got)
	}
	if got := sent["never"]; got.Packets != 0 {
		t.Errorf("%d packets went where none may go", got.Packets)
	}
	// An honest client is served meanwhile and after.
	out, err := n.build(false, lab.Concat("honest", "forged")).CombinedOutput()
	if err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}

// stranger is a peer of its own that connects from the internet's own machine.
func (n *natLab) stranger(t *testing.T) *peer {
	t.Helper()
	tk, err := ticket.Parse(n.ticket)
	if err != nil {
		t.Fatal(err)
	}
	p := &peer{t: t, ticket: tk, id: someKey(t), auth: "Bearer " + tk.Secret.Text()}
	p.network.DialContext = func(_ context.Context, network, address string) (c net.Conn, err error) {
		err = n.in.Do(func() error {
			c, err = net.DialTimeout(network, address, patience)
			return err
		})
		return c, err
	}
	p.session = p.dial()
	return p
}

// exchange names addresses to the builder.
func (p *peer) exchange(candidates []netip.AddrPort) answer {
	p.t.Helper()
	r := wire.PathRequest{NAT: wire.NATCone, Candidates: candidates}
	_, _ = rand.Read(r.Token[:])
	body, err := json.Marshal(r)
	if err != nil {
		p.t.Fatal(err)
	}
	return p.ask(http.MethodPost, wire.RoutePath, bytes.NewReader(body), "Content-Type", wire.TypeJSON)
}
