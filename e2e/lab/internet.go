//go:build linux

package lab

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net"
	"net/netip"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"syscall"

	"github.com/pion/stun/v3"

	"github.com/drv-thru/drv-thru/core/link/linktest"
)

// A Network is what a host is plugged into.
type Network string

// The networks. Behind all but the first is a router that translates
// addresses and lets nothing in that nobody asked for.
const (
	Open      Network = "open"      // the host's address is everybody's
	Cone      Network = "cone"      // one outer port for every peer
	Symmetric Network = "symmetric" // another outer port for every peer
	Blocked   Network = "blocked"   // cone, and UDP is dropped
	ProxyOnly Network = "proxy"     // nothing passes but an HTTP proxy
)

// Networks lists the networks of clients.
var Networks = []Network{Open, Cone, Symmetric, Blocked, ProxyOnly}

// The addresses of the internet's one machine. Sites get those from .11 on.
const (
	internet4 = "198.51.100."
	internet6 = "2001:db8::"
)

// An Internet connects hosts that have network namespaces of their own: a switch,
// and on it one machine with a relay, two STUN servers and an HTTP proxy.
type Internet struct {
	*Host
	mu    sync.Mutex
	sites int
}

// NewInternet makes one. It needs ip and nft.
func NewInternet(t T, root Root) *Internet {
	t.Helper()
	in := &Internet{Host: NewHost(t, root, WithName("internet"), WithNetns())}
	// A bridge without an address of its own takes that of a port, and changes it
	// when ports come and go: neighbours would send to the old one for a while.
	in.script(in.pid, `
		ip link add br0 address 02:00:00:00:00:01 type bridge
		ip link set br0 up
		for n in 1 2 3; do
			ip addr add `+internet4+`$n/24 dev br0
			ip addr add `+internet6+`$n/64 dev br0 nodad
		done`)
	for _, a := range []string{internet4 + "1", internet4 + "2", internet6 + "1", internet6 + "2"} {
		in.serveSTUN(a)
	}
	for _, a := range []string{internet4 + "3", internet6 + "3"} {
		in.serveProxy(a)
	}
	return in
}

// Address is the address of the internet's machine: 1 for the relay, 1 and 2 for
// STUN, 3 for the proxy.
func (in *Internet) Address(n int, v6 bool) string {
	if v6 {
		return internet6 + strconv.Itoa(n)
	}
	return internet4 + strconv.Itoa(n)
}

// STUN are the flags of drv-thru that name the STUN servers.
func (in *Internet) STUN(v6 bool) []string {
	var flags []string
	for n := 1; n <= 2; n++ {
		flags = append(flags, "--stun", net.JoinHostPort(in.Address(n, v6), "3478"))
	}
	return flags
}

// ProxyEnv makes a program use the proxy.
func (in *Internet) ProxyEnv(v6 bool) []string {
	url := "http://" + net.JoinHostPort(in.Address(3, v6), "3128")
	return []string{"HTTP_PROXY=" + url, "HTTPS_PROXY=" + url, "http_proxy=" + url, "https_proxy=" + url}
}

// StartRelay runs a relay on the internet's machine.
func (in *Internet) StartRelay(v6 bool) *Relay {
	in.t.Helper()
	addr := net.JoinHostPort(in.Address(1, v6), strconv.Itoa(in.FreePort()))
	r := &Relay{URL: "http://" + addr, host: in.Host, args: []string{"drv-thru-relay", "--listen", addr, "--hostname", addr}}
	Programs(in.t)
	r.Start()
	return r
}

// A Site is where a host is plugged in.
type Site struct {
	// Address is the address that others see.
	Address string

	in     *Internet
	host   *Host
	link   string // the wire's end at the host
	left   int64  // by it when Count was called
	router *exec.Cmd
}

const siteRules = `
	table inet site {
		chain post { type nat hook postrouting priority srcnat; %s }
		chain in { type filter hook input priority filter; icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert } accept; iifname "wan" ct state new drop; }
		chain through { type filter hook forward priority filter; iifname "wan" ct state new drop; %s }
	}`

