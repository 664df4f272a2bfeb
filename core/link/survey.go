//go:build !js && !wasip1

package link

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"time"

	"github.com/drv-thru/drv-thru/core/key"
	"github.com/drv-thru/drv-thru/core/link/direct"
	"github.com/drv-thru/drv-thru/core/link/portmap"
	"github.com/drv-thru/drv-thru/core/link/wsconn"
	"github.com/drv-thru/drv-thru/core/wire"
)

// RelayReport is how a relay answers from here.
type RelayReport struct {
	URL string
	// Latency is how long a circuit to nobody took to be refused: all of the
	// connection's handshakes and one answer.
	Latency time.Duration
	// Skew is how far this machine's clock is ahead of the relay's; it is known
	// to a second if the relay tells its time, which HasTime says.
	Skew    time.Duration
	HasTime bool
	// STUN is where it answers STUN, "" for nowhere.
	STUN string
	// Err is why a client cannot use the relay.
	Err error
}

// CheckRelay finds out whether circuits can be opened through a relay, by asking
// for one to an endpoint that nobody is.
func CheckRelay(ctx context.Context, n Network, relay string, nobody key.ID) RelayReport {
	r := RelayReport{URL: relay}
	relay, r.Err = RelayURL(relay)
	if r.Err != nil {
		return r
	}
	ctx, cancel := context.WithTimeoutCause(ctx, dialTimeout, fmt.Errorf("no answer within %s", dialTimeout))
	defer cancel()
	begin := time.Now()
	d := &relayDialer{network: n, relay: relay, builder: nobody}
	conn, err := d.dial(ctx)
	if err == nil {
		// The refusal may come inside the circuit.
		_ = conn.SetReadDeadline(time.Now().Add(handshakeTimeout))
		_, err = conn.Read(make([]byte, 1))
		_ = conn.Close()
	}
	r.Latency = time.Since(begin)
	if at := d.stun.Load(); at != nil {
		r.STUN = *at
	}
	if wire.CodeOf(err) != wire.CodeRelayNoBuilder {
		r.Err = err
		if err == nil {
			r.Err = errors.New("it opens circuits to builders that do not exist")
		}
	}
	r.Skew, r.HasTime = clockSkew(ctx, n, relay)
	return r
}

// clockSkew compares clocks with a relay.
func clockSkew(ctx context.Context, n Network, relay string) (time.Duration, bool) {
	tr := &http.Transport{Proxy: n.Proxy, TLSClientConfig: n.TLS, DialContext: n.DialContext,
		// A login page that answers HEAD with a body would have net/http print that.
		DisableKeepAlives: true}
	if tr.DialContext == nil {
		tr.DialContext = wsconn.DialHost
	}
	defer tr.CloseIdleConnections()
	req, err := http.NewRequestWithContext(ctx, http.MethodHead, relay+"/healthz", nil)
	if err != nil {
		return 0, false
	}
	begin := time.Now()
	resp, err := tr.RoundTrip(req)
	if err != nil {
		return 0, false
	}
	_ = resp.Body.Close()
	return ClockSkew(resp, begin)
}

// ClockSkew is how far this machine's clock is ahead of the one of whoever has just
// answered a request that began at begin, in whole seconds, by the answer's Date
// (RFC 9110 §6.6.1), if it has one.
func ClockSkew(resp *http.Response, begin time.Time) (skew time.Duration, known bool) {
	at, err := http.ParseTime(resp.Header.Get("Date"))
	if err != nil {
		return 0, false
	}
	// The header has no fractions: half a second is the middle.
	middle := begin.Add(time.Since(begin) / 2)
	return middle.Sub(at.Add(time.Second / 2)).Round(time.Second), true
}

// NetworkReport is what direct paths from here can hope for.
type NetworkReport struct {
	Addresses []netip.AddrPort // this host's own, then as others see it
	NAT       wire.NAT
	// Mapping tells what the router forwards when asked.
	Mapping portmap.Mapping
	Err     error
}

// Survey finds out what direct paths from this host can hope for. A port that
// the router forwards for it is given back.
func Survey(ctx context.Context, stun []string) NetworkReport {
	var r NetworkReport
	e, err := direct.Open(netip.AddrPort{}, nil)
	if err != nil {
		r.Err = err
		return r
	}
	defer e.Close()
	scope, err := direct.LocalScope()
	if err != nil {
		r.Err = err
		return r
	}
	mapped := make(chan struct{})
	go func() {
		defer close(mapped)
		m, release, _ := portmap.Ask(ctx, e.Port())
		r.Mapping = m
		if release != nil {
			release()
		}
	}()
	nat, seen := observe(ctx, e, stun)
	<-mapped
	r.NAT, r.Addresses = nat, direct.Candidates(seen, scope.Addresses(), e.Port())
	return r
}

// Settled waits until the session's search for a direct path has found one or
// given up for now, or ctx ends.
func (s *Session) Settled(ctx context.Context) {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for !s.search.settled() && !s.forControl().direct {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

func (f *search) settled() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.off != "" || f.tried
}
