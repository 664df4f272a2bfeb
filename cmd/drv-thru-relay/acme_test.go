package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/crypto/acme"
	"golang.org/x/crypto/acme/autocert"

	"github.com/drv-thru/drv-thru/core/link"
	"github.com/drv-thru/drv-thru/core/wire"
)

// authority is a certificate authority that speaks ACME (RFC 8555): it checks
// signatures and nonces, and proves domains by tls-alpn-01 (RFC 8737).
type authority struct {
	t     *testing.T
	srv   *httptest.Server
	key   *ecdsa.PrivateKey
	cert  *x509.Certificate
	relay chan string // 1: where the domains lead

	mu      sync.Mutex
	nonces  map[string]bool
	account *ecdsa.PublicKey
	domain  string
	proved  bool
	issued  []byte // PEM
	orders  int
}

const acmeToken = "dG9rZW4tb2YtdGhlLWNoYWxsZW5nZQ"

func newAuthority(t *testing.T) *authority {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "authority"}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(1000 * time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &k.PublicKey, k)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	a := &authority{t: t, key: k, cert: cert, relay: make(chan string, 1), nonces: map[string]bool{}}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /directory", func(w http.ResponseWriter, r *http.Request) {
		u := a.srv.URL
		writeJSON(w, 200, map[string]any{"newNonce": u + "/nonce", "newAccount": u + "/account", "newOrder": u + "/order", "revokeCert": u + "/revoke", "keyChange": u + "/change"})
	})
	mux.HandleFunc("HEAD /nonce", func(http.ResponseWriter, *http.Request) {})
	for route, answer := range map[string]func(http.ResponseWriter, []byte){
		"/account": a.newAccount, "/order": a.newOrder, "/order/1": a.order, "/authz/1": a.authz,
		"/challenge/1": a.challenge, "/finalize/1": a.finalize, "/cert/1": a.certificate,
	} {
		mux.HandleFunc("POST "+route, func(w http.ResponseWriter, r *http.Request) {
			payload, err := a.signed(r)
			if err != nil {
				a.t.Errorf("%s: %v", r.URL.Path, err)
				http.Error(w, err.Error(), http.StatusBadRequest)
				return
			}
			a.mu.Lock()
			defer a.mu.Unlock()
			answer(w, payload)
		})
	}
	a.srv = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		nonce := rand.Text()
		a.mu.Lock()
		a.nonces[nonce] = true
		a.mu.Unlock()
		w.Header().Set("Replay-Nonce", nonce)
		mux.ServeHTTP(w, r)
	}))
	t.Cleanup(a.srv.Close)
	return a
}

func writeJSON(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(v)
}

