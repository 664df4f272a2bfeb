package builder

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"
)

func newPlace(group, client string) *place {
	return &place{group: group, client: client, granted: make(chan struct{}), got: func() {}, moved: func(int) {}, ready: true, present: true}
}

func granted(p *place) bool {
	select {
	case <-p.granted:
		return true
	default:
		return false
	}
}

// serve runs a queue of one slot until it is empty and returns who was served.
func serve(t *testing.T, q *queue, places []*place) []string {
	t.Helper()
	var order []string
	for range places {
		i := slices.IndexFunc(places, func(p *place) bool { return p != nil && granted(p) })
		if i < 0 {
			break
		}
		order = append(order, places[i].client)
		places[i] = nil
		q.release()
	}
	return order
}

func TestQueueTakesTurns(t *testing.T) {
	q := newQueue(1)
	blocker := newPlace("x", "blocker")
	q.join(blocker)
	var places []*place
	for _, who := range []string{"a", "a", "a", "a", "b", "b", "c"} {
		p := newPlace("client "+who, who)
		places = append(places, p)
		q.join(p)
	}
	q.release()
	if got, want := fmt.Sprint(serve(t, q, places)), "[a b c a b a a]"; got != want {
		t.Errorf("served %s, want %s", got, want)
	}
}

// A build that is cancelled just as it is given a slot gives it back, and one that
// never waited for one has none to give.
func TestLeaveQueue(t *testing.T) {
	q := newQueue(1)
	why := errors.New("why")
	for _, waits := range []bool{true, false} {
		b := &build{s: &Service{queue: q, cfg: Config{Now: time.Now}}, place: newPlace("ticket 1", "a")}
		if waits {
			q.join(b.place)
		}
		if granted(b.place) != waits {
			t.Fatal("the slot was not free")
		}
		if err := b.leaveQueue(why); err != why {
			t.Errorf("got %v", err)
		}
		if running, waiting, _ := q.counts(); running != 0 || waiting != 0 {
			t.Errorf("waits %t: %d running, %d waiting", waits, running, waiting)
		}
	}
}

// Whoever has ever been served is not remembered for ever, but those who wait are.
func TestQueueForgets(t *testing.T) {
	q := newQueue(1)
	join := func(group string, present bool) *place {
		p := newPlace(group, "a")
		p.present = present
		q.join(p)
		return p
	}
	join("served", true)
	q.release()
	served := join("served", false)
	for i := range 5000 {
		join(fmt.Sprint("ticket ", i), true)
		q.release()
	}
	if n := len(q.served); n > 2000 {
		t.Errorf("%d are remembered", n)
	}
	late := join("late", false)
	q.setPaused(true)
	q.setPresent(served, true)
	q.setPresent(late, true)
	q.setPaused(false)
	if !granted(late) || granted(served) {
		t.Error("who was served before does not go last")
	}
}

func TestQueueManyKeysOfOneTicketGainNothing(t *testing.T) {
	q := newQueue(1)
	q.join(newPlace("x", "blocker"))
	var places []*place
	for i := range 6 {
		places = append(places, newPlace("ticket 1", fmt.Sprint("k", i)))
	}
	places = append(places, newPlace("ticket 2", "other"), newPlace("ticket 2", "other"))
	for _, p := range places {
		q.join(p)
	}
	q.release()
	if got, want := fmt.Sprint(serve(t, q, places)), "[k0 other k1 other k2 k3 k4 k5]"; got != want {
		t.Errorf("served %s, want %s", got, want)
	}
}