// Plug connects a host, which has no other network, to the internet by one of the
// networks, for IPv4 or for IPv6.
func (in *Internet) Plug(h *Host, n Network, v6 bool) *Site {
	in.t.Helper()
	in.mu.Lock()
	in.sites++
	id := in.sites
	in.mu.Unlock()
	number := strconv.Itoa(10 + id%200)
	outer, bits, gateway, inner, via, ibits := internet4+number, "/24", internet4+"1", "192.168."+number+".2", "192.168."+number+".1", "/24"
	if v6 {
		outer, bits, gateway, inner, via, ibits = internet6+number, "/64", internet6+"1", "fd00:"+number+"::2", "fd00:"+number+"::1", "/64"
	}
	s := &Site{Address: outer, in: in, host: h, link: "net0"}
	if n == Open {
		s.wire(in.pid, "p"+strconv.Itoa(id), h.pid, s.link)
		in.script(in.pid, "ip link set p"+strconv.Itoa(id)+" master br0 up")
		in.script(h.pid, "ip link set net0 up\nip addr add "+outer+bits+" dev net0 nodad\nip route add default via "+gateway)
		return s
	}
	s.router = in.namespace()
	r := s.router.Process.Pid
	s.wire(in.pid, "p"+strconv.Itoa(id), r, "wan")
	in.script(in.pid, "ip link set p"+strconv.Itoa(id)+" master br0 up")
	s.wire(r, "lan", h.pid, s.link)
	in.script(r, `
		ip link set lo up
		ip link set wan up
		ip link set lan up
		ip addr add `+outer+bits+` dev wan nodad
		ip addr add `+via+ibits+` dev lan nodad
		ip route add default via `+gateway+`
		echo 1 > /proc/sys/net/ipv4/ip_forward
		echo 1 > /proc/sys/net/ipv6/conf/all/forwarding`)
	in.script(h.pid, "ip link set net0 up\nip addr add "+inner+ibits+" dev net0 nodad\nip route add default via "+via)
	masquerade, drop := `oifname "wan" masquerade;`, ""
	switch n {
	case Symmetric:
		masquerade = `oifname "wan" masquerade fully-random;`
	case Blocked:
		drop = "meta l4proto udp drop;"
	case ProxyOnly:
		drop = `iifname "lan" ip daddr != ` + internet4 + `3 drop; iifname "lan" ip6 daddr != ` + internet6 + `3 drop; meta l4proto udp drop;`
	}
	in.rules(r, fmt.Sprintf(siteRules, masquerade, drop))
	return s
}

// Unplug takes the host's network away.
func (s *Site) Unplug() {
	s.in.t.Helper()
	s.in.script(s.host.pid, "ip link del "+s.link)
	if s.router != nil {
		_ = s.router.Process.Kill()
		_ = s.router.Wait()
	}
}

// Traffic is the bytes of a host's packets, with their headers: with the
// internet's own machine, through which relays and proxies are reached, and with
// everybody else. What goes out by either may still be dropped by the queue of a
// slow line ([Site.Throttle]); Left is everything that has left the host.
type Traffic struct{ DirectIn, DirectOut, RelayIn, RelayOut, Left int64 }

// Count begins to count the host's packets of TCP and UDP anew: those that arrive and those that
// leave, not what [Site.Cut] drops.
func (s *Site) Count() {
	s.in.t.Helper()
	s.left = s.transmitted()
	chain := func(hook, end, suffix string) string {
		return `chain ` + hook + ` { type filter hook ` + hook + ` priority filter + 10;
			` + map[string]string{"in": "iifname", "out": "oifname"}[suffix] + ` "lo" accept;
			meta l4proto != { tcp, udp } accept;
			ip ` + end + ` ` + internet4 + `1-` + internet4 + `9 counter name relay_` + suffix + ` accept;
			ip6 ` + end + ` ` + internet6 + `1-` + internet6 + `9 counter name relay_` + suffix + ` accept;
			counter name direct_` + suffix + `; }
		`
	}
	s.in.rules(s.host.pid, `table inet count
		delete table inet count
		table inet count {
		counter direct_in {}
		counter direct_out {}
		counter relay_in {}
		counter relay_out {}
		`+chain("input", "saddr", "in")+chain("output", "daddr", "out")+`}`)
}

// Counted is what has been counted.
func (s *Site) Counted() Traffic {
	s.in.t.Helper()
	c := s.in.counters(s.host, "count")
	return Traffic{
		DirectIn: c["direct_in"].Bytes, DirectOut: c["direct_out"].Bytes, RelayIn: c["relay_in"].Bytes, RelayOut: c["relay_out"].Bytes,
		Left: s.transmitted() - s.left,
	}
}

// transmitted is how many bytes have left the host by its link.
func (s *Site) transmitted() int64 {
	s.in.t.Helper()
	var links []struct {
		Stats64 struct{ TX struct{ Bytes int64 } }
	}
	out := s.in.within(s.host.pid, "", "ip", "-j", "-s", "link", "show", s.link)
	if err := json.Unmarshal(out, &links); err != nil || len(links) != 1 {
		s.in.t.Fatalf("lab: ip link: %v\n%s", err, out)
	}
	return links[0].Stats64.TX.Bytes
}

// counters returns the counters of an nft table of a host, "inet" by family.
func (in *Internet) counters(h *Host, table string) map[string]Counter {
	in.t.Helper()
	var doc struct {
		Nftables []struct {
			Counter *struct {
				Name string
				Counter
			}
		}
	}
	out := in.within(h.pid, "", "nft", "-j", "list", "counters", "table", "inet", table)
	if err := json.Unmarshal(out, &doc); err != nil {
		in.t.Fatalf("lab: nft: %v\n%s", err, out)
	}
	counters := make(map[string]Counter)
	for _, x := range doc.Nftables {
		if x.Counter != nil {
			counters[x.Counter.Name] = x.Counter.Counter
		}
	}
	return counters
}

// A Counter counts packets.
type Counter struct{ Packets, Bytes int64 }

