//go:build !js && !wasip1

package link

import (
	"bytes"
	"context"
	"crypto/rand"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pion/stun/v3"

	"github.com/drv-thru/drv-thru/core/link/linktest"
	"github.com/drv-thru/drv-thru/core/wire"
)

// Of two names each has its turn before one's other addresses, of which one may be dead.
func TestSTUNServersInTurn(t *testing.T) {
	at := netip.MustParseAddrPort
	got := inTurn([][]netip.AddrPort{
		{at("192.0.2.1:1"), at("192.0.2.2:1"), at("[2001:db8::1]:1"), at("[2001:db8::2]:1")},
		{at("192.0.2.3:1")},
	})
	const want = "[192.0.2.1:1 [2001:db8::1]:1 192.0.2.3:1 192.0.2.2:1 [2001:db8::2]:1]"
	if fmt.Sprint(got) != want {
		t.Errorf("got %v", got)
	}
}

// Silence of STUN servers at both ends is no proof that a network lets no UDP through:
// it may be the relay's port that is closed.
func TestWhyNoSTUN(t *testing.T) {
	for _, c := range []struct {
		here, there wire.NAT
		want        string
	}{
		{wire.NATBlocked, wire.NATBlocked, "no STUN server answers"},
		{wire.NATBlocked, wire.NATCone, "this network"},
		{wire.NATCone, wire.NATBlocked, "the builder's network"},
	} {
		f := search{tried: true, nat: c.here, answer: &wire.PathAnswer{NAT: c.there}, lastErr: errNoPacket}
		if got := f.why(); !strings.Contains(got, c.want) {
			t.Errorf("%s here and %s there: %s", c.here, c.there, got)
		}
	}
}

// A router may have got another address when a direct path is lost: the next search names
// what others see now.
func TestLostPathIsSoughtFromTheNewAddress(t *testing.T) {
	before, after := netip.MustParseAddrPort("198.51.100.1:5000"), netip.MustParseAddrPort("198.51.100.2:5000")
	var outside atomic.Pointer[netip.AddrPort]
	outside.Store(&before)
	var named atomic.Pointer[[]netip.AddrPort]
	b := serveDirect(t, func(cfg *DirectConfig) {
		cfg.Authorize = func(r *http.Request) (string, error) {
			if r.Method != http.MethodPost {
				return "", nil
			}
			text, err := io.ReadAll(r.Body)
			if err != nil {
				return "", err
			}
			r.Body = io.NopCloser(bytes.NewReader(text))
			req, err := wire.ParsePathRequest(text)
			named.Store(&req.Candidates)
			return "", err
		}
	})
	b.unlimited()
	s, err := newSession(t.Context(), Config{
		Identity: secret(t, 1), Peer: secret(t, 2).ID(),
		Direct: &Direct{Rand: rand.Reader, loopback: true, patient: true, STUN: []string{serveSTUN(t, &outside)}},
	}, []dialer{&relayed{wayTo{network: &b.network, address: "b"}}})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	s.start(func() { _, _ = get(s.Control(), "x") }) // opens the session
	seen := func(at netip.AddrPort) {
		t.Helper()
		// A busy machine may be late with an answer once.
		for range 10 {
			s.waitFor(t, PathDirectTCP)
			if slices.Contains(*named.Load(), at) {
				return
			}
			s.loseDirect()
		}
		t.Errorf("no exchange names %s", at)
	}
	seen(before)
	outside.Store(&after)
	s.loseDirect()
	seen(after)
}

