package main

import (
	"crypto/x509"
	"log/slog"
	"math"
	"sync"
	"time"
)

const (
	// soonAtMost is how long before its end a certificate is warned of, or a tenth of
	// its life when that is less: those of some authorities live for days.
	soonAtMost = 7 * 24 * time.Hour
	// validityEvery is how often it is warned of again.
	validityEvery = 24 * time.Hour
)

// validity is for how long the certificates are valid that the relay shows: clients
// refuse it with others, and nobody else tells its owner.
type validity struct {
	log *slog.Logger

	mu    sync.Mutex
	until map[string]time.Time // by domain, "" for one from files
	told  map[string]time.Time // when it was warned of
}

func newValidity(log *slog.Logger) *validity {
	return &validity{log: log, until: make(map[string]time.Time), told: make(map[string]time.Time)}
}

// loaded notes a certificate that was read just now.
func (v *validity) loaded(domain string, leaf *x509.Certificate) {
	v.mu.Lock()
	delete(v.told, domain)
	v.mu.Unlock()
	v.note(domain, leaf)
}

// note notes a certificate that is shown.
func (v *validity) note(domain string, leaf *x509.Certificate) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.until[domain] = leaf.NotAfter
	now := time.Now()
	why := ""
	switch soon := min(soonAtMost, leaf.NotAfter.Sub(leaf.NotBefore)/10); {
	case now.After(leaf.NotAfter):
		why = "the certificate has expired"
	case now.Before(leaf.NotBefore):
		why = "the certificate is not valid yet"
	case leaf.NotAfter.Sub(now) < soon:
		why = "the certificate expires soon"
	default:
		return
	}
	if now.Sub(v.told[domain]) < validityEvery {
		return
	}
	v.told[domain] = now
	attrs := []any{"valid_from", leaf.NotBefore, "valid_until", leaf.NotAfter}
	if domain != "" {
		attrs = append(attrs, "domain", domain)
	}
	v.log.Warn(why, attrs...)
}

// notAfter is the earliest end, in Unix seconds, and NaN while there is no certificate.
func (v *validity) notAfter() float64 {
	v.mu.Lock()
	defer v.mu.Unlock()
	first := math.NaN()
	for _, until := range v.until {
		if t := float64(until.Unix()); !(t >= first) {
			first = t
		}
	}
	return first
}
