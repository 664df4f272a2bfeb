//go:build !js && !wasip1

package link

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/quic-go/quic-go/http3"

	"github.com/drv-thru/drv-thru/core/key"
	"github.com/drv-thru/drv-thru/core/link/direct"
)

// Who may not use the builder gets no further than the first refusal.
func TestStrangers(t *testing.T) {
	b := serveDirect(t, nil)
	at := netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), b.listen.Port())
	conn, err := attempt(t.Context(), secret(t, 9), secret(t, 2).ID(), protoControl, tcpDialer{at})
	if err != nil {
		t.Fatal(err)
	}
	cc, err := clientConn(t.Context(), conn, protoControl)
	if err != nil {
		t.Fatal(err)
	}
	defer cc.Close()
	for _, path := range []string{"x", "v1/path"} {
		req, err := http.NewRequest(http.MethodGet, BaseURL+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := cc.RoundTrip(req)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != http.StatusUnauthorized {
			t.Errorf("%s: %s", path, resp.Status)
		}
	}
	b.listen.acquaintances.mu.Lock()
	defer b.listen.acquaintances.mu.Unlock()
	if len(b.listen.known) != 0 {
		t.Error("the stranger is known")
	}
}

func TestArrivals(t *testing.T) {
	ended := false
	a := &arrival{}
	a.expel(func() { ended = true })
	if !ended {
		t.Error("a stranger stays")
	}
	a.settle()
	a.expel(func() { t.Error("one who may stay goes") })

	d := &DirectListener{}
	now := time.Now()
	for i := range maxKnownClients + 10 {
		d.know(key.ID{byte(i), byte(i >> 8), 1}, now)
	}
	if len(d.known) != maxKnownClients {
		t.Errorf("%d clients are remembered", len(d.known))
	}
	// Nobody is forgotten before the time.
	later := now.Add(knownClientFor + 1)
	d.know(key.ID{1}, later)
	if _, known := d.known[key.ID{1}]; !known || len(d.known) != 1 {
		t.Errorf("%d clients are remembered when the time of the others is over", len(d.known))
	}
}

func TestLimiter(t *testing.T) {
	var l limiter
	now := time.Now()
	host := netip.MustParseAddr("2001:db8::1")
	var leave func()
	n := 0
	for range 1000 {
		// Slowly enough for the rate.
		now = now.Add(time.Second)
		next, err := l.enter(host, now)
		if err != nil {
			break
		}
		leave, host = next, host.Next() // of the same /64
		n++
	}
	if n != maxDirectPerHost {
		t.Errorf("%d connections from one network", n)
	}
	leave()
	if _, err := l.enter(host, now.Add(time.Second)); err != nil {
		t.Errorf("no place after one has left: %v", err)
	}
	now = now.Add(time.Hour)
	if _, err := l.enter(host, now); err == nil {
		t.Error("two places after one has left")
	}
	for _, other := range []string{"192.0.2.1", "2001:db8:0:1::1"} {
		if _, err := l.enter(netip.MustParseAddr(other), now); err != nil {
			t.Errorf("%s is refused, too: %v", other, err)
		}
	}
	n = 0
	for range 1000 {
		next, err := l.enter(netip.MustParseAddr("192.0.2.9"), now)
		if err != nil {
			break
		}
		next()
		n++
	}
	if n != handshakeBurstEach {
		t.Errorf("%d handshakes at once from one host", n)
	}
}

// There are so many places for all, and who has left is forgotten.
func TestLimiterOfAll(t *testing.T) {
	var l limiter
	now, hosts := time.Now(), 0
	enter := func() (func(), error) {
		now = now.Add(time.Second)
		hosts++
		return l.enter(netip.AddrFrom4([4]byte{10, byte(hosts >> 8), byte(hosts), 1}), now)
	}
	var leave []func()
	for range maxDirect {
		one, err := enter()
		if err != nil {
			t.Fatalf("host %d is refused: %v", hosts, err)
		}
		leave = append(leave, one)
	}
	if _, err := enter(); err == nil {
		t.Error("one too many comes in")
	}
	leave[0]()
	one, err := enter()
	if err != nil {
		t.Fatalf("no place after one has left: %v", err)
	}
	if _, err := enter(); err == nil {
		t.Error("two places after one has left")
	}
	leave[0] = one
	for _, one := range leave {
		one()
	}
	if l.total != 0 || len(l.hosts) != 0 {
		t.Errorf("all have left: %d of %d hosts are counted", l.total, len(l.hosts))
	}
}

