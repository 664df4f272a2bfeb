package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"log/slog"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// newCertificate makes a certificate of that validity and its key, as PEM.
func newCertificate(t *testing.T, from, until time.Time) (cert, key []byte) {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), DNSNames: []string{"relay.example"}, NotBefore: from, NotAfter: until}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &k.PublicKey, k)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(k)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER})
}

// writeCertificate writes one into files.
func writeCertificate(t *testing.T, cert, key string, from, until time.Time) {
	t.Helper()
	c, k := newCertificate(t, from, until)
	for name, text := range map[string][]byte{cert: c, key: k} {
		if err := os.WriteFile(name, text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// Of a certificate that clients refuse, or soon will, the owner hears: when it is read,
// and each day that it is shown.
func TestCertificateValidity(t *testing.T) {
	const day = 24 * time.Hour
	for _, c := range []struct {
		name        string
		from, until time.Duration
		first       string // what is said when it is read, and again when it is read again
		days        int    // how often something is said in the ten days after that
	}{
		{"good", -day, 89 * day, "", 0},
		{"in its last tenth", -84 * day, 6 * day, "expires soon", 10},
		{"of a year, with a month left", -335 * day, 30 * day, "", 0},
		{"of a day, as good as new", -time.Hour, 23 * time.Hour, "", 10},
		{"of a day, almost over", -22 * time.Hour, 2 * time.Hour, "expires soon", 10},
		{"expired", -90 * day, -time.Second, "has expired", 10},
		{"not begun", day, 90 * day, "is not valid yet", 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				dir := t.TempDir()
				cert, key := filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
				writeCertificate(t, cert, key, time.Now().Add(c.from), time.Now().Add(c.until))
				var log strings.Builder
				files, err := newCertFiles(cert, key, slog.New(slog.NewTextHandler(&log, nil)))
				if err == nil {
					err = files.reload()
				}
				if err != nil {
					t.Fatal(err)
				}
				if n := strings.Count(log.String(), "level=WARN"); c.first == "" && n != 0 || c.first != "" && strings.Count(log.String(), c.first) != 2 {
					t.Errorf("it is read, twice:\n%s", &log)
				}
				if at := files.shown.notAfter(); at != float64(time.Now().Add(c.until).Unix()) {
					t.Errorf("the metric is %f", at)
				}
				log.Reset()
				for range 10 * 24 {
					time.Sleep(time.Hour)
					if _, err := files.get(nil); err != nil {
						t.Fatal(err)
					}
				}
				if n := strings.Count(log.String(), "level=WARN"); n != c.days {
					t.Errorf("%d lines in ten days, want %d:\n%s", n, c.days, &log)
				}
			})
		})
	}
}

// A certificate that was replaced by one that cannot be used, as when its new key is for
// root alone, may stay so for weeks: the old one goes on, and the log does not fill.
func TestUnusableCertificate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		cert, key := filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
		renew := func() { writeCertificate(t, cert, key, time.Now(), time.Now().Add(time.Hour)) }
		renew()
		var log strings.Builder
		c, err := newCertFiles(cert, key, slog.New(slog.NewTextHandler(&log, nil)))
		if err != nil {
			t.Fatal(err)
		}
		old := c.pair
		if err := os.WriteFile(key, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		for range 150 {
			if pair, err := c.get(nil); err != nil || pair != old {
				t.Fatalf("the old certificate is not used: %v", err)
			}
			time.Sleep(checkEvery)
		}
		if n := strings.Count(log.String(), "level=WARN"); n != 3 {
			t.Errorf("%d lines in 150 seconds, want 3:\n%.500s", n, &log)
		}
		renew()
		if pair, err := c.get(nil); err != nil || pair == old {
			t.Errorf("the new certificate is not used: %v", err)
		}
	})
}
