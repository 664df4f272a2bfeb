package ticket

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/zeebo/blake3"

	"github.com/drv-thru/drv-thru/core/key"
)

// vector is one entry of testdata/vectors.json. The good ones are frozen: a
// change breaks every ticket that is out there. The bad ones name the class of
// failure that a reader must find.
type vector struct {
	Name   string
	Text   string
	Error  string   `json:",omitempty"` // "", "not a ticket", "damaged" or "version"
	ID     string   `json:",omitempty"`
	Relays []string `json:",omitempty"`
	Direct []string `json:",omitempty"`
}

func TestVectors(t *testing.T) {
	data, err := os.ReadFile("testdata/vectors.json")
	if err != nil {
		t.Fatal(err)
	}
	var vectors []vector
	if err := json.Unmarshal(data, &vectors); err != nil {
		t.Fatal(err)
	}
	classes := map[string]error{"not a ticket": ErrNotTicket, "damaged": ErrDamaged, "version": ErrVersion}
	for _, v := range vectors {
		got, err := Parse(v.Text)
		if v.Error != "" {
			if !errors.Is(err, classes[v.Error]) {
				t.Errorf("%s: got %v, want class %q", v.Name, err, v.Error)
			}
			continue
		}
		if err != nil {
			t.Errorf("%s: %v", v.Name, err)
			continue
		}
		if got.String() != v.Text || got.ID().String() != v.ID || !equalTexts(got, v) {
			t.Errorf("%s: parsed as %s %v %v", v.Name, got.ID(), got.Relays, got.Direct)
		}
	}
}

func equalTexts(t Ticket, v vector) bool {
	var direct []string
	for _, d := range t.Direct {
		direct = append(direct, d.String())
	}
	return fmt.Sprint(t.Relays, direct) == fmt.Sprint(v.Relays, v.Direct)
}

func sample(t testing.TB) Ticket {
	t.Helper()
	s, err := key.NewSecret(bytes.NewReader(bytes.Repeat([]byte{1}, 32)))
	if err != nil {
		t.Fatal(err)
	}
	tk, err := New(bytes.NewReader(bytes.Repeat([]byte{2}, 32)), s.ID(),
		[]string{"https://relay.example.org", "http://[2001:db8::1]:7411/base"},
		[]netip.AddrPort{netip.MustParseAddrPort("192.0.2.1:7412"), netip.MustParseAddrPort("[2001:db8::2]:7412")})
	if err != nil {
		t.Fatal(err)
	}
	return tk
}

func TestEveryDamagedCharacterIsFound(t *testing.T) {
	text := sample(t).String()
	for i := len(prefix); i < len(text); i++ {
		for _, c := range []byte("a7x") {
			if text[i] == c {
				continue
			}
			if _, err := Parse(text[:i] + string(c) + text[i+1:]); err == nil {
				t.Fatalf("character %d changed to %c is not noticed", i, c)
			}
		}
		if _, err := Parse(text[:i]); err == nil {
			t.Fatalf("cut at %d is not noticed", i)
		}
	}
}

