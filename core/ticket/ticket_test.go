package ticket

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"strings"
	"testing"

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
		"no builder":       func(t *Ticket) { t.Builder = key.ID{} },
		"nowhere to go":    func(t *Ticket) { t.Relays, t.Direct = nil, nil },
		"nine relays":      func(t *Ticket) { t.Relays = strings.Fields(strings.Repeat("http://a ", 9)) },
		"port zero":        func(t *Ticket) { t.Direct = []netip.AddrPort{netip.MustParseAddrPort("192.0.2.1:0")} },
		"zone":             func(t *Ticket) { t.Direct = []netip.AddrPort{netip.MustParseAddrPort("[fe80::1%eth0]:1")} },
		"ftp":              func(t *Ticket) { t.Relays = []string{"ftp://a"} },
		"password":         func(t *Ticket) { t.Relays = []string{"https://u:p@a"} },
		"query":            func(t *Ticket) { t.Relays = []string{"https://a/?token=x"} },
		"relay port zero":  func(t *Ticket) { t.Relays = []string{"https://a:0"} },
		"no such port":     func(t *Ticket) { t.Relays = []string{"https://a:65536"} },
		"two in one":       func(t *Ticket) { t.Relays = []string{"https://a,https://b"} },
		"no host":          func(t *Ticket) { t.Relays = []string{"https:///x"} },
		"URL is too long":  func(t *Ticket) { t.Relays = []string{"https://a/" + strings.Repeat("x", 250)} },
		"control in a URL": func(t *Ticket) { t.Relays = []string{"https://a/\x1b"} },
	} {
		bad := good
		change(&bad)
		if _, err := New(bytes.NewReader(make([]byte, 32)), bad.Builder, bad.Relays, bad.Direct); err == nil {
			t.Errorf("%s: accepted", name)
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
	raw, err := encoding.DecodeString(strings.TrimPrefix(sample(f).String(), prefix))
	if err != nil {
		f.Fatal(err)
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
