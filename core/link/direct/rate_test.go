package direct

import (
	"testing"
	"time"

	"golang.org/x/time/rate"
)

func TestQuota(t *testing.T) {
	now := time.Unix(1, 0)
	q := Quota[int]{PerSecond: 1, Burst: 2, All: rate.NewLimiter(1e6, 1e6)}
	for i := range maxKeys {
		if !q.Take(i, now) {
			t.Fatalf("key %d is refused", i)
		}
	}
	if q.Take(-1, now) {
		t.Error("more keys than are allowed")
	}
	if !q.Take(0, now) || q.Take(0, now) {
		t.Error("a key's burst is not 2")
	}
	now = now.Add(time.Second)
	if !q.Take(-1, now) || len(q.per) > 3 {
		t.Errorf("%d keys stay", len(q.per))
	}
	q = Quota[int]{Burst: 2, All: rate.NewLimiter(0, 1)}
	if !q.Take(1, now) || q.Take(2, now) {
		t.Error("all together are not bounded")
	}
	// Who has no more takes none from the others.
	q = Quota[int]{Burst: 1, All: rate.NewLimiter(0, 2)}
	for i := range 9 {
		if q.Take(1, now) != (i == 0) {
			t.Errorf("take %d of one", i)
		}
	}
	if !q.Take(2, now) {
		t.Error("one has taken what is for all")
	}
	if new(Quota[int]).Take(1, now) {
		t.Error("the zero value lets something pass")
	}
}