// A path by TCP is worth a short wait, and what is not taken is closed.
func TestFirstWay(t *testing.T) {
	const soon = preferTCP / 2
	type offered struct {
		after time.Duration
		kind  PathKind // "": there is none by TCP
	}
	for name, c := range map[string]struct {
		offers []offered
		want   PathKind
		took   time.Duration
		lost   []PathKind
	}{
		"TCP":                {[]offered{{soon, PathDirectTCP}}, PathDirectTCP, soon, nil},
		"QUIC":               {[]offered{{soon, PathDirectQUIC}}, PathDirectQUIC, soon + preferTCP, nil},
		"QUIC, then TCP":     {[]offered{{0, PathDirectQUIC}, {soon, PathDirectTCP}}, PathDirectTCP, soon, []PathKind{PathDirectQUIC}},
		"QUIC, TCP too late": {[]offered{{0, PathDirectQUIC}, {2 * preferTCP, PathDirectTCP}}, PathDirectQUIC, preferTCP, []PathKind{PathDirectTCP}},
		"QUIC, then no TCP":  {[]offered{{0, PathDirectQUIC}, {soon, ""}}, PathDirectQUIC, soon, nil},
		"no TCP, then QUIC":  {[]offered{{0, ""}, {soon, PathDirectQUIC}}, PathDirectQUIC, soon, nil},
		"TCP, then QUIC":     {[]offered{{0, PathDirectTCP}, {soon, PathDirectQUIC}}, PathDirectTCP, 0, []PathKind{PathDirectQUIC}},
		"QUIC twice":         {[]offered{{0, PathDirectQUIC}, {soon, PathDirectQUIC}}, PathDirectQUIC, soon, []PathKind{PathDirectQUIC}},
		"QUIC in the end":    {[]offered{{searchTime - soon, PathDirectQUIC}}, PathDirectQUIC, searchTime, nil},
		"nothing":            {[]offered{{0, ""}}, "", searchTime, nil},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctx, cancel := context.WithTimeout(t.Context(), searchTime)
				defer cancel()
				found := make(chan *way)
				lost := make(chan PathKind, len(c.offers))
				var offers sync.WaitGroup
				for _, o := range c.offers {
					offers.Go(func() {
						time.Sleep(o.after)
						if o.kind == "" {
							offer(ctx, nil, found)
							return
						}
						offer(ctx, &way{path: func() Path { return Path{Kind: o.kind} }, close: func() { lost <- o.kind }}, found)
					})
				}
				f := &search{s: &Session{cfg: Config{Direct: &Direct{}}}}
				begin := time.Now()
				w := f.first(ctx, found)
				took := time.Since(begin)
				cancel()
				offers.Wait()
				close(lost)
				var got PathKind
				if w != nil {
					got = w.path().Kind
				}
				if got != c.want || took != c.took {
					t.Errorf("%q after %s, want %q after %s", got, took, c.want, c.took)
				}
				var closed []PathKind
				for kind := range lost {
					closed = append(closed, kind)
				}
				if !slices.Equal(closed, c.lost) {
					t.Errorf("closed %v, want %v", closed, c.lost)
				}
			})
		})
	}
}

// After a change of the network it is known soon what is lost with it; what carries
// nothing is not trusted any more.
func TestWhatAChangeLeaves(t *testing.T) {
	inPool(t, 0, func(t *testing.T, b *bench) {
		var answers atomic.Bool
		lost := make(chan struct{})
		direct := &way{
			control: roundTripper(func(req *http.Request) (*http.Response, error) {
				if answers.Load() {
					return &http.Response{Body: http.NoBody}, nil
				}
				<-req.Context().Done()
				return nil, req.Context().Err()
			}),
			moving: func() func() bool { return func() bool { return false } },
			close:  func() { close(lost) },
		}
		f := &search{s: b.Session}
		idle := func() {
			// Two at once leave one that is idle beside one that is not.
			held := b.begin(t.Context(), "second")
			b.want("")
			time.Sleep(time.Second / 2)
			b.want("")
			if err := <-held; err != nil {
				t.Error(err)
			}
		}
		idle()
		held := b.begin(t.Context(), "hold")
		conn := func() (*http.ClientConn, int) {
			b.control.mu.Lock()
			defer b.control.mu.Unlock()
			b.bulk.mu.Lock()
			defer b.bulk.mu.Unlock()
			return b.control.cc, len(b.bulk.conns)
		}
		control, n := conn()
		if n != 2 {
			t.Errorf("%d connections for bulk", n)
		}
		answers.Store(true)
		f.recheck(t.Context(), direct)
		if again, n := conn(); again != control || n != 1 {
			t.Errorf("%d connections are left, the one for small requests among them: %t", n, again == control)
		}
		select {
		case <-lost:
			t.Error("a path that answers was given up")
		default:
		}
		small := make(chan error, 1)
		go func() {
			_, err := get(b.Control(), "hold")
			small <- err
		}()
		synctest.Wait()
		begin := time.Now()
		b.listen.Silence()
		answers.Store(false)
		close(b.release) // for those that are repeated
		f.recheck(t.Context(), direct)
		if took := time.Since(begin); took > pingTimeout {
			t.Errorf("it took %s", took)
		}
		<-lost
		for _, done := range []<-chan error{small, held} {
			if err := <-done; err != nil {
				t.Error(err)
			}
		}
		if took := time.Since(begin); took > pingTimeout+2*time.Second {
			t.Errorf("what was under way ended after %s", took)
		}
		if slices.Contains(b.way.wells[:1], false) {
			t.Error("a connection that carried nothing counts against its path")
		}
	})
}

// serveSTUN answers STUN requests with an address and returns where.
func serveSTUN(t *testing.T, at *atomic.Pointer[netip.AddrPort]) string {
	t.Helper()
	c, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.MustParseAddrPort("127.0.0.1:0")))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	go linktest.ServeSTUN(c, func(*stun.Message, netip.AddrPort) netip.AddrPort { return *at.Load() })
	return c.LocalAddr().String()
}
