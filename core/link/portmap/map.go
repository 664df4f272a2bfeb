//go:build !js && !wasip1

package portmap

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"time"

	"github.com/huin/goupnp"
	"github.com/huin/goupnp/dcps/internetgateway2"
	"github.com/jackpal/gateway"
	natpmp "github.com/jackpal/go-nat-pmp"
)

const (
	// lifetime is asked for; it is renewed at half of what is given.
	lifetime = time.Hour
	// pmpTime and upnpTime bound asking by one protocol.
	pmpTime  = 2 * time.Second
	upnpTime = 5 * time.Second
	// tryAgain is the pause after nobody answered.
	tryAgain = 10 * time.Minute
	// leaveTime bounds taking the mappings back at the end.
	leaveTime = time.Second
)

// Mapping is what a router forwards; the zero addresses are not forwarded.
type Mapping struct {
	UDP, TCP netip.AddrPort
	Protocol string // which gave it
	Err      error  // why there is none
}

// String tells how the mapping stands.
func (m Mapping) String() string {
	switch {
	case m.UDP.IsValid():
		return fmt.Sprintf("%s by %s", m.UDP, m.Protocol)
	case m.Err != nil:
		return "none: " + m.Err.Error()
	}
	return "not known yet"
}

// errNobody means that no router answered.
var errNobody = errors.New("no router answers NAT-PMP, PCP or UPnP")

// Keeper keeps a port forwarded.
type Keeper struct {
	port uint16
	log  *slog.Logger
	kick chan struct{}
	done chan struct{}

	mu  sync.Mutex
	now Mapping
}

// Keep forwards a port for UDP and TCP until ctx ends.
func Keep(ctx context.Context, port uint16, log *slog.Logger) *Keeper {
	k := &Keeper{port: port, log: log, kick: make(chan struct{}, 1), done: make(chan struct{})}
	go k.run(ctx, Ask)
	return k
}

// Mapped returns what is forwarded now.
func (k *Keeper) Mapped() Mapping {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.now
}

// Renew asks anew: the network has changed.
func (k *Keeper) Renew() {
	select {
	case k.kick <- struct{}{}:
	default:
	}
}

// Wait waits until the mappings are taken back after ctx has ended.
func (k *Keeper) Wait() { <-k.done }

func (k *Keeper) run(ctx context.Context, ask func(context.Context, uint16) (Mapping, func(), time.Duration)) {
	defer close(k.done)
	// By protocol: a router that did not answer by one in time has given by another,
	// and what it has given stays when it answers no more.
	given := make(map[string]func())
	for {
		m, release, next := ask(ctx, k.port)
		if release != nil {
			given[m.Protocol] = release
		}
		k.mu.Lock()
		changed := m.UDP != k.now.UDP
		k.now = m
		k.mu.Unlock()
		if changed && m.UDP.IsValid() {
			k.log.Info("the router forwards a port", slog.String("mapping", m.String()))
		}
		timer := time.NewTimer(next)
		select {
		case <-timer.C:
		case <-k.kick:
			timer.Stop()
		case <-ctx.Done():
			timer.Stop()
			var leaving sync.WaitGroup
			for _, release := range given {
				leaving.Go(release)
			}
			leaving.Wait()
			return
		}
	}
}

// Ask asks the router once, by every protocol until one works. It returns when
// to ask again, and what takes the mapping back.
func Ask(ctx context.Context, port uint16) (m Mapping, release func(), next time.Duration) {
	return askBy(ctx, port, askPMP, askPCP, askUPnP)
}

// asker asks by one protocol.
type asker func(context.Context, uint16) (Mapping, func(), time.Duration, error)

func askBy(ctx context.Context, port uint16, protocols ...asker) (Mapping, func(), time.Duration) {
	why := errNobody
	for _, ask := range protocols {
		m, release, life, err := ask(ctx, port)
		switch {
		case err == nil:
			return m, release, max(life/2, time.Minute)
		case ctx.Err() != nil:
			return Mapping{Err: context.Cause(ctx)}, nil, tryAgain
		case errors.Is(err, errTranslated), errors.Is(err, errRefused):
			why = err // not the silence of another protocol
		}
	}
	return Mapping{Err: why}, nil, tryAgain
}

// usable reports whether others can reach an address that a router named.
func usable(a netip.Addr) bool {
	return a.IsGlobalUnicast() && !a.IsPrivate() && !netip.PrefixFrom(netip.AddrFrom4([4]byte{100, 64}), 10).Contains(a)
}

var (
	errTranslated = errors.New("the router's own address is translated, too")
	errRefused    = errors.New("the router refuses")
)

