package wire

import (
	"bytes"
	"encoding/json"
	"net/netip"
	"reflect"
	"strings"
	"testing"
)

var someToken = PathToken{1, 2, 3, 0xff}

func TestPathDocuments(t *testing.T) {
	const golden = `{"token":"aebah7yaaaaaaaaaaaaaaaaaaa","nat":"cone","candidates":["192.0.2.1:4000","[2001:db8::1]:4000"]}`
	r := PathRequest{Token: someToken, NAT: NATCone, Candidates: []netip.AddrPort{
		netip.MustParseAddrPort("192.0.2.1:4000"), netip.MustParseAddrPort("[2001:db8::1]:4000"),
	}}
	text, err := json.Marshal(r)
	if err != nil || string(text) != golden {
		t.Errorf("got %s, %v", text, err)
	}
	if got, err := ParsePathRequest([]byte(golden)); err != nil || !reflect.DeepEqual(got, r) {
		t.Errorf("got %+v, %v", got, err)
	}
	many := strings.Repeat(`"192.0.2.1:4000",`, MaxCandidates)
	for name, bad := range map[string]string{
		"no token":  `{"candidates":[]}`,
		"token":     `{"token":"aebah7yaaaaaaaaaaaaaaaaaa1"}`,
		"too many":  `{"token":"aebah7yaaaaaaaaaaaaaaaaaaa","candidates":[` + many + `"192.0.2.1:4000"]}`,
		"host name": `{"token":"aebah7yaaaaaaaaaaaaaaaaaaa","candidates":["host:1"]}`,
		"long":      `{"token":"aebah7yaaaaaaaaaaaaaaaaaaa"` + strings.Repeat(" ", MaxPathDocument) + `}`,
	} {
		if r, err := ParsePathRequest([]byte(bad)); err == nil {
			t.Errorf("%s: got %+v", name, r)
		}
	}
	for name, bad := range map[string]string{
		"too many": `{"tcp":[` + many + `"192.0.2.1:4000"]}`,
		"long":     strings.Repeat(" ", MaxPathDocument) + `{}`,
	} {
		if a, err := ParsePathAnswer([]byte(bad)); err == nil {
			t.Errorf("%s: got %+v", name, a)
		}
	}
}

func TestPunch(t *testing.T) {
	p := AppendPunch(nil, someToken, PunchPong)
	if want := "!dtp\x01\x02\x03\xff" + strings.Repeat("\x00", 12) + "\x02"; string(p) != want {
		t.Errorf("got %q", p)
	}
	if token, kind, ok := ParsePunch(p); !ok || token != someToken || kind != PunchPong {
		t.Errorf("got %v %d %t", token, kind, ok)
	}
	for _, bad := range [][]byte{nil, p[:20], append(bytes.Clone(p), 0), AppendPunch(nil, someToken, 3), bytes.Repeat([]byte{0}, 21)} {
		if _, _, ok := ParsePunch(bad); ok {
			t.Errorf("%q is taken", bad)
		}
	}
}

func FuzzPath(f *testing.F) {
	f.Add([]byte(`{"token":"aebah7yaaaaaaaaaaaaaaaaaaa","nat":"cone","candidates":["192.0.2.1:4000"]}`))
	f.Add([]byte(`{"udp":["192.0.2.1:4000"],"tcp":["[2001:db8::1]:4000"],"nat":"none"}`))
	f.Add(AppendPunch(nil, someToken, PunchPing))
	f.Fuzz(func(t *testing.T, p []byte) {
		if r, err := ParsePathRequest(p); err == nil {
			text, err := json.Marshal(r)
			if err != nil {
				t.Fatal(err)
			}
			if again, err := ParsePathRequest(text); err == nil && len(again.Candidates) != len(r.Candidates) {
				t.Errorf("%+v became %+v", r, again)
			}
		}
		if a, err := ParsePathAnswer(p); err == nil && max(len(a.UDP), len(a.TCP)) > MaxCandidates {
			t.Errorf("accepted %d and %d addresses", len(a.UDP), len(a.TCP))
		}
		if token, kind, ok := ParsePunch(p); ok && !bytes.Equal(AppendPunch(nil, token, kind), p) {
			t.Errorf("%q is read as %v %d", p, token, kind)
		}
	})
}