func TestQueuePositions(t *testing.T) {
	q := newQueue(2)
	positions := make(map[string]int)
	join := func(name string) *place {
		p := newPlace(name, name)
		p.ready = false
		p.moved = func(n int) { positions[name] = n }
		q.join(p)
		return p
	}
	a, b, c, d := join("a"), join("b"), join("c"), join("d")
	check := func(want string) {
		t.Helper()
		if got := fmt.Sprint(positions["a"], positions["b"], positions["c"], positions["d"]); got != want {
			t.Errorf("positions %s, want %s", got, want)
		}
	}
	check("0 0 1 2") // two slots are free: nobody is before a and b
	q.setReady(c)    // whoever is ready goes first, however late it came
	if !granted(c) {
		t.Fatal("a slot stays empty while somebody could use it")
	}
	check("0 1 1 2") // c is told nothing more; b is behind a now
	q.setPresent(a, false)
	check("0 0 1 1")
	q.setPresent(d, false) // nobody is told, but it has no place while it is passed over
	if n := q.positionOf(d); n != 0 {
		t.Errorf("d is away, and has position %d", n)
	}
	q.setPresent(d, true)
	check("0 0 1 1")
	q.setReady(a)
	if granted(a) {
		t.Error("somebody who is away was given a slot")
	}
	q.setPresent(a, true)
	if !granted(a) {
		t.Error("somebody who came back was given none")
	}
	check("0 1 1 2")
	if q.leave(b) {
		t.Error("b was granted a slot")
	}
	check("0 1 1 1")
	if n := q.positionOf(b); n != 0 {
		t.Errorf("b has left, and has position %d", n)
	}
	if !q.leave(c) {
		t.Error("c was granted none")
	}
	q.release()
	q.setReady(d)
	if !granted(d) {
		t.Error("d was granted none")
	}
}

func TestQueuePause(t *testing.T) {
	q := newQueue(1)
	q.setPaused(true)
	p := newPlace("a", "a")
	q.join(p)
	if granted(p) || !q.isPaused() {
		t.Error("not paused")
	}
	q.setPaused(false)
	if !granted(p) {
		t.Error("not resumed")
	}
}

func TestQueueIsFairUnderLoad(t *testing.T) {
	const clients, each = 50, 20
	q := newQueue(1)
	q.join(newPlace("x", "blocker"))
	var places []*place
	for i := range clients * each {
		who := fmt.Sprint(i / each) // all of one client come at once
		places = append(places, newPlace(who, who))
	}
	r := rand.New(rand.NewPCG(1, 2))
	r.Shuffle(len(places), func(i, k int) { places[i], places[k] = places[k], places[i] })
	for _, p := range places {
		q.join(p)
	}
	q.release()
	served := make(map[string]int)
	for i, who := range serve(t, q, places) {
		served[who]++
		if turn := i/clients + 1; served[who] > turn {
			t.Fatalf("client %s had %d turns when others had %d", who, served[who], turn-1)
		}
	}
	if len(served) != clients {
		t.Errorf("%d clients served", len(served))
	}
}

func TestQueuePriorities(t *testing.T) {
	q := newQueue(1)
	q.setPriorities(map[string]int{"low": -1, "high": 5})
	q.join(newPlace("x", "blocker"))
	var places []*place
	for _, who := range []string{"low", "mid", "mid", "other", "high", "high", "low"} {
		p := newPlace(who, who)
		places = append(places, p)
		q.join(p)
	}
	if got := []int{places[0].position, places[4].position, places[5].position}; !slices.Equal(got, []int{6, 1, 2}) {
		t.Errorf("positions %v", got)
	}
	// A new configuration counts for who waits already.
	q.setPriorities(map[string]int{"low": 9, "high": 5})
	q.release()
	if got, want := fmt.Sprint(serve(t, q, places)), "[low low high high mid other mid]"; got != want {
		t.Errorf("served %s, want %s", got, want)
	}
}

func TestQueueTellsFewPositions(t *testing.T) {
	const many = 1000
	q := newQueue(1)
	q.join(newPlace("x", "blocker"))
	told := 0
	var last *place
	for range many {
		p := newPlace("a", "a")
		p.moved = func(int) {}
		q.join(p)
		last = p
	}
	seen := []int{last.told}
	last.moved = func(n int) { told++; seen = append(seen, n) }
	for !granted(last) {
		q.release()
	}
	if told > 80 {
		t.Errorf("a place was told %d positions", told)
	}
	if tail := seen[len(seen)-3:]; !slices.Equal(tail, []int{3, 2, 1}) || !slices.IsSortedFunc(seen, func(a, b int) int { return b - a }) {
		t.Errorf("it was told %v", seen)
	}
}

func BenchmarkQueueOfThousand(b *testing.B) {
	q := newQueue(1)
	q.join(newPlace("x", "blocker"))
	for i := range 1000 {
		q.join(newPlace(fmt.Sprint(i%50), fmt.Sprint(i%50)))
	}
	b.Run("joins and leaves", func(b *testing.B) {
		for b.Loop() {
			p := newPlace("new", "new")
			q.join(p)
			q.leave(p)
		}
	})
	b.Run("is there still", func(b *testing.B) {
		for b.Loop() {
			q.setPresent(q.waiting[0], true)
		}
	})
}