// Who has not proved useful in time is sent away, unless the builder knows who it is.
func TestTimeForStrangers(t *testing.T) {
	cert, err := secret(t, 1).Certificate()
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(cert.Certificate[0])
	if err != nil {
		t.Fatal(err)
	}
	client := tls.ConnectionState{PeerCertificates: []*x509.Certificate{leaf}}
	for name, c := range map[string]struct {
		state tls.ConnectionState
		known time.Duration // so long ago, 0: never
		soon  bool          // it becomes known by another connection
		ends  time.Duration // 0: it stays
	}{
		"nobody":               {state: tls.ConnectionState{}, ends: time.Nanosecond},
		"a stranger":           {state: client, ends: strangerTime},
		"a client":             {state: client, known: time.Minute},
		"a client of long ago": {state: client, known: knownClientFor, ends: strangerTime},
		"a new client":         {state: client, soon: true},
	} {
		synctest.Test(t, func(t *testing.T) {
			d := &DirectListener{}
			begin := time.Now()
			if c.known != 0 {
				d.know(secret(t, 1).ID(), begin.Add(-c.known))
			}
			var ended time.Duration
			d.limit(&arrival{}, c.state, func() { ended = max(time.Since(begin), 1) })
			if c.soon {
				d.know(secret(t, 1).ID(), begin)
			}
			time.Sleep(2 * strangerTime)
			synctest.Wait()
			if ended != c.ends {
				t.Errorf("%s: ended after %s, want %s", name, ended, c.ends)
			}
		})
	}
}

// A connection gives its places back, whatever becomes of it.
func TestGateGivesPlacesBack(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	cfg, err := secret(t, 2).ServerTLS()
	if err != nil {
		t.Fatal(err)
	}
	var limit limiter
	g := newGate(l, circuitTLS(cfg, protoBulk), &limit)
	g.slots = make(chan struct{}, 1) // one handshake at a time
	g.arrive = func(*arrival, tls.ConnectionState, func()) {}
	var work sync.WaitGroup
	work.Go(func() { g.run(t.Context()) })
	defer work.Wait()
	defer g.Close()
	dial := func() net.Conn {
		c, err := net.Dial("tcp", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = c.Close() })
		_ = c.SetDeadline(time.Now().Add(enough))
		return c
	}
	// ends waits until the builder has closed a connection.
	ends := func(what string, c net.Conn) {
		t.Helper()
		if _, err := io.Copy(io.Discard, c); errors.Is(err, os.ErrDeadlineExceeded) {
			t.Fatalf("%s: the connection stays", what)
		}
	}
	host := netip.MustParsePrefix("127.0.0.1/32")
	full := func(n int) {
		limit.mu.Lock()
		defer limit.mu.Unlock()
		if limit.hosts == nil {
			limit.hosts = map[netip.Prefix]int{}
			limit.quota.PerSecond, limit.quota.Burst = 1e6, 1e6
		}
		limit.hosts[host] = n
	}
	for range 2 {
		full(maxDirectPerHost)
		ends("no place", dial())
		full(0)
		c := dial()
		_, _ = io.WriteString(c, "GET / HTTP/1.1\r\n\r\n")
		ends("no TLS", c)
		cfg, err := secret(t, 1).ClientTLS(secret(t, 2).ID())
		if err != nil {
			t.Fatal(err)
		}
		if err := tls.Client(dial(), circuitTLS(cfg, protoBulk)).Handshake(); err != nil {
			t.Fatal(err)
		}
		accepted, err := g.Accept()
		if err != nil {
			t.Fatal(err)
		}
		_ = accepted.Close()
	}
	limit.mu.Lock()
	defer limit.mu.Unlock()
	if limit.total != 0 {
		t.Errorf("%d connections are counted", limit.total)
	}
}

// A connection by QUIC takes a place, too, and gives it back.
func TestPlacesByQUIC(t *testing.T) {
	b := serveDirect(t, nil)
	b.unlimited()
	limit, host := &b.listen.gate, netip.MustParsePrefix("127.0.0.1/32")
	places := func(n int) {
		limit.mu.Lock()
		defer limit.mu.Unlock()
		limit.hosts[host] = n
	}
	e, err := direct.Open(netip.MustParseAddrPort("127.0.0.1:0"), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer e.Close()
	cfg, err := secret(t, 1).ClientTLS(secret(t, 2).ID())
	if err != nil {
		t.Fatal(err)
	}
	cfg.NextProtos = []string{http3.NextProtoH3}
	at := netip.AddrPortFrom(host.Addr(), b.listen.Port())
	places(maxDirectPerHost)
	if _, err := e.Dial(t.Context(), at, cfg); err == nil {
		t.Error("one too many comes in")
	}
	places(0)
	conn, err := e.Dial(t.Context(), at, cfg)
	if err != nil {
		t.Fatal(err)
	}
	_ = conn.CloseWithError(0, "")
	for deadline := time.Now().Add(enough); ; <-time.After(5 * time.Millisecond) {
		limit.mu.Lock()
		n := limit.total
		limit.mu.Unlock()
		if n == 0 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("%d connections are counted", n)
		}
	}
}

