package relay_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/drv-thru/drv-thru/core/link"
	"github.com/drv-thru/drv-thru/core/link/linktest"
	"github.com/drv-thru/drv-thru/core/wire"
	"github.com/drv-thru/drv-thru/relay"
)

// lineWriter hands on what is logged.
type lineWriter chan string

func (w lineWriter) Write(p []byte) (int, error) {
	w <- string(p)
	return len(p), nil
}

// Errors of sockets name both ends: here that of a builder whose connection, by TLS, is
// reset.
func TestLogHoldsNoAddressesInErrors(t *testing.T) {
	certified := httptest.NewUnstartedServer(nil)
	certified.StartTLS()
	certified.Close()
	roots := x509.NewCertPool()
	roots.AddCert(certified.Certificate())
	for _, addresses := range []bool{false, true} {
		lines := make(lineWriter, 100)
		s := relay.New(relay.Config{Log: debugLog(lines), LogAddresses: addresses})
		tcp, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		served := make(chan error, 1)
		go func() {
			served <- s.Serve(tls.NewListener(tcp, &tls.Config{Certificates: certified.TLS.Certificates}))
		}()
		dialled := make(chan net.Conn, 1)
		l, err := link.Listen(link.ListenConfig{
			Identity: secret(2), Relays: []string{"https://" + tcp.Addr().String()},
			Network: link.Network{TLS: &tls.Config{RootCAs: roots}, DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
				c, err := new(net.Dialer).DialContext(ctx, network, address)
				if err == nil {
					dialled <- c // the second waits: it is not to come back
				}
				return c, err
			}},
		})
		if err != nil {
			t.Fatal(err)
		}
		if err := l.Registered(t.Context()); err != nil {
			t.Fatal(err)
		}
		c := (<-dialled).(*net.TCPConn)
		_ = c.SetLinger(0)
		_ = c.Close()
		line := <-lines
		for !strings.Contains(line, "builder left") {
			line = <-lines
		}
		if got := strings.Contains(line, "127.0.0.1"); got != addresses || !strings.Contains(line, "connection reset by peer") {
			t.Errorf("with LogAddresses %t the log is\n%s", addresses, line)
		}
		_ = l.Close()
		_ = s.Shutdown(context.Background())
		if err := <-served; !errors.Is(err, http.ErrServerClosed) {
			t.Error(err)
		}
	}
}

// withoutDescriptors accepts nothing.
type withoutDescriptors struct{ net.Listener }

func (l withoutDescriptors) Accept() (net.Conn, error) {
	return nil, &net.OpError{Op: "accept", Net: "tcp", Addr: l.Addr(), Err: os.NewSyscallError("accept4", syscall.EMFILE)}
}

// That no connection is accepted for want of descriptors is told, and not at each try.
func TestConnectionsThatAreNotAcceptedAreTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var network linktest.Network
		var log bytes.Buffer
		s := relay.New(relay.Config{Log: slog.New(slog.NewTextHandler(&log, nil))})
		served := make(chan error, 1)
		go func() { served <- s.Serve(withoutDescriptors{network.Listen(relayAddress)}) }()
		time.Sleep(90 * time.Second)
		synctest.Wait()
		if n := strings.Count(log.String(), "accept4: too many open files"); n != 2 || strings.Contains(log.String(), relayAddress) {
			t.Errorf("told %d times, want twice:\n%s", n, &log)
		}
		_ = s.Shutdown(t.Context())
		if err := <-served; !errors.Is(err, http.ErrServerClosed) {
			t.Error(err)
		}
	})
}

// Whoever runs a relay that is full hears of it, though not of each that it refuses.
func TestLimitsAreTold(t *testing.T) {
	var log bytes.Buffer
	cfg := relay.Config{
		Log:    slog.New(slog.NewTextHandler(&log, nil)),
		Limits: relay.Limits{Registrations: 1, CircuitsPerAddress: 1, Connections: 5, Idle: time.Hour},
	}
	inWorld(t, cfg, func(t *testing.T, w *world) {
		listen := register(t, w, secret(2))
		go answerPings(listen)
		told := func(what string, want int) {
			t.Helper()
			synctest.Wait()
			if n := strings.Count(log.String(), "level=WARN"); n != want || !strings.Contains(log.String(), what) {
				t.Errorf("told %d times, want %d and %q:\n%s", n, want, what, &log)
			}
		}
		told("", 0)
		for range 3 {
			_, _ = open(t.Context(), w, wire.RouteRelayListen)
		}
		told("as many builders as it takes", 1)
		time.Sleep(time.Minute)
		here := linktest.From(t.Context(), "192.0.2.1:1")
		for range 2 {
			go func() { _, _ = open(here, w, dialRoute(secret(2))) }()
		}
		told("as many circuits of your address as it takes", 2)
		time.Sleep(time.Minute)
		for range 7 {
			if _, err := w.network.DialContext(t.Context(), "tcp", relayAddress); err != nil {
				t.Fatal(err)
			}
		}
		told("as many connections that ask for nothing as it takes", 3)
		if strings.Contains(log.String(), "192.0.2.1") {
			t.Errorf("it names an address:\n%s", &log)
		}
		w.listener.Cut()
	})
}
