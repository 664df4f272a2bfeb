package main

import (
	"slices"
	"testing"
)

func TestUnknownVariables(t *testing.T) {
	got := unknownVariables(new(flags).set(), []string{
		"DRV_THRU_RELAY_ACESS=allowlist", "DRV_THRU_RELAY_ACCESS=allowlist", "DRV_THRU_RELAY_ACME_DOMAIN=relay.example.org",
		"DRV_THRU_RELAY_URL=https://relay.example.org", "DRV_THRU_RELAY_ACCES=", "DRV_THRU_RELAYS=x", "PATH=/bin",
	})
	if want := []string{"DRV_THRU_RELAY_ACESS"}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestPrefixes(t *testing.T) {
	var p prefixes
	if err := p.Set("10.1.2.3/8, ::1,::ffff:192.0.2.1,::ffff:198.51.100.0/120,fe80::1%eth0"); err != nil {
		t.Fatal(err)
	}
	if want := "10.0.0.0/8,::1/128,192.0.2.1/32,198.51.100.0/24,fe80::1/128"; p.String() != want {
		t.Errorf("got %s, want %s", &p, want)
	}
}
