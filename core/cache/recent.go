package cache

import "sync"

// Recent remembers pairs that cost something to find out again. Two generations
// bound it.
type Recent[K comparable, V any] struct {
	// Most is the size of one generation.
	Most int

	mu       sync.Mutex
	now, old map[K]V
}

// Get returns the value of k, if it is remembered.
func (r *Recent[K, V]) Get(k K) (V, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.get(k)
}

// Put remembers v.
func (r *Recent[K, V]) Put(k K, v V) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.put(k, v)
}

// Of returns the value of k, which is v unless another is remembered.
func (r *Recent[K, V]) Of(k K, v V) V {
	r.mu.Lock()
	defer r.mu.Unlock()
	if known, ok := r.get(k); ok {
		return known
	}
	r.put(k, v)
	return v
}

func (r *Recent[K, V]) get(k K) (V, bool) {
	if v, ok := r.now[k]; ok {
		return v, true
	}
	v, ok := r.old[k]
	if ok {
		r.put(k, v)
	}
	return v, ok
}

func (r *Recent[K, V]) put(k K, v V) {
	if r.now == nil || len(r.now) >= r.Most {
		r.old, r.now = r.now, make(map[K]V)
	}
	r.now[k] = v
}