func TestPastesAreForgiven(t *testing.T) {
	want := sample(t)
	text := want.String()
	for name, paste := range map[string]string{
		"line breaks": " " + text[:40] + "\r\n  " + text[40:] + "\n",
		"upper case":  strings.ToUpper(text),
	} {
		if got, err := Parse(paste); err != nil || got.String() != text {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestNothingPrintsTheSecret(t *testing.T) {
	tk := sample(t)
	nested := struct{ T Ticket }{tk}
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%d"} {
		for _, value := range []any{tk, &tk, tk.Secret, nested} {
			out := fmt.Sprintf(verb, value)
			if strings.Contains(out, tk.Secret.Text()[:20]) || strings.Contains(out, "020202") || strings.Contains(out, "2 2 2") {
				t.Errorf("%s of %T prints the secret: %s", verb, value, out)
			}
		}
	}
}

func TestNewRefuses(t *testing.T) {
	good := sample(t)
	for name, change := range map[string]func(*Ticket){
		"no builder":      func(t *Ticket) { t.Builder = key.ID{} },
		"nowhere to go":   func(t *Ticket) { t.Relays, t.Direct = nil, nil },
		"nine relays":     func(t *Ticket) { t.Relays = strings.Fields(strings.Repeat("http://a ", 9)) },
		"17 addresses":    func(t *Ticket) { t.Direct = slices.Repeat(good.Direct[:1], MaxDirect+1) },
		"no address":      func(t *Ticket) { t.Direct = []netip.AddrPort{netip.AddrPortFrom(netip.Addr{}, 1)} },
		"port zero":       func(t *Ticket) { t.Direct = []netip.AddrPort{netip.MustParseAddrPort("192.0.2.1:0")} },
		"zone":            func(t *Ticket) { t.Direct = []netip.AddrPort{netip.MustParseAddrPort("[fe80::1%eth0]:1")} },
		"ftp":             func(t *Ticket) { t.Relays = []string{"ftp://a"} },
		"password":        func(t *Ticket) { t.Relays = []string{"https://u:p@a"} },
		"query":           func(t *Ticket) { t.Relays = []string{"https://a/?token=x"} },
		"empty query":     func(t *Ticket) { t.Relays = []string{"https://a?"} },
		"fragment":        func(t *Ticket) { t.Relays = []string{"https://a#x"} },
		"relay port zero": func(t *Ticket) { t.Relays = []string{"https://a:0"} },
		"no such port":    func(t *Ticket) { t.Relays = []string{"https://a:65536"} },
		"two in one":      func(t *Ticket) { t.Relays = []string{"https://a,https://b"} },
		"no host":         func(t *Ticket) { t.Relays = []string{"https:///x"} },
		"URL is too long": func(t *Ticket) {
			t.Relays = []string{"https://a/" + strings.Repeat("x", maxURLLen+1-len("https://a/"))}
		},
		"control in a URL": func(t *Ticket) { t.Relays = []string{"https://a/\x1b"} },
	} {
		bad := good
		change(&bad)
		if _, err := New(bytes.NewReader(make([]byte, 32)), bad.Builder, bad.Relays, bad.Direct); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

// What nobody writes, but anybody may paste or send.
func TestParseRefuses(t *testing.T) {
	text := sample(t).String()
	sum := blake3.Sum256(nil)
	for name, bad := range map[string]string{
		"too long":        text + strings.Repeat(" ", MaxText),
		"only a checksum": prefix + key.EncodeBase32(sum[:checksumLen]),
	} {
		if _, err := Parse(bad); !errors.Is(err, ErrNotTicket) && !errors.Is(err, ErrDamaged) {
			t.Errorf("%s: %v", name, err)
		}
	}
	payload := append(make([]byte, 64), 0, 1, 6)
	payload = append(payload, netip.MustParseAddr("::ffff:192.0.2.1").AsSlice()...)
	if tk, err := parsePayload(append(payload, 1, 1)); err == nil {
		t.Errorf("an IPv4 address as IPv6 is taken as %v", tk.Direct)
	}
}

func TestParseSecretAndID(t *testing.T) {
	secret := sample(t).Secret
	if got, err := ParseSecret(secret.Text()); err != nil || got != secret {
		t.Errorf("%s, %v", got.Text(), err)
	}
	if got, err := ParseID(secret.ID().String()); err != nil || got != secret.ID() {
		t.Errorf("%s, %v", got, err)
	}
	// The last character of either has bits that stand for nothing.
	for _, good := range []string{secret.Text(), secret.ID().String()} {
		for _, bad := range []string{"", good[:8], good + good[:8], good[:len(good)-1] + "7", strings.ToUpper(good), good[:8] + "\n" + good[8:]} {
			_, err := ParseSecret(bad)
			_, idErr := ParseID(bad)
			if err == nil || idErr == nil {
				t.Errorf("%q is taken: %v, %v", bad, err, idErr)
			}
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add(sample(f).String())
	f.Add(prefix)
	f.Fuzz(func(t *testing.T, text string) {
		tk, err := Parse(text)
		if err != nil {
			return
		}
		again, err := Parse(tk.String())
		if err != nil || again.String() != tk.String() {
			t.Fatalf("what parses does not print and parse again: %v", err)
		}
	})
}

// FuzzPayload starts behind the checksum, which fuzzing would rarely get past.
func FuzzPayload(f *testing.F) {
	raw, ok := key.DecodeBase32(strings.TrimPrefix(sample(f).String(), prefix))
	if !ok {
		f.Fatal("a ticket cannot be read")
	}
	f.Add(raw[1 : len(raw)-checksumLen])
	f.Fuzz(func(t *testing.T, payload []byte) {
		tk, err := parsePayload(payload)
		if err != nil || tk.check() != nil {
			return
		}
		if again, err := Parse(tk.String()); err != nil || again.String() != tk.String() {
			t.Fatalf("what parses does not print and parse again: %v", err)
		}
	})
}
