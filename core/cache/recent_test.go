package cache

import "testing"

// What is remembered to save questions does not become more and more, and what was
// used last is what stays.
func TestRecentIsBounded(t *testing.T) {
	c := Recent[int, int]{Most: 100}
	const always = -1
	c.Put(always, 1)
	for i := range 3 * c.Most {
		c.Put(i, i)
		if _, ok := c.Get(always); !ok {
			t.Fatalf("forgotten after %d others, although it was used", i)
		}
		if n := len(c.now) + len(c.old); n > 2*c.Most {
			t.Fatalf("%d are remembered", n)
		}
	}
	if v, ok := c.Get(2*c.Most + 1); !ok || v != 2*c.Most+1 {
		t.Errorf("the newest are forgotten")
	}
}