// Watch counts the packets that a host sends, by rules of nft: what each of them
// matches is counted by its name.
func (in *Internet) Watch(h *Host, rules map[string]string) {
	in.t.Helper()
	var counters, chain strings.Builder
	for name, rule := range rules {
		fmt.Fprintf(&counters, "counter %s {}\n", name)
		fmt.Fprintf(&chain, "%s counter name %s\n", rule, name)
	}
	in.rules(h.pid, "table inet watch {\n"+counters.String()+"chain out { type filter hook output priority filter;\n"+chain.String()+"}\n}")
}

// Watched returns what [Internet.Watch] has counted.
func (in *Internet) Watched(h *Host) map[string]Counter { return in.counters(h, "watch") }

// Cut drops whatever goes between the host and others than the internet's own
// machine: direct paths die without a word, relays stay.
func (s *Site) Cut() {
	s.in.t.Helper()
	s.in.rules(s.host.pid, `table inet cut {
		chain i { type filter hook input priority filter; iifname "lo" accept; ip saddr != `+internet4+`1-`+internet4+`9 drop; ip6 saddr != `+internet6+`1-`+internet6+`9 drop; }
		chain o { type filter hook output priority filter; oifname "lo" accept; ip daddr != `+internet4+`1-`+internet4+`9 drop; ip6 daddr != `+internet6+`1-`+internet6+`9 drop; }
	}`)
}

// Mend undoes Cut; without one it does nothing.
func (s *Site) Mend() {
	s.in.t.Helper()
	s.in.script(s.host.pid, "nft delete table inet cut 2>/dev/null || true")
}

// Readdress gives the host another address in the place of its own.
func (s *Site) Readdress(to string) {
	s.in.t.Helper()
	s.in.script(s.host.pid, "ip addr flush dev "+s.link+" scope global\nip addr add "+to+"/24 dev "+s.link+"\nip route replace default via "+internet4+"1")
	s.Address = to
}

// Throttle limits what the host sends, in bits a second as tc writes them, to
// everybody or only to others than the internet's machine; "" lifts it.
func (s *Site) Throttle(rate string, everybody bool) {
	s.in.t.Helper()
	s.in.script(s.host.pid, "tc qdisc del dev "+s.link+" root 2>/dev/null || true")
	switch {
	case rate == "":
	case everybody:
		s.in.script(s.host.pid, "tc qdisc add dev "+s.link+" root tbf rate "+rate+" burst 64k latency 50ms")
	default:
		// What is not told apart goes by the slow class.
		s.in.script(s.host.pid, `
		tc qdisc add dev `+s.link+` root handle 1: htb default 20
		tc class add dev `+s.link+` parent 1: classid 1:10 htb rate 10gbit
		tc class add dev `+s.link+` parent 1: classid 1:20 htb rate `+rate+` burst 15k
		tc filter add dev `+s.link+` parent 1: protocol ip u32 match ip dst `+internet4+`0/29 flowid 1:10
		tc filter add dev `+s.link+` parent 1: protocol arp u32 match u32 0 0 flowid 1:10`)
	}
}

// wire connects two network namespaces.
func (s *Site) wire(pidA int, nameA string, pidB int, nameB string) {
	s.in.t.Helper()
	// Both ends are born where they belong: no name of the machine's is taken.
	s.in.script(pidA, fmt.Sprintf("ip link add %s type veth peer name %s netns %d", nameA, nameB, pidB))
}

// namespace makes a network namespace that lives as long as a process.
func (in *Internet) namespace() *exec.Cmd {
	in.t.Helper()
	cmd := exec.Command("sleep", "infinity")
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET, Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		in.t.Fatalf("lab: network namespace: %v", err)
	}
	in.t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	return cmd
}

// script runs a shell script of the machine in the network namespace of a process.
func (in *Internet) script(pid int, text string) { in.within(pid, "set -e\n"+text, "sh") }

// rules loads nft rules there.
func (in *Internet) rules(pid int, text string) { in.within(pid, text, "nft", "-f", "-") }

func (in *Internet) within(pid int, stdin string, argv ...string) []byte {
	in.t.Helper()
	cmd := exec.Command("nsenter", append([]string{"-t", strconv.Itoa(pid), "-n", "--"}, argv...)...)
	cmd.Stdin = strings.NewReader(stdin)
	cmd.Env = []string{"PATH=" + searchPath}
	out, err := cmd.CombinedOutput()
	if err != nil {
		in.t.Fatalf("lab: %v in a network namespace: %v\n%s%s", argv, err, stdin, bytes.TrimSpace(out))
	}
	return out
}

// serveSTUN answers STUN requests (RFC 8489) at an address.
func (in *Internet) serveSTUN(address string) {
	in.t.Helper()
	var c *net.UDPConn
	err := in.Do(func() (err error) {
		c, err = net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(netip.MustParseAddr(address), 3478)))
		return err
	})
	if err != nil {
		in.t.Fatalf("lab: STUN at %s: %v", address, err)
	}
	in.t.Cleanup(func() { c.Close() })
	go linktest.ServeSTUN(c, func(_ *stun.Message, from netip.AddrPort) netip.AddrPort { return from })
}
