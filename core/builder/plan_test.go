package builder

import "testing"

// What is remembered to save questions does not become more and more, and what was
// used last is what stays.
func TestRecentIsBounded(t *testing.T) {
	var c recent[int, int]
	const always = -1
	c.add(always, 1)
	for i := range 3 * maxRecent {
		c.add(i, i)
		if _, ok := c.get(always); !ok {
			t.Fatalf("forgotten after %d others, although it was used", i)
		}
		if n := len(c.now) + len(c.old); n > 2*maxRecent {
			t.Fatalf("%d are remembered", n)
		}
	}
	if v, ok := c.get(2*maxRecent + 1); !ok || v != 2*maxRecent+1 {
		t.Errorf("the newest are forgotten")
	}
}
