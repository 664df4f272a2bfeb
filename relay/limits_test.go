package relay

import (
	"net/netip"
	"reflect"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// A relay whose limits nobody set has all of them, but for those on bytes.
func TestDefaultLimits(t *testing.T) {
	l := reflect.ValueOf(Limits{}.WithDefaults())
	for i := range l.NumField() {
		name := l.Type().Field(i).Name
		unlimited := name == "BytesPerSecond" || name == "CircuitBytesPerSecond"
		if l.Field(i).IsZero() != unlimited {
			t.Errorf("%s is %v", name, l.Field(i))
		}
	}
}

func TestGroup(t *testing.T) {
	for _, c := range []struct {
		a, b string
		same bool
	}{
		{"192.0.2.1", "192.0.2.2", false},
		{"192.0.2.1", "::ffff:192.0.2.1", true},
		{"::ffff:192.0.2.1", "::ffff:192.0.2.2", false}, // as a socket of both families has them
		{"2001:db8::1", "2001:db8::ffff:0:0:1", true},
		{"2001:db8::1", "2001:db8:0:1::1", false},
		{"fe80::1%eth0", "fe80::1", true},
	} {
		if same := group(netip.MustParseAddr(c.a)) == group(netip.MustParseAddr(c.b)); same != c.same {
			t.Errorf("%s and %s are the same: %t", c.a, c.b, same)
		}
	}
}

// An address that has more makes room: with its youngest place, and not for one that
// would have as many.
func TestPlaces(t *testing.T) {
	a, b, c := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("192.0.2.2"), netip.MustParseAddr("192.0.2.3")
	synctest.Test(t, func(t *testing.T) {
		var ps places
		var left []string
		take := func(name string, addr netip.Addr, leaves bool) {
			p := &place{addr: addr}
			if leaves {
				p.leave = func() {
					ps.free(p)
					left = append(left, name)
				}
			}
			ps.take(p)
			time.Sleep(time.Nanosecond)
		}
		take("a1", a, true)
		take("b1", b, true)
		take("a2", a, true)
		take("a3", a, true)
		take("a4", a, false)
		take("b2", b, true)
		for _, step := range []struct {
			has  int
			want string // who leaves
		}{{3, ""}, {2, "a3"}, {2, ""}, {1, "a2"}, {0, "b2"}, {0, "a1"}, {0, ""}} {
			left = nil
			made := ps.makeRoom(step.has)
			if got := strings.Join(left, " "); got != step.want || made != (step.want != "") {
				t.Errorf("for one that has %d: %q leaves, want %q", step.has, got, step.want)
			}
		}
		if ps.all != 2 || ps.by[a] != 1 || ps.by[b] != 1 || ps.by[c] != 0 || len(ps.held) != 2 {
			t.Errorf("%+v is left", ps)
		}
	})
}

func TestRateLimiter(t *testing.T) {
	address := func(i int) netip.Addr { return netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)}) }
	const burst = 2
	// A bucket is full again after two seconds.
	limiter := func() *rateLimiter { return &rateLimiter{perSecond: 1, burst: burst} }
	// all takes what an address has.
	all := func(l *rateLimiter, i int) (n int) {
		for l.allow(address(i)) {
			n++
		}
		return n
	}
	t.Run("tokens come back", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			l := limiter()
			for _, c := range []struct {
				after time.Duration
				want  int
			}{{0, burst}, {0, 0}, {time.Second, 1}, {time.Second / 2, 0}, {time.Second / 2, 1}, {time.Hour, burst}} {
				time.Sleep(c.after)
				if n := all(l, 1); n != c.want {
					t.Errorf("%d after %s, want %d", n, c.after, c.want)
				}
			}
		})
	})
	t.Run("others do not help", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			l := limiter()
			all(l, 1)
			if n := all(l, 2); n != burst {
				t.Errorf("another has %d", n)
			}
			if n := all(l, 1); n != 0 {
				t.Errorf("another came, and the first has %d again", n)
			}
			time.Sleep(1500 * time.Millisecond)
			all(l, 1)
			time.Sleep(time.Second) // now those that are full are forgotten
			all(l, 2)
			if n := all(l, 1); n != 1 {
				t.Errorf("%d a second after the last", n)
			}
		})
	})
	t.Run("who is gone is forgotten", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			l := limiter()
			for i := range 100 {
				l.allow(address(i))
			}
			time.Sleep(time.Minute)
			if l.allow(address(0)); len(l.buckets) != 1 {
				t.Errorf("%d are remembered", len(l.buckets))
			}
		})
	})
	t.Run("no more than so many", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			l := limiter()
			for i := range maxBuckets + 100 {
				if !l.allow(address(i)) {
					t.Fatalf("number %d is refused", i)
				}
			}
			if len(l.buckets) != maxBuckets {
				t.Errorf("%d are remembered", len(l.buckets))
			}
		})
	})
}