// bounded runs what knows no context, for no longer than a time.
func bounded[T any](ctx context.Context, limit time.Duration, f func() (T, error)) (T, error) {
	type result struct {
		v   T
		err error
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	done := make(chan result, 1)
	go func() {
		v, err := f()
		done <- result{v, err}
	}()
	select {
	case r := <-done:
		return r.v, r.err
	case <-ctx.Done():
		var none T
		return none, context.Cause(ctx)
	}
}

func router() (netip.Addr, error) {
	ip, err := gateway.DiscoverGateway()
	if err != nil {
		return netip.Addr{}, err
	}
	a, ok := netip.AddrFromSlice(ip)
	if !ok {
		return a, errNobody
	}
	return a.Unmap(), nil
}

func askPMP(ctx context.Context, port uint16) (Mapping, func(), time.Duration, error) {
	at, err := router()
	if err != nil {
		return Mapping{}, nil, 0, err
	}
	return pmp(ctx, at, port)
}

// pmp asks by NAT-PMP.
func pmp(ctx context.Context, at netip.Addr, port uint16) (Mapping, func(), time.Duration, error) {
	c := natpmp.NewClientWithTimeout(net.IP(at.AsSlice()), pmpTime)
	type answer struct {
		m    Mapping
		life time.Duration
	}
	got, err := bounded(ctx, 2*pmpTime, func() (answer, error) {
		outer, err := c.GetExternalAddress()
		if err != nil {
			return answer{}, err
		}
		a := netip.AddrFrom4(outer.ExternalIPAddress)
		if !usable(a) {
			return answer{}, errTranslated
		}
		udp, err := c.AddPortMapping("udp", int(port), int(port), int(lifetime.Seconds()))
		if err != nil {
			return answer{}, err
		}
		m := Mapping{UDP: netip.AddrPortFrom(a, udp.MappedExternalPort), Protocol: "NAT-PMP"}
		if tcp, err := c.AddPortMapping("tcp", int(port), int(port), int(lifetime.Seconds())); err == nil {
			m.TCP = netip.AddrPortFrom(a, tcp.MappedExternalPort)
		}
		return answer{m, time.Duration(udp.PortMappingLifetimeInSeconds) * time.Second}, nil
	})
	release := func() {
		_, _ = bounded(context.Background(), leaveTime, func() (any, error) {
			_, _ = c.AddPortMapping("udp", int(port), 0, 0)
			return c.AddPortMapping("tcp", int(port), 0, 0)
		})
	}
	return got.m, release, got.life, err
}

// igd is what the services of UPnP routers have in common.
type igd interface {
	GetExternalIPAddressCtx(context.Context) (string, error)
	AddPortMappingCtx(ctx context.Context, remoteHost string, externalPort uint16, protocol string, internalPort uint16,
		internalClient string, enabled bool, description string, leaseSeconds uint32) error
	DeletePortMappingCtx(ctx context.Context, remoteHost string, externalPort uint16, protocol string) error
	LocalAddr() net.IP
}

// services finds the UPnP routers of the network.
func services(ctx context.Context) []igd {
	var found []igd
	if cs, _, err := internetgateway2.NewWANIPConnection2ClientsCtx(ctx); err == nil {
		for _, c := range cs {
			found = append(found, briefly(c))
		}
	}
	if len(found) > 0 || ctx.Err() != nil {
		return found
	}
	if cs, _, err := internetgateway2.NewWANIPConnection1ClientsCtx(ctx); err == nil {
		for _, c := range cs {
			found = append(found, briefly(c))
		}
	}
	return found
}

// briefly returns a service whose answers are cut short.
func briefly(c interface {
	igd
	GetServiceClient() *goupnp.ServiceClient
}) igd {
	c.GetServiceClient().SOAPClient.HTTPClient.Transport = brief{}
	return c
}

// What a device is and has is asked for by this client.
func init() { goupnp.HTTPClientDefault = &http.Client{Transport: brief{}} }

// maxAnswer is what is read of an answer; a description has some 10 KiB.
const maxAnswer = 1 << 20

// brief cuts answers short: anybody in the network can say that he is the router, and
// they are decoded into memory.
type brief struct{}

func (brief) RoundTrip(req *http.Request) (*http.Response, error) {
	resp, err := http.DefaultTransport.RoundTrip(req)
	if err == nil {
		resp.Body = struct {
			io.Reader
			io.Closer
		}{io.LimitReader(resp.Body, maxAnswer), resp.Body}
	}
	return resp, err
}

// askUPnP asks by UPnP.
func askUPnP(ctx context.Context, port uint16) (Mapping, func(), time.Duration, error) {
	ctx, cancel := context.WithTimeout(ctx, 2*upnpTime)
	defer cancel()
	err := errNobody
	for _, c := range services(ctx) {
		var m Mapping
		if m, err = upnp(ctx, c, port); err == nil {
			release := func() {
				ctx, cancel := context.WithTimeout(context.Background(), leaveTime)
				defer cancel()
				_ = c.DeletePortMappingCtx(ctx, "", port, "UDP")
				_ = c.DeletePortMappingCtx(ctx, "", port, "TCP")
			}
			return m, release, lifetime, nil
		}
	}
	return Mapping{}, nil, 0, err
}

func upnp(ctx context.Context, c igd, port uint16) (Mapping, error) {
	text, err := c.GetExternalIPAddressCtx(ctx)
	if err != nil {
		return Mapping{}, err
	}
	a, err := netip.ParseAddr(text)
	if err != nil {
		return Mapping{}, err
	}
	if !usable(a) {
		return Mapping{}, errTranslated
	}
	add := func(protocol string) error {
		return c.AddPortMappingCtx(ctx, "", port, protocol, port, c.LocalAddr().String(), true, "drv-thru", uint32(lifetime.Seconds()))
	}
	if err := add("UDP"); err != nil {
		return Mapping{}, err
	}
	m := Mapping{UDP: netip.AddrPortFrom(a, port), Protocol: "UPnP"}
	if add("TCP") == nil {
		m.TCP = netip.AddrPortFrom(a, port)
	}
	return m, nil
}
