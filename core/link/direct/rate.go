package direct

import (
	"sync"
	"time"
)

// Bucket is a token bucket: Burst at once, then PerSecond. Its zero value lets
// nothing pass.
type Bucket struct {
	PerSecond, Burst float64

	mu    sync.Mutex
	used  float64
	since time.Time
}

// Take takes a token, if there is one.
func (b *Bucket) Take(now time.Time) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.since.IsZero() {
		b.used = max(0, b.used-max(0, now.Sub(b.since).Seconds())*b.PerSecond)
	}
	b.since = now
	if b.used+1 > b.Burst {
		return false
	}
	b.used++
	return true
}

// Full reports whether nothing was taken for long enough that the bucket is as
// good as new.
func (b *Bucket) Full(now time.Time) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.since.IsZero() || b.used-now.Sub(b.since).Seconds()*b.PerSecond <= 0
}

// Quota is a bucket for each of many keys, and one for all together, if that has a
// Burst. No more than 4,096 keys are remembered; while all of them are in use, others
// wait.
type Quota[K comparable] struct {
	Each, All Bucket // what they start as

	mu  sync.Mutex
	per map[K]*Bucket
}

const maxKeys = 4096

// Take takes a token of a key's and of all's.
func (q *Quota[K]) Take(k K, now time.Time) bool {
	q.mu.Lock()
	b := q.per[k]
	if b == nil {
		if len(q.per) >= maxKeys {
			for k, old := range q.per {
				if old.Full(now) {
					delete(q.per, k)
				}
			}
		}
		if len(q.per) >= maxKeys {
			q.mu.Unlock()
			return false
		}
		if q.per == nil {
			q.per = make(map[K]*Bucket)
		}
		b = &Bucket{PerSecond: q.Each.PerSecond, Burst: q.Each.Burst}
		q.per[k] = b
	}
	q.mu.Unlock()
	return b.Take(now) && (q.All.Burst == 0 || q.All.Take(now))
}