// signed checks a request (RFC 8555 §6.2, RFC 7515) and returns its payload.
func (a *authority) signed(r *http.Request) ([]byte, error) {
	var jws struct{ Protected, Payload, Signature string }
	if err := json.NewDecoder(r.Body).Decode(&jws); err != nil {
		return nil, err
	}
	var head struct {
		Alg, Nonce, URL, Kid string
		JWK                  *struct{ Crv, X, Y string }
	}
	raw, err := base64.RawURLEncoding.DecodeString(jws.Protected)
	if err != nil {
		return nil, err
	}
	if err := json.Unmarshal(raw, &head); err != nil {
		return nil, err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if !a.nonces[head.Nonce] || head.Alg != "ES256" || head.URL != a.srv.URL+r.URL.Path {
		return nil, fmt.Errorf("header %s", raw)
	}
	delete(a.nonces, head.Nonce)
	if head.JWK != nil {
		x, errX := base64.RawURLEncoding.DecodeString(head.JWK.X)
		y, errY := base64.RawURLEncoding.DecodeString(head.JWK.Y)
		if errX != nil || errY != nil {
			return nil, fmt.Errorf("key %v", head.JWK)
		}
		if a.account, err = ecdsa.ParseUncompressedPublicKey(elliptic.P256(), slices.Concat([]byte{4}, x, y)); err != nil {
			return nil, err
		}
	}
	sig, err := base64.RawURLEncoding.DecodeString(jws.Signature)
	if err != nil || len(sig) != 64 {
		return nil, fmt.Errorf("signature %s", jws.Signature)
	}
	sum := sha256.Sum256([]byte(jws.Protected + "." + jws.Payload))
	if !ecdsa.Verify(a.account, sum[:], new(big.Int).SetBytes(sig[:32]), new(big.Int).SetBytes(sig[32:])) {
		return nil, fmt.Errorf("signature does not verify")
	}
	return base64.RawURLEncoding.DecodeString(jws.Payload)
}

func (a *authority) newAccount(w http.ResponseWriter, _ []byte) {
	w.Header().Set("Location", a.srv.URL+"/account/1")
	writeJSON(w, http.StatusCreated, map[string]any{"status": "valid"})
}

func (a *authority) newOrder(w http.ResponseWriter, payload []byte) {
	var want struct{ Identifiers []struct{ Value string } }
	if err := json.Unmarshal(payload, &want); err != nil || len(want.Identifiers) != 1 {
		a.t.Errorf("order %s", payload)
		return
	}
	a.domain = want.Identifiers[0].Value
	a.orders++
	w.Header().Set("Location", a.srv.URL+"/order/1")
	w.WriteHeader(http.StatusCreated)
	a.order(w, nil)
}

func (a *authority) order(w http.ResponseWriter, _ []byte) {
	status := "pending"
	switch {
	case a.issued != nil:
		status = "valid"
	case a.proved:
		status = "ready"
	}
	u := a.srv.URL
	_ = json.NewEncoder(w).Encode(map[string]any{
		"status": status, "identifiers": []any{map[string]string{"type": "dns", "value": a.domain}},
		"authorizations": []string{u + "/authz/1"}, "finalize": u + "/finalize/1", "certificate": u + "/cert/1",
	})
}

func (a *authority) status() string {
	if a.proved {
		return "valid"
	}
	return "pending"
}

func (a *authority) authz(w http.ResponseWriter, _ []byte) {
	writeJSON(w, 200, map[string]any{
		"status": a.status(), "identifier": map[string]string{"type": "dns", "value": a.domain},
		"challenges": []any{map[string]string{"type": "tls-alpn-01", "url": a.srv.URL + "/challenge/1", "token": acmeToken, "status": a.status()}},
	})
}

// challenge connects to the domain as RFC 8737 §3 says.
func (a *authority) challenge(w http.ResponseWriter, _ []byte) {
	address := <-a.relay
	a.relay <- address
	conn, err := tls.Dial("tcp", address, &tls.Config{ServerName: a.domain, NextProtos: []string{acme.ALPNProto}, InsecureSkipVerify: true})
	if err != nil {
		a.t.Errorf("challenge: %v", err)
		return
	}
	defer conn.Close()
	thumbprint, err := acme.JWKThumbprint(a.account)
	if err != nil {
		a.t.Error(err)
	}
	sum := sha256.Sum256([]byte(acmeToken + "." + thumbprint))
	want, err := asn1.Marshal(sum[:])
	if err != nil {
		a.t.Error(err)
	}
	for _, e := range conn.ConnectionState().PeerCertificates[0].Extensions {
		if e.Id.Equal(asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 1, 31}) && bytes.Equal(e.Value, want) {
			a.proved = true
		}
	}
	if !a.proved {
		a.t.Error("the challenge is not met")
	}
	writeJSON(w, 200, map[string]string{"type": "tls-alpn-01", "url": a.srv.URL + "/challenge/1", "token": acmeToken, "status": a.status()})
}

func (a *authority) finalize(w http.ResponseWriter, payload []byte) {
	var want struct{ CSR string }
	_ = json.Unmarshal(payload, &want)
	der, err := base64.RawURLEncoding.DecodeString(want.CSR)
	if err != nil {
		a.t.Error(err)
	}
	csr, err := x509.ParseCertificateRequest(der)
	if err != nil || csr.CheckSignature() != nil || len(csr.DNSNames) != 1 || csr.DNSNames[0] != a.domain {
		a.t.Errorf("request for %v: %v", csr, err)
		return
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(2), DNSNames: csr.DNSNames,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(1000 * time.Hour),
	}
	cert, err := x509.CreateCertificate(rand.Reader, template, a.cert, csr.PublicKey, a.key)
	if err != nil {
		a.t.Error(err)
	}
	a.issued = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert})
	w.Header().Set("Location", a.srv.URL+"/order/1")
	a.order(w, nil)
}

