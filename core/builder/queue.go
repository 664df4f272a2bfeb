package builder

import (
	"cmp"
	"slices"
	"sync"
)

// queue hands out slots. Those of a higher priority go first. Among equals the
// turn goes to the group (a trusted client or a ticket) that was served longest
// ago, within it to the client that was served longest ago, and within that to
// who came first. So one ticket holder gains nothing by many builds, and nothing
// by many keys.
type queue struct {
	mu      sync.Mutex
	slots   int
	running int
	paused  bool
	waiting []*place          // in order of arrival
	served  map[string]uint64 // when a group or client was last served
	turns   uint64
	// priorities are those of groups that have another than 0.
	priorities map[string]int
}

// place is one build's place in the queue.
type place struct {
	group, client string
	// granted is closed when the place was given a slot. Before anybody is told of a
	// move because of that, got is called; it must not block.
	granted chan struct{}
	got     func()
	// moved is told the place's new position, from 1, or 0 when it waits for no
	// one any more; it must not block.
	moved func(position int)

	// Guarded by queue.mu.
	ready    bool // its inputs are complete
	present  bool // its client is there to take it
	position int  // 0 also while it is passed over
	told     int  // the position that moved was last told
}

// nearPosition is where every step of a place is told. Further behind it is each
// tenth of the way: a thousand who wait would else be told a thousand times each.
const nearPosition = 20

// worthTelling reports whether a place's new position is.
func (p *place) worthTelling() bool {
	switch {
	case p.position == p.told:
		return false
	case p.position <= nearPosition || p.told == 0 || p.position > p.told:
		return true
	}
	return p.told-p.position >= p.told/10
}

func newQueue(slots int) *queue {
	return &queue{slots: slots, served: make(map[string]uint64)}
}

func (q *queue) join(p *place) {
	q.change(func() { q.waiting = append(q.waiting, p) })
}

// leave gives up the place. It reports whether the place had been granted a
// slot already, which the caller then has to give back with release.
func (q *queue) leave(p *place) (granted bool) {
	q.change(func() {
		i := slices.Index(q.waiting, p)
		if granted = i < 0; !granted {
			q.waiting = slices.Delete(q.waiting, i, i+1)
			p.position = 0
		}
	})
	return granted
}

func (q *queue) release() { q.change(func() { q.running-- }) }

func (q *queue) setReady(p *place) { q.change(func() { p.ready = true }) }

// setPresent tells whether the client of the place is there. Who is not keeps
// the place but is passed over.
func (q *queue) setPresent(p *place, present bool) {
	q.mu.Lock()
	same := p.present == present
	q.mu.Unlock()
	if !same { // each request of an upload says so twice, and a change costs all who wait
		q.change(func() { p.present, p.position = present, 0 })
	}
}

func (q *queue) setPaused(paused bool) { q.change(func() { q.paused = paused }) }

// setPriorities replaces the priorities of groups, also for who waits already.
func (q *queue) setPriorities(of map[string]int) { q.change(func() { q.priorities = of }) }

func (q *queue) setSlots(slots int) { q.change(func() { q.slots = slots }) }

// counts returns how many builds run and wait, and how many may run.
func (q *queue) counts() (running, waiting, slots int) {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.running, len(q.waiting), q.slots
}

func (q *queue) isPaused() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.paused
}

// positionOf returns the place's position, 0 when it does not wait.
func (q *queue) positionOf(p *place) int {
	q.mu.Lock()
	defer q.mu.Unlock()
	return p.position
}

// change applies f, hands out what slots are free and tells the others their
// new positions.
func (q *queue) change(f func()) {
	q.mu.Lock()
	defer q.mu.Unlock()
	f()
	for !q.paused && q.running < q.slots {
		next := q.order(func(p *place) bool { return p.present && p.ready }, 1)
		if len(next) == 0 {
			break
		}
		p := next[0]
		q.waiting = slices.DeleteFunc(q.waiting, func(o *place) bool { return o == p })
		q.running++
		q.turns++
		q.served[p.group], q.served[p.clientKey()] = q.turns, q.turns
		p.position, p.told = 0, 0
		p.got()
		close(p.granted)
	}
	q.forget()
	// Who only lacks inputs while slots are free does not wait for a slot.
	free := max(0, q.slots-q.running)
	if q.paused {
		free = 0
	}
	for i, p := range q.order(func(p *place) bool { return p.present }, len(q.waiting)) {
		p.position = max(0, i+1-free)
		if p.worthTelling() {
			p.told = p.position
			p.moved(p.position)
		}
	}
}

// forget drops the turns of who has nothing waiting, once there are many.
func (q *queue) forget() {
	if len(q.served) < 2*len(q.waiting)+1024 {
		return
	}
	kept := make(map[string]uint64, 2*len(q.waiting))
	for _, p := range q.waiting {
		kept[p.group], kept[p.clientKey()] = q.served[p.group], q.served[p.clientKey()]
	}
	q.served = kept
}

func (p *place) clientKey() string { return p.group + "\x00" + p.client }

// line is everyone of one group or client, in the order in which they go.
type line struct {
	priority int
	served   uint64 // when it last had a turn
	arrived  int    // of its first member, to break ties
	clients  []*line
	places   []*place
}

func (l *line) before(o *line) int {
	return cmp.Or(cmp.Compare(o.priority, l.priority), cmp.Compare(l.served, o.served), cmp.Compare(l.arrived, o.arrived))
}

// order returns the first most of those who wait and fit, in the order in which
// they would be served if each took one turn.
func (q *queue) order(fit func(*place) bool, most int) []*place {
	groups := make(map[string]*line)
	clients := make(map[string]*line)
	var all []*line
	n := 0
	for i, p := range q.waiting {
		if !fit(p) {
			continue
		}
		n++
		g := groups[p.group]
		if g == nil {
			g = &line{priority: q.priorities[p.group], served: q.served[p.group], arrived: i}
			groups[p.group] = g
			all = append(all, g)
		}
		c := clients[p.clientKey()]
		if c == nil {
			c = &line{served: q.served[p.clientKey()], arrived: i}
			clients[p.clientKey()] = c
			g.clients = append(g.clients, c)
		}
		c.places = append(c.places, p)
	}
	order := make([]*place, 0, min(n, most))
	slices.SortFunc(all, (*line).before)
	for _, g := range all {
		slices.SortFunc(g.clients, (*line).before)
	}
	// After its turn a line goes behind all others of its priority: its stamp
	// becomes the newest, so sorted lists stay sorted by moving the head to the end.
	for len(order) < cap(order) {
		equals := 1
		for equals < len(all) && all[equals].priority == all[0].priority {
			equals++
		}
		turns, rest := all[:equals:equals], all[equals:]
		for len(turns) > 0 && len(order) < cap(order) {
			g := turns[0]
			c := g.clients[0]
			order = append(order, c.places[0])
			c.places = c.places[1:]
			g.clients = rotate(g.clients, len(c.places) > 0)
			turns = rotate(turns, len(g.clients) > 0)
		}
		all = rest
	}
	return order
}

func rotate(lines []*line, again bool) []*line {
	head := lines[0]
	lines = lines[1:]
	if again {
		lines = append(lines, head)
	}
	return lines
}
