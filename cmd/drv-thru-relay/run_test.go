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
