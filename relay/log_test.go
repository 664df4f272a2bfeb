package relay_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/drv-thru/drv-thru/core/link"
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
