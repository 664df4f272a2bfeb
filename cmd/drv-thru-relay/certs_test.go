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

// A certificate that was replaced by one that cannot be used, as when its new key is for
// root alone, may stay so for weeks: the old one goes on, and the log does not fill.
func TestUnusableCertificate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		cert, key := filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
		renew := func() {
			t.Helper()
			k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
			if err != nil {
				t.Fatal(err)
			}
			template := &x509.Certificate{SerialNumber: big.NewInt(1), DNSNames: []string{"relay.example"}}
			der, err := x509.CreateCertificate(rand.Reader, template, template, &k.PublicKey, k)
			if err != nil {
				t.Fatal(err)
			}
			keyDER, err := x509.MarshalPKCS8PrivateKey(k)
			if err != nil {
				t.Fatal(err)
			}
			for name, block := range map[string]*pem.Block{cert: {Type: "CERTIFICATE", Bytes: der}, key: {Type: "PRIVATE KEY", Bytes: keyDER}} {
				if err := os.WriteFile(name, pem.EncodeToMemory(block), 0o600); err != nil {
					t.Fatal(err)
				}
			}
		}
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
