package relay_test

import (
	"errors"
	"net/http"
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/drv-thru/drv-thru/core/key"
	"github.com/drv-thru/drv-thru/core/link"
	"github.com/drv-thru/drv-thru/core/wire"
	"github.com/drv-thru/drv-thru/relay"
)

const token = "0123456789abcdefghijkl"

// listen runs a builder's listener until the test ends and returns it with how
// its first attempt went.
func listen(t *testing.T, w *world, identity key.Secret, token string) (*link.Listener, error) {
	t.Helper()
	l, err := link.Listen(link.ListenConfig{
		Identity: identity, Relays: []string{relayURL}, Network: w.net(), Jitter: func() float64 { return 1 },
		Token: func(relay string) string {
			if relay != relayURL {
				t.Errorf("token for %s", relay)
			}
			return token
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	for {
		changed := l.Changed()
		if st := l.Status()[0]; st.Connected || st.Err != nil {
			return l, st.Err
		}
		<-changed
	}
}

func TestAccessByToken(t *testing.T) {
	inWorld(t, relay.Config{Access: relay.AllowTokens([]string{token})}, func(t *testing.T, w *world) {
		for _, wrong := range []string{"", "0123456789abcdefghijkm", token + "x"} {
			_, err := listen(t, w, secret(3), wrong)
			if !errors.Is(err, wire.CodeRelayAccess.Err()) || !strings.Contains(err.Error(), relayURL) {
				t.Errorf("token %q: %v", wrong, err)
			}
		}
		if _, err := open(t.Context(), w, wire.RouteRelayListen); !errors.Is(err, wire.CodeRelayAccess.Err()) {
			t.Errorf("the handshake without a token: %v", err)
		}
		l, err := listen(t, w, secret(2), token)
		if err != nil {
			t.Fatal(err)
		}
		// Its circuits need no token.
		go func() {
			if ws, err := open(t.Context(), w, dialRoute(secret(2))); err == nil {
				_ = ws.CloseNow()
			}
		}()
		c, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		_ = c.Close()
		if got := metric(t, w.relay, "refused_total", "relay.access", "listen"); got < 3 {
			t.Errorf("counted %v", got)
		}

		// The token is taken back.
		w.relay.SetAccess(relay.AllowTokens([]string{token + "another"}))
		for l.Status()[0].Connected {
			<-l.Changed()
		}
		if err := l.Status()[0].Err; !errors.Is(err, wire.CodeRelayAccess.Err()) {
			t.Errorf("taken back: %v", err)
		}
	})
}

func TestAccessByList(t *testing.T) {
	inWorld(t, relay.Config{Access: relay.AllowBuilders([]key.ID{secret(2).ID()})}, func(t *testing.T, w *world) {
		if _, err := listen(t, w, secret(3), ""); !errors.Is(err, wire.CodeRelayAccess.Err()) {
			t.Errorf("not on the list: %v", err)
		}
		l, err := listen(t, w, secret(2), "")
		if err != nil {
			t.Fatal(err)
		}
		counted(t, w.relay, 1, "builders")
		w.relay.SetAccess(relay.Access{})
		synctest.Wait()
		if !l.Status()[0].Connected {
			t.Error("it was let go when everybody was let in")
		}
	})
}

// Access may be taken from a builder while it proves who it is: what the access was
// when it began does not count.
func TestAccessIsTakenFromWhoRegisters(t *testing.T) {
	s := relay.New(relay.Config{Access: relay.AllowBuilders([]key.ID{secret(2).ID()})})
	for _, nobody := range []relay.Access{relay.AllowBuilders(nil), relay.AllowTokens(nil)} {
		s.SetAccess(nobody)
		if err := s.Add(secret(2).ID()); !errors.Is(err, wire.CodeRelayAccess.Err()) {
			t.Errorf("got %v", err)
		}
		if st := s.Stats(); st.Builders != 0 {
			t.Errorf("it is registered: %+v", st)
		}
	}
}

func TestForwardedBy(t *testing.T) {
	addr := relay.ForwardedBy([]netip.Prefix{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("2001:db8::/32")})
	for _, c := range []struct {
		peer, want string
		header     []string
	}{
		{"192.0.2.1:1", "192.0.2.1", nil},
		{"192.0.2.1:1", "192.0.2.1", []string{"198.51.100.1"}}, // no proxy of ours
		{"10.0.0.1:1", "10.0.0.1", nil},
		{"10.0.0.1:1", "198.51.100.1", []string{"198.51.100.1"}},
		{"[::ffff:10.0.0.1]:1", "198.51.100.1", []string{"198.51.100.1"}},
		{"[2001:db8::1]:1", "2001:db9::2", []string{"2001:db9::2"}},
		{"[2001:db8::1]:1", "2001:db9::2", []string{"[2001:db9::2]:443"}},
		{"10.0.0.1:1", "198.51.100.2", []string{"198.51.100.1, 198.51.100.2"}}, // the client made up the first
		{"10.0.0.1:1", "198.51.100.2", []string{"198.51.100.1, 198.51.100.2,10.0.0.2 , 10.0.0.3"}},
		{"10.0.0.1:1", "198.51.100.2", []string{"198.51.100.1", "198.51.100.2:99", "10.0.0.2"}},
		{"10.0.0.1:1", "10.0.0.3", []string{"10.0.0.3, 10.0.0.2"}}, // nobody but proxies
		{"10.0.0.1:1", "10.0.0.1", []string{"198.51.100.1, unknown"}},
		{"10.0.0.1:1", "10.0.0.1", []string{""}},
	} {
		r := &http.Request{RemoteAddr: c.peer, Header: http.Header{"X-Forwarded-For": c.header}}
		if got := addr(r); got.String() != c.want {
			t.Errorf("%s %q: %s, want %s", c.peer, c.header, got, c.want)
		}
	}
}