// A handshake that is not finished holds a place for a bounded time only, and
// nobody else up.
func TestUnfinishedHandshakes(t *testing.T) {
	b := serveDirect(t, nil)
	at := netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), b.listen.Port())
	for range handshakeBurstEach / 2 {
		var d net.Dialer
		c, err := d.DialContext(t.Context(), "tcp", at.String())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
	}
	conn, err := attempt(t.Context(), secret(t, 1), secret(t, 2).ID(), protoControl, tcpDialer{at})
	if err != nil {
		t.Fatal(err)
	}
	if s := conn.ConnectionState(); s.Version != tls.VersionTLS13 || s.NegotiatedProtocol != protoControl {
		t.Errorf("got %+v", s)
	}
	conn.Close()
}

// given is a net.Listener of connections that a test gives it.
type given struct {
	conns chan net.Conn
	done  chan struct{}
	once  sync.Once
}

func (l *given) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.done:
		return nil, net.ErrClosed
	}
}

func (l *given) Close() error {
	l.once.Do(func() { close(l.done) })
	return nil
}

func (*given) Addr() net.Addr { return &net.TCPAddr{} }

// comesFrom is a connection from an address.
type comesFrom struct {
	net.Conn
	ip string
}

func (c comesFrom) RemoteAddr() net.Addr { return &net.TCPAddr{IP: net.ParseIP(c.ip), Port: 1} }

// One host's handshakes that do not go on leave room for those of others.
func TestHandshakesOfOneHost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg, err := secret(t, 2).ServerTLS()
		if err != nil {
			t.Fatal(err)
		}
		l := &given{conns: make(chan net.Conn), done: make(chan struct{})}
		g := newGate(l, circuitTLS(cfg, protoControl), &limiter{})
		g.arrive = func(*arrival, tls.ConnectionState, func()) {}
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			g.run(t.Context())
		}()
		come := func(ip string) net.Conn {
			client, server := net.Pipe()
			l.conns <- comesFrom{server, ip}
			return client
		}
		for range maxDirectPerHost {
			defer come("192.0.2.1").Close()
			time.Sleep(time.Second / handshakesEach)
		}
		begin := time.Now()
		clientTLS, err := secret(t, 1).ClientTLS(secret(t, 2).ID())
		if err != nil {
			t.Fatal(err)
		}
		client := tls.Client(come("192.0.2.2"), circuitTLS(clientTLS, protoControl))
		if err := client.Handshake(); err != nil {
			t.Error(err)
		}
		if took := time.Since(begin); took > 0 {
			t.Errorf("another host waited for %s", took)
		}
		conn, err := g.Accept()
		if err != nil {
			t.Fatal(err)
		}
		go conn.Close()
		_, _ = io.Copy(io.Discard, client)
		client.Close()
		_ = g.Close()
		<-ended
	})
}

// A direct connection has to prove itself useful in time, by whichever protocol.
func TestDirectConnectionsHaveATimeLimit(t *testing.T) {
	limited := make(chan bool, 1)
	b := serveDirect(t, func(cfg *DirectConfig) {
		cfg.Authorize = func(r *http.Request) (string, error) {
			a := arrivalOf(r.Context())
			a.mu.Lock()
			defer a.mu.Unlock()
			limited <- a.timer != nil
			return "", errStranger
		}
	})
	at := netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), b.listen.Port())
	for kind, connect := range map[PathKind]func() (http.RoundTripper, error){
		PathDirectTCP: func() (http.RoundTripper, error) {
			conn, err := attempt(t.Context(), secret(t, 9), secret(t, 2).ID(), protoControl, tcpDialer{at})
			if err != nil {
				return nil, err
			}
			return clientConn(t.Context(), conn, protoControl)
		},
		PathDirectQUIC: func() (http.RoundTripper, error) {
			e, err := direct.Open(netip.MustParseAddrPort("127.0.0.1:0"), nil)
			if err != nil {
				return nil, err
			}
			t.Cleanup(func() { _ = e.Close() })
			cfg, err := secret(t, 9).ClientTLS(secret(t, 2).ID())
			if err != nil {
				return nil, err
			}
			cfg.NextProtos = []string{http3.NextProtoH3}
			conn, err := e.Dial(t.Context(), at, cfg)
			if err != nil {
				return nil, err
			}
			return quicWay(conn, Path{Kind: PathDirectQUIC}).control, nil
		},
	} {
		rt, err := connect()
		if err != nil {
			t.Fatal(err)
		}
		if text, err := get(rt, "x"); err != nil {
			t.Fatalf("%s: got %q, %v", kind, text, err)
		}
		if !<-limited {
			t.Errorf("%s: whoever connects may stay", kind)
		}
	}
}
