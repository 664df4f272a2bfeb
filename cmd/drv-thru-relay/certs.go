package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/crypto/acme"
	"golang.org/x/crypto/acme/autocert"

	"github.com/drv-thru/drv-thru/cmd/internal/usage"
)

const (
	// checkEvery is how often certificate files are looked at again while peers connect.
	checkEvery = time.Second
	// warnEvery is how often it is said that there is no good certificate.
	warnEvery = time.Minute
)

// certFiles is a certificate in files. They are read again when they have
// changed; what cannot be read is left alone, since files are seldom replaced
// both at once.
type certFiles struct {
	cert, key string
	log       *slog.Logger
	shown     *validity
	// changed is told of each certificate that is read, under mu; may be nil.
	changed func(*tls.Certificate)

	mu      sync.Mutex
	pair    *tls.Certificate
	read    [2]fs.FileInfo
	checked time.Time
	warned  time.Time
}

func newCertFiles(cert, key string, log *slog.Logger) (*certFiles, error) {
	c := &certFiles{cert: cert, key: key, log: log, shown: newValidity(log)}
	return c, c.reload()
}

// reload reads the files, whether they have changed or not.
func (c *certFiles) reload() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.reloadLocked(c.stat())
}

func (c *certFiles) reloadLocked(read [2]fs.FileInfo) error {
	pair, err := tls.LoadX509KeyPair(c.cert, c.key)
	if err != nil {
		return fmt.Errorf("load the certificate: %w", err)
	}
	c.pair, c.read = &pair, read
	c.shown.loaded("", pair.Leaf)
	if c.changed != nil {
		c.changed(c.pair)
	}
	return nil
}

func (c *certFiles) stat() (infos [2]fs.FileInfo) {
	for i, path := range []string{c.cert, c.key} {
		infos[i], _ = os.Stat(path)
	}
	return infos
}

// get is a tls.Config's GetCertificate.
func (c *certFiles) get(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if now := time.Now(); now.Sub(c.checked) >= checkEvery {
		c.checked = now
		if infos := c.stat(); !same(infos[0], c.read[0]) || !same(infos[1], c.read[1]) {
			if err := c.reloadLocked(infos); err != nil {
				// It is tried on, as a change of who may read them would not be seen.
				if now.Sub(c.warned) >= warnEvery {
					c.warned = now
					c.log.Warn("the certificate's files have changed, but cannot be used", slog.Any("error", err))
				}
			} else {
				c.log.Info("read the certificate again", slog.Time("valid_until", c.pair.Leaf.NotAfter))
			}
		}
		c.shown.note("", c.pair.Leaf)
	}
	return c.pair, nil
}

func same(a, b fs.FileInfo) bool {
	return a != nil && b != nil && os.SameFile(a, b) && a.ModTime().Equal(b.ModTime()) && a.Size() == b.Size()
}

// certNames returns the names of a certificate, none if it has a wildcard: then
// it does not tell what the relay is called.
func certNames(pair *tls.Certificate) []string {
	var names []string
	for _, n := range pair.Leaf.DNSNames {
		if strings.HasPrefix(n, "*") {
			return nil
		}
		names = append(names, n)
	}
	for _, ip := range pair.Leaf.IPAddresses {
		names = append(names, net.JoinHostPort(ip.String(), "443"))
	}
	return names
}

func serverTLS(get func(*tls.ClientHelloInfo) (*tls.Certificate, error), protocols ...string) *tls.Config {
	return &tls.Config{
		GetCertificate: get,
		MinVersion:     tls.VersionTLS12,
		NextProtos:     append([]string{"http/1.1"}, protocols...),
	}
}

// acmeFlags say how certificates come from an authority (RFC 8555).
type acmeFlags struct {
	domains               usage.Names
	dir, email, directory string
}

// acmeCerts gets certificates and keeps them fresh.
type acmeCerts struct {
	manager *autocert.Manager
	log     *slog.Logger
	shown   *validity

	mu     sync.Mutex
	warned time.Time
}

func newACME(f acmeFlags, log *slog.Logger) *acmeCerts {
	return &acmeCerts{log: log, shown: newValidity(log), manager: &autocert.Manager{
		Prompt:     autocert.AcceptTOS,
		Cache:      autocert.DirCache(f.dir),
		HostPolicy: autocert.HostWhitelist(f.domains...),
		Email:      f.email,
		Client:     &acme.Client{DirectoryURL: f.directory, UserAgent: "drv-thru-relay/" + version},
	}}
}

// config proves domains by tls-alpn-01 (RFC 8737), on the relay's own port.
func (a *acmeCerts) config() *tls.Config { return serverTLS(a.get, acme.ALPNProto) }

func (a *acmeCerts) get(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
	cert, err := a.manager.GetCertificate(hello)
	switch {
	case err != nil:
		if a.manager.HostPolicy(context.Background(), hello.ServerName) == nil {
			a.warn("no certificate", hello, slog.Any("error", err))
		}
	case !slices.Contains(hello.SupportedProtos, acme.ALPNProto): // that of a challenge lives for a moment
		if overdue(cert.Leaf, time.Now()) {
			a.warn("the certificate should have been renewed by now", hello, slog.Time("valid_until", cert.Leaf.NotAfter))
		}
		// A peer may write the name in many ways; the certificate has one.
		if len(cert.Leaf.DNSNames) > 0 {
			a.shown.note(cert.Leaf.DNSNames[0], cert.Leaf)
		}
	}
	return cert, err
}

func (a *acmeCerts) warn(message string, hello *tls.ClientHelloInfo, why slog.Attr) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if now := time.Now(); now.Sub(a.warned) > warnEvery {
		a.warned = now
		a.log.Warn(message, slog.String("domain", hello.ServerName), why)
	}
}

// overdue reports whether a certificate is left that should be no more. Package autocert
// renews it when a third of its time is left, 30 days at most; if that fails it tries every
// hour, tells nobody, and shows the old one for ever.
func overdue(leaf *x509.Certificate, now time.Time) bool {
	return leaf.NotAfter.Sub(now) < min(leaf.NotAfter.Sub(leaf.NotBefore)/4, 3*7*24*time.Hour)
}

// prepare gets the certificates before the first peer needs them.
func (a *acmeCerts) prepare(domains []string) {
	for _, d := range domains {
		cert, err := a.get(&tls.ClientHelloInfo{
			ServerName:       d,
			SignatureSchemes: []tls.SignatureScheme{tls.ECDSAWithP256AndSHA256},
			SupportedCurves:  []tls.CurveID{tls.CurveP256},
			CipherSuites:     []uint16{tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256},
		})
		if err == nil {
			a.log.Info("certificate is there", slog.String("domain", d), slog.Time("valid_until", cert.Leaf.NotAfter))
		}
	}
}
