//go:build !js

package link

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"
)

// certificate makes one that signs itself.
func certificate(t *testing.T, name string, until time.Time) tls.Certificate {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), DNSNames: []string{name}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: until.Add(-24 * time.Hour), NotAfter: until,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &k.PublicKey, k)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: k, Leaf: leaf}
}

// What answers in the place of a relay tells what to do.
func TestRelayHints(t *testing.T) {
	page := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { _, _ = w.Write([]byte("<html>")) })
	answers := func(code int) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(code) })
	}
	redirect := http.RedirectHandler("https://login.example/?from=here", http.StatusFound)
	later := time.Now().Add(time.Hour)
	for name, c := range map[string]struct {
		scheme  string // of the relay's URL
		cert    *tls.Certificate
		trusted bool
		handler http.Handler
		proxied bool   // what answers is a proxy
		text    string // of the error
		hint    string
	}{
		"expired":           {"https", new(certificate(t, "relay.test", time.Now().Add(-time.Hour))), true, page, false, "expired", "clock"},
		"another name":      {"https", new(certificate(t, "other.test", later)), true, page, false, "other.test", "name"},
		"unknown authority": {"https", new(certificate(t, "relay.test", later)), false, page, false, "unknown authority", "authority"},
		"no TLS":            {"https", nil, false, page, false, "HTTPS client", "http://"},
		"a page":            {"http", nil, false, page, false, "200 OK", "log in"},
		"a redirect":        {"http", nil, false, redirect, false, "302 Found, see https://login.example", "URL"},
		"a proxy without":   {"http", nil, false, answers(502), false, "does not reach the relay: it says 502", "try again"},
		"a proxy in vain":   {"http", nil, false, answers(504), false, "does not reach the relay: it says 504", "try again"},
		"a login at proxy":  {"https", nil, false, answers(407), true, "the proxy says 407", "USER:PASSWORD"},
		"the same, plainly": {"http", nil, false, answers(407), true, "the proxy says 407", "USER:PASSWORD"},
		"a proxy's refusal": {"https", nil, false, answers(403), true, "the proxy says 403", "NO_PROXY"},
		"no proxy":          {"https", nil, false, nil, true, "proxyconnect", "HTTPS_PROXY"},
		"no name":           {"http", nil, false, nil, false, "relay.test", "DNS"},
	} {
		t.Run(name, func(t *testing.T) {
			at := "127.0.0.1:1" // nobody
			if c.handler != nil {
				srv := httptest.NewUnstartedServer(c.handler)
				srv.Config.ErrorLog = log.New(io.Discard, "", 0)
				if c.cert != nil {
					srv.TLS = &tls.Config{Certificates: []tls.Certificate{*c.cert}}
					srv.StartTLS()
				} else {
					srv.Start()
				}
				defer srv.Close()
				at = srv.Listener.Addr().String()
			}
			network := Network{TLS: &tls.Config{RootCAs: x509.NewCertPool()}}
			if c.trusted {
				network.TLS.RootCAs.AddCert(c.cert.Leaf)
			}
			if c.proxied {
				network.Proxy = http.ProxyURL(&url.URL{Scheme: "http", Host: at})
			} else {
				network.DialContext = func(ctx context.Context, network, address string) (net.Conn, error) {
					if c.handler == nil {
						return nil, &net.DNSError{Err: "no such host", Name: "relay.test", IsNotFound: true}
					}
					return new(net.Dialer).DialContext(ctx, network, at)
				}
			}
			s, err := Dial(t.Context(), Config{
				Identity: secret(t, 1), Peer: secret(t, 2).ID(), Relays: []string{c.scheme + "://relay.test"}, Network: network,
			})
			var unreachable *UnreachableError
			if !errors.As(err, &unreachable) {
				t.Fatalf("got %v, %v", s, err)
			}
			if !strings.Contains(err.Error(), c.text) || !strings.Contains(unreachable.Hint(), c.hint) {
				t.Errorf("error: %v\nhint: %s", err, unreachable.Hint())
			}
		})
	}
}
