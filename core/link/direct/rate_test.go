package direct

import (
	"testing"
	"time"
)

func TestBucket(t *testing.T) {
	now := time.Unix(1, 0)
	b := Bucket{PerSecond: 2, Burst: 3}
	take := func(want bool) {
		t.Helper()
		if got := b.Take(now); got != want {
			t.Errorf("got %t", got)
		}
	}
	for range 3 {
		take(true)
	}
	take(false)
	now = now.Add(500 * time.Millisecond)
	take(true)
	take(false)
	if b.Full(now) || !b.Full(now.Add(2*time.Second)) {
		t.Error("full too early or never")
	}
	if new(Bucket).Take(now) {
		t.Error("the zero value lets something pass")
	}
}

func TestQuota(t *testing.T) {
	now := time.Unix(1, 0)
	q := Quota[int]{Each: Bucket{PerSecond: 1, Burst: 2}, All: Bucket{PerSecond: 1e6, Burst: 1e6}}
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
	q = Quota[int]{Each: Bucket{Burst: 2}, All: Bucket{Burst: 1}}
	if !q.Take(1, now) || q.Take(2, now) {
		t.Error("all together are not bounded")
	}
	// Who has no more takes none from the others.
	q = Quota[int]{Each: Bucket{Burst: 1}, All: Bucket{Burst: 2}}
	for i := range 9 {
		if q.Take(1, now) != (i == 0) {
			t.Errorf("take %d of one", i)
		}
	}
	if !q.Take(2, now) {
		t.Error("one has taken what is for all")
	}
}
