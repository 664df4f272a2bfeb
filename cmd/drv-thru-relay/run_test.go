package main

import (
	"bytes"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
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

// Whoever puts a proxy in front and forgets half of it is told, and nobody else.
func TestProxyThatIsHalfSetUp(t *testing.T) {
	for name, c := range map[string]struct {
		trusted, peer, forwarded string
		want                     string // in the log
	}{
		"no proxy":                       {"", "192.0.2.1:1", "", ""},
		"no proxy, on this machine":      {"", "127.0.0.1:1", "", ""},
		"who makes the header up":        {"", "192.0.2.1:1", "198.51.100.1", ""},
		"not trusted":                    {"", "127.0.0.1:1", "198.51.100.1", "name it in --trusted-proxies"},
		"not trusted, on another":        {"", "[fd00::2]:1", "198.51.100.1", "name it in --trusted-proxies"},
		"trusted":                        {"127.0.0.1", "127.0.0.1:1", "198.51.100.1", ""},
		"trusted, its client is private": {"127.0.0.1", "127.0.0.1:1", "10.0.0.1", ""},
		"beside the proxy":               {"127.0.0.1", "10.0.0.1:1", "198.51.100.1", ""},
		"trusted, its client is here":    {"127.0.0.1", "127.0.0.1:1", "127.0.0.1", ""},
		"trusted, without the header":    {"127.0.0.1", "127.0.0.1:1", "", "asks without X-Forwarded-For"},
	} {
		t.Run(name, func(t *testing.T) {
			var f flags
			if c.trusted != "" {
				if err := f.trustedProxies.Set(c.trusted); err != nil {
					t.Fatal(err)
				}
			}
			var log bytes.Buffer
			addr := f.clientAddr(slog.New(slog.NewTextHandler(&log, nil)))
			r := &http.Request{RemoteAddr: c.peer, Header: http.Header{}}
			if c.forwarded != "" {
				r.Header.Set("X-Forwarded-For", c.forwarded)
			}
			for range 2 {
				addr(r)
			}
			if got := log.String(); (got != "") != (c.want != "") || !strings.Contains(got, c.want) || strings.Count(got, "\n") > 1 {
				t.Errorf("got %q, want %q", got, c.want)
			}
		})
	}
}

func TestSTUNPlace(t *testing.T) {
	for _, c := range []struct{ flag, bound, want string }{
		{"", "[::]:443", ":443"},
		{"", "198.51.100.7:443", ":443"}, // the relay has other addresses by its name
		{":3478", "[::]:3478", ":3478"},
		{"127.0.0.1:3478", "127.0.0.1:3478", ":3478"},
		{"10.0.0.5:3478", "10.0.0.5:3478", ":3478"}, // others see it translated
		{"198.51.100.7:3478", "198.51.100.7:3478", "198.51.100.7:3478"},
		{"stun.example.org:3478", "[2001:db8::7]:3478", "[2001:db8::7]:3478"},
	} {
		bound, err := net.ResolveUDPAddr("udp", c.bound)
		if err != nil {
			t.Fatal(err)
		}
		if got := (&flags{stunListen: c.flag}).stunPlace(bound); got != c.want {
			t.Errorf("--stun-listen=%s: %s, want %s", c.flag, got, c.want)
		}
	}
}

// A name is what stands in the URL that builders have.
func TestHostnames(t *testing.T) {
	for name, good := range map[string]bool{
		"relay.example.org": true, "relay.example.org:7411": true, "192.0.2.1": true, "192.0.2.1:443": true,
		"2001:db8::1": true, "[2001:db8::1]": true, "[2001:db8::1]:7411": true,
		":7411": false, "relay.example.org:": false, "relay.example.org:70000": false, "https://relay.example.org": false, "a b": false,
	} {
		var f flags
		if err := f.set().Parse([]string{"--hostname", name}); err != nil {
			t.Fatal(err)
		}
		if err := f.check(); (err == nil) != good {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// An editor's byte order mark is no part of a token, nor too long a line a surprise.
func TestLines(t *testing.T) {
	path := filepath.Join(t.TempDir(), "list")
	read := func(text string) (got []string, err error) {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		err = lines(path, func(line string) error {
			got = append(got, line)
			return nil
		})
		return got, err
	}
	if got, err := read("\ufefffirst\r\n# none\n\n second \n"); err != nil || !slices.Equal(got, []string{"first", "second"}) {
		t.Errorf("%q, %v", got, err)
	}
	if _, err := read(strings.Repeat("x", 1<<20)); err == nil || err.Error() != path+": a line has more than 65536 bytes" {
		t.Error(err)
	}
}
