package link

import (
	"errors"
	"testing"
)

func TestRelayURL(t *testing.T) {
	for in, want := range map[string]string{
		"https://relay.example":           "https://relay.example",
		"wss://relay.example/":            "https://relay.example",
		"HTTPS://Relay.Example:8443/sub/": "https://relay.example:8443/sub",
		" ws://10.0.0.1:7411\n":           "http://10.0.0.1:7411",
		"http://[2001:DB8::1]:7411":       "http://[2001:db8::1]:7411",
		"https://relay.example:443":       "https://relay.example",
		"http://[2001:db8::1]:80/sub":     "http://[2001:db8::1]/sub",
		"https://relay.example:80":        "https://relay.example:80",
	} {
		if got, err := RelayURL(in); err != nil || got != want {
			t.Errorf("RelayURL(%q) = %q, %v, want %q", in, got, err, want)
		}
	}
	for _, bad := range []string{
		"", "relay.example", "relay.example:443", "ftp://relay.example", "https://", "https:///x", "https:relay.example",
		"https://user:secret@relay.example", "https://relay.example?token=x", "https://relay.example#x", "https://relay.example?",
		"https://%zz", "https://relay.example:port", "http://a b", "ws://::", "ws://::80", "wss://relay.example:1:2",
	} {
		if got, err := RelayURL(bad); !errors.Is(err, ErrRelayURL) {
			t.Errorf("RelayURL(%q) = %q, %v", bad, got, err)
		}
	}
	if got, err := RelayURLs([]string{"https://a", "wss://A/", "https://b"}); err != nil || len(got) != 2 {
		t.Errorf("got %q, %v", got, err)
	}
}

func FuzzRelayURL(f *testing.F) {
	f.Add("https://relay.example:7411/sub/")
	f.Add("ws://[::1]:80")
	f.Add("http://a/%2f/")
	f.Fuzz(func(t *testing.T, text string) {
		u, err := RelayURL(text)
		if err != nil {
			return
		}
		if again, err := RelayURL(u); err != nil || again != u {
			t.Errorf("%q becomes %q, then %q, %v", text, u, again, err)
		}
	})
}