func (a *authority) certificate(w http.ResponseWriter, _ []byte) {
	w.Header().Set("Content-Type", "application/pem-certificate-chain")
	_, _ = w.Write(a.issued)
}

func TestACME(t *testing.T) {
	a := newAuthority(t)
	dir := t.TempDir()
	pool := x509.NewCertPool()
	pool.AddCert(a.cert)
	for range 2 { // the second finds the certificate in its directory
		ctx, stop := context.WithCancel(t.Context())
		out, in := io.Pipe()
		ended := make(chan int, 1)
		var log bytes.Buffer
		go func() {
			ended <- run(ctx, []string{
				"--listen", "127.0.0.1:0", "--stun-listen", "off", "--acme-domain", "relay.example",
				"--acme-directory", a.srv.URL + "/directory", "--acme-dir", dir,
			}, in, &log)
		}()
		line, err := bufio.NewReader(out).ReadString('\n')
		if err != nil {
			t.Fatal(err)
		}
		_, address, _ := strings.Cut(strings.TrimSpace(line), "https://")
		select {
		case <-a.relay:
		default:
		}
		a.relay <- address
		err = trySession("https://relay.example", "", link.Network{
			TLS: &tls.Config{RootCAs: pool},
			DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
				return new(net.Dialer).DialContext(ctx, network, address)
			},
		})
		if err != nil {
			t.Error(err)
		}
		if _, err := tls.Dial("tcp", address, &tls.Config{ServerName: "other.example", RootCAs: pool}); err == nil {
			t.Error("it has a certificate for a name that is not its own")
		}
		stop()
		if code := <-ended; code != wire.ExitOK {
			t.Errorf("exit code %d\n%s", code, &log)
		}
	}
	if a.orders != 1 {
		t.Errorf("%d orders, want 1", a.orders)
	}
}

// certCache is an autocert.Cache with a certificate and its key, which keeps nothing else.
type certCache []byte

func (c certCache) Get(_ context.Context, name string) ([]byte, error) {
	if name != "relay.example" {
		return nil, autocert.ErrCacheMiss
	}
	return c, nil
}

func (certCache) Put(context.Context, string, []byte) error { return nil }
func (certCache) Delete(context.Context, string) error      { return nil }

// Package autocert goes on showing a certificate that it cannot renew, also when it has
// expired, and says nothing.
func TestACMERenewalThatFails(t *testing.T) {
	const day = 24 * time.Hour
	for name, c := range map[string]struct {
		lasts, left time.Duration
		told        bool
	}{
		"young":                     {90 * day, 80 * day, false},
		"renewed just now":          {90 * day, 29 * day, false},
		"late":                      {90 * day, 20 * day, true},
		"of a year, late":           {365 * day, 20 * day, true},
		"of a year":                 {365 * day, 29 * day, false},
		"of a day":                  {day, 7 * time.Hour, false},
		"of a day, late":            {day, 5 * time.Hour, true},
		"of a day, all but expired": {day, time.Minute, true},
	} {
		t.Run(name, func(t *testing.T) {
			until := time.Now().Add(c.left)
			cert, key := newCertificate(t, until.Add(-c.lasts), until)
			f := acmeFlags{domains: []string{"relay.example"}, directory: "http://127.0.0.1:1"} // nobody
			var log bytes.Buffer
			a := newACME(f, slog.New(slog.NewTextHandler(&log, nil)))
			a.manager.Cache = certCache(slices.Concat(key, cert))
			for range 2 {
				a.prepare(f.domains)
			}
			want := map[bool]int{true: 1}[c.told]
			if n := strings.Count(log.String(), `level=WARN msg="the certificate should have been renewed by now"`); n != want {
				t.Errorf("told %d times, want %d:\n%s", n, want, &log)
			}
		})
	}
}
