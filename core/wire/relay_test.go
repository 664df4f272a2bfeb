package wire_test

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"os"
	"strings"
	"testing"

	"github.com/drv-thru/drv-thru/core/key"
	"github.com/drv-thru/drv-thru/core/wire"
)

func relayKey(t testing.TB) key.Secret {
	s, err := key.NewSecret(bytes.NewReader(bytes.Repeat([]byte{7}, 32)))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

var relayNonce = bytes.Repeat([]byte{9}, wire.RelayNonceSize)

func relayMessages(t testing.TB) map[string]wire.RelayMessage {
	const host, circuit = "relay.example", "000102030405060708090a0b0c0d0e0f"
	id := relayKey(t).ID()
	return map[string]wire.RelayMessage{
		"challenge":  {Type: wire.RelayChallenge, Nonce: relayNonce},
		"register":   {Type: wire.RelayRegister, Endpoint: id, Host: host, Signature: relayKey(t).Sign(wire.RelayProof(host, relayNonce, id))},
		"registered": {Type: wire.RelayRegistered, KeepaliveMS: 6000},
		"ping":       {Type: wire.RelayPing},
		"pong":       {Type: wire.RelayPong},
		"incoming":   {Type: wire.RelayIncoming, Circuit: circuit},
		"refused":    {Type: wire.RelayRefused, Code: wire.CodeRelayNoBuilder},
		"refuse":     {Type: wire.RelayRefuse, Circuit: circuit, Code: wire.CodeRelayRefused},
	}
}

// TestRelayVectors pins the text of every message and the bytes of the proof:
// relays and builders of other versions have to agree on them.
func TestRelayVectors(t *testing.T) {
	data, err := os.ReadFile("testdata/relay.json")
	if err != nil {
		t.Fatal(err)
	}
	var vectors struct {
		Proof    string            `json:"proof"`
		Messages map[string]string `json:"messages"`
	}
	if err := json.Unmarshal(data, &vectors); err != nil {
		t.Fatal(err)
	}
	proof := hex.EncodeToString(wire.RelayProof("relay.example", relayNonce, relayKey(t).ID()))
	if proof != vectors.Proof {
		t.Errorf("proof is %s", proof)
	}
	for name, m := range relayMessages(t) {
		text := string(m.Encode())
		if text != vectors.Messages[name] {
			t.Errorf("%s encodes as %s", name, text)
		}
		back, err := wire.ParseRelayMessage([]byte(text))
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if again := string(back.Encode()); again != text {
			t.Errorf("%s becomes %s", name, again)
		}
	}
	m, err := wire.ParseRelayMessage([]byte(vectors.Messages["register"]))
	if err != nil {
		t.Fatal(err)
	}
	if !key.Verify(m.Endpoint, wire.RelayProof(m.Host, relayNonce, m.Endpoint), m.Signature) {
		t.Error("the vector's signature does not verify")
	}
}

func TestParseRelayMessageOfNewerPeer(t *testing.T) {
	m, err := wire.ParseRelayMessage([]byte(`{"type":"drain","after_ms":5000}`))
	if err != nil || m.Type != "drain" {
		t.Errorf("unknown type gives %v, %v", m, err)
	}
	if _, err := wire.ParseRelayMessage([]byte(`{"type":"ping","seq":4}`)); err != nil {
		t.Errorf("unknown member: %v", err)
	}
}

func TestParseRelayMessageRefuses(t *testing.T) {
	id := relayKey(t).ID().String()
	signature := strings.Repeat("A", 86) + "=="
	for _, text := range []string{
		``,
		`null`,
		`{}`,
		`[]`,
		`{"type":7}`,
		`{"type":"challenge"}`,
		`{"type":"challenge","nonce":"AAAA"}`,
		`{"type":"register","host":"a","signature":"` + signature + `"}`,
		`{"type":"register","endpoint":"` + id + `","signature":"` + signature + `"}`,
		`{"type":"register","endpoint":"` + id + `","host":"a"}`,
		`{"type":"register","endpoint":"` + id + `","host":"A","signature":"` + signature + `"}`,
		`{"type":"register","endpoint":"` + id + `","host":"a:443","signature":"` + signature + `"}`,
		`{"type":"register","endpoint":"` + id + `","host":"` + strings.Repeat("a", 300) + `","signature":"` + signature + `"}`,
		`{"type":"register","endpoint":"` + id[1:] + `","host":"a","signature":"` + signature + `"}`,
		`{"type":"registered"}`,
		`{"type":"registered","keepalive_ms":-1}`,
		`{"type":"registered","keepalive_ms":31000}`,
		`{"type":"incoming"}`,
		`{"type":"incoming","circuit":"000102030405060708090A0B0C0D0E0F"}`,
		`{"type":"incoming","circuit":"../../v1/listen"}`,
		`{"type":"refuse","circuit":"000102030405060708090a0b0c0d0e0f","code":"` + strings.Repeat("x", 65) + `"}`,
		`{"type":"refused"}`,
		`{"type":"ping","pad":"` + strings.Repeat("x", wire.RelayMaxControl) + `"}`,
	} {
		if m, err := wire.ParseRelayMessage([]byte(text)); err == nil {
			t.Errorf("%.100s is taken as %+v", text, m)
		}
	}
}

func TestRelayHost(t *testing.T) {
	for in, want := range map[string]string{
		"relay.example":       "relay.example",
		"Relay.Example.":      "relay.example",
		"relay.example:443":   "relay.example",
		"relay.example:80":    "relay.example",
		"relay.example.:8443": "relay.example:8443",
		"10.0.0.1:7411":       "10.0.0.1:7411",
		"[2001:DB8::1]":       "[2001:db8::1]",
		"[2001:db8::1]:443":   "[2001:db8::1]",
		"[2001:db8::1]:7411":  "[2001:db8::1]:7411",
		"[fe80::1%eth0]:7411": "[fe80::1]:7411",
		"[fe80::1%eth0]":      "[fe80::1]",
	} {
		if got := wire.RelayHost(in); got != want {
			t.Errorf("RelayHost(%q) = %q, want %q", in, got, want)
		}
		if got := wire.RelayHost(want); got != want {
			t.Errorf("RelayHost(%q) = %q, want it unchanged", want, got)
		}
	}
}

func TestRelayProofSeparatesItsParts(t *testing.T) {
	id := relayKey(t).ID()
	seen := map[string]bool{}
	for _, host := range []string{"a", "aa", ""} {
		for _, n := range []byte{1, 'a'} {
			seen[string(wire.RelayProof(host, bytes.Repeat([]byte{n}, wire.RelayNonceSize), id))] = true
		}
	}
	if len(seen) != 6 {
		t.Errorf("6 registrations have %d proofs", len(seen))
	}
}

func TestCircuitID(t *testing.T) {
	id, err := wire.NewCircuitID(bytes.NewReader(relayNonce))
	if err != nil || id != "09090909090909090909090909090909" {
		t.Errorf("got %q, %v", id, err)
	}
	if _, err := wire.NewCircuitID(strings.NewReader("short")); err == nil {
		t.Error("no error without randomness")
	}
	for _, bad := range []string{"", "0909", "0909090909090909090909090909090g", "0909090909090909090909090909090A"} {
		if _, err := wire.ParseCircuitID(bad); err == nil {
			t.Errorf("%q is taken", bad)
		}
	}
}

func FuzzParseRelayMessage(f *testing.F) {
	for _, m := range relayMessages(f) {
		f.Add(m.Encode())
	}
	f.Add([]byte(`{"type":"drain"}`))
	f.Add([]byte(`{"type":"register","endpoint":""}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		m, err := wire.ParseRelayMessage(data)
		if err != nil {
			return
		}
		again, err := wire.ParseRelayMessage(m.Encode())
		if err != nil {
			// Only an unknown type's members may grow past the limit when
			// they are written in full.
			if len(m.Encode()) <= wire.RelayMaxControl {
				t.Fatalf("%s is taken, %s is not: %v", data, m.Encode(), err)
			}
			return
		}
		if !bytes.Equal(again.Encode(), m.Encode()) {
			t.Fatalf("%s becomes %s", m.Encode(), again.Encode())
		}
	})
}
