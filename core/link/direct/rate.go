package direct

import (
	"maps"
	"sync"
	"time"

	"golang.org/x/time/rate"
)

// Quota is a token bucket for each of many keys, and beside them one for all together.
// The zero value lets nothing pass. No more than 4,096 keys are remembered; while all of
// them are in use, others wait.
type Quota[K comparable] struct {
	// PerSecond and Burst are those of a key's bucket.
	PerSecond rate.Limit
	Burst     int
	// All is the bucket of all keys together; nil is no bound.
	All *rate.Limiter

	mu  sync.Mutex
	per map[K]*rate.Limiter
}

const maxKeys = 4096

// Take takes a token of a key's and of all's.
func (q *Quota[K]) Take(k K, now time.Time) bool {
	b := q.bucket(k, now)
	return b != nil && b.AllowN(now, 1) && (q.All == nil || q.All.AllowN(now, 1))
}

// bucket returns a key's bucket, nil where there is no room for one.
func (q *Quota[K]) bucket(k K, now time.Time) *rate.Limiter {
	q.mu.Lock()
	defer q.mu.Unlock()
	b := q.per[k]
	if b != nil {
		return b
	}
	if len(q.per) >= maxKeys {
		// One that is full is as good as new.
		maps.DeleteFunc(q.per, func(_ K, b *rate.Limiter) bool { return b.TokensAt(now) >= float64(q.Burst) })
	}
	if len(q.per) >= maxKeys {
		return nil
	}
	if q.per == nil {
		q.per = make(map[K]*rate.Limiter)
	}
	b = rate.NewLimiter(q.PerSecond, q.Burst)
	q.per[k] = b
	return b
}
