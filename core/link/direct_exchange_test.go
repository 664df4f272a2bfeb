//go:build !js && !wasip1

package link

import (
	"bytes"
	"crypto/ed25519"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/drv-thru/drv-thru/core/wire"
)

// By a relay, too, the builder tells its addresses to those whom it knows only.
func TestExchangeNeedsAuthorization(t *testing.T) {
	b := serveDirect(t, nil)
	s := session(t, &relayed{wayTo{network: &b.network, address: "b"}})
	for _, method := range []string{http.MethodGet, http.MethodPost} {
		req, err := http.NewRequest(method, pathURL, pathRequest(t, wire.PathToken{1}))
		if err != nil {
			t.Fatal(err)
		}
		resp, err := s.Control().RoundTrip(req)
		if err != nil {
			t.Fatal(err)
		}
		text, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if err != nil || resp.StatusCode < 400 {
			t.Errorf("%s: %s %s, %v", method, resp.Status, text, err)
		}
	}
}

// exchangeWith asks a builder for its addresses.
func exchangeWith(t *testing.T, d *DirectListener, group string, who byte, body io.Reader) error {
	r := httptest.NewRequest(http.MethodPost, wire.RoutePath, body)
	r.Header.Set("Authorization", group)
	id := secret(t, who).ID()
	r.TLS = &tls.ConnectionState{PeerCertificates: []*x509.Certificate{{PublicKey: ed25519.PublicKey(id[:])}}}
	_, err := d.exchange(httptest.NewRecorder(), r)
	return err
}

func pathRequest(t *testing.T, token wire.PathToken) io.Reader {
	doc, err := json.Marshal(wire.PathRequest{Token: token, NAT: wire.NATUnknown})
	if err != nil {
		t.Fatal(err)
	}
	return bytes.NewReader(doc)
}

// Of a document that is too large no more is read than shows that.
func TestExchangeOfALargeDocument(t *testing.T) {
	d := serveDirect(t, nil).listen
	body := strings.NewReader(strings.Repeat(" ", 100*wire.MaxPathDocument))
	if err := exchangeWith(t, d, "me", 1, body); wire.CodeOf(err) != wire.CodeBadRequest {
		t.Errorf("got %v", err)
	}
	if read := body.Size() - int64(body.Len()); read > 2*wire.MaxPathDocument {
		t.Errorf("%d bytes were read", read)
	}
}

// One client has so many exchanges, whatever its ticket has left.
func TestExchangesOfOneClient(t *testing.T) {
	d := serveDirect(t, nil).listen
	d.each.PerSecond = 0
	for n := range byte(9) {
		err := exchangeWith(t, d, "me", 1, pathRequest(t, wire.PathToken{1, n}))
		if want := n == 8; (wire.CodeOf(err) == wire.CodeRate) != want {
			t.Errorf("exchange %d: %v", n, err)
		}
	}
	if err := exchangeWith(t, d, "me", 2, pathRequest(t, wire.PathToken{2})); err != nil {
		t.Errorf("another client: %v", err)
	}
}

// A ticket without relays has no address of which a translator lets nothing in.
func TestAddressesBehindATranslator(t *testing.T) {
	d, err := ListenDirect(DirectConfig{Identity: secret(t, 2), Listen: netip.MustParseAddrPort("127.0.0.1:0"), loopback: true})
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	d.cancel()
	d.work.Wait() // it finds out nothing itself any more
	outer := netip.MustParseAddrPort("192.0.2.1:4242")
	for nat, want := range map[wire.NAT]bool{wire.NATNone: true, wire.NATUnknown: true, wire.NATCone: false, wire.NATSymmetric: false} {
		d.nat, d.seen = nat, []netip.AddrPort{outer}
		if got := slices.Contains(d.Addresses(), outer); got != want {
			t.Errorf("%s: %v", nat, got)
		}
	}
}

// However many keys the holders of a ticket have, their exchanges leave room for others'.
func TestExchangesAreShared(t *testing.T) {
	d := serveDirect(t, func(cfg *DirectConfig) {
		cfg.Authorize = func(r *http.Request) (string, error) { return r.Header.Get("Authorization"), nil }
	}).listen
	exchange := func(group string, who byte, token wire.PathToken) error {
		return exchangeWith(t, d, group, who, pathRequest(t, token))
	}
	taken := 0
	for who := range byte(100) {
		for n := range byte(8) {
			if exchange("one", who, wire.PathToken{1, who, n}) == nil {
				taken++
			}
		}
	}
	if err := exchange("other", 200, wire.PathToken{2}); taken < 8 || err != nil {
		t.Errorf("after %d exchanges of one ticket's holders another's is refused: %v", taken, err)
	}
}
