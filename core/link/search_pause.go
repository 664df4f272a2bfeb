//go:build !js && !wasip1

package link

import "time"

const (
	// Searches are repeated from searchAfter to searchMost apart, or to searchAgain
	// where a path was found once.
	searchAfter = 5 * time.Second
	searchMost  = 2 * time.Minute
	searchAgain = 15 * time.Second
	// brief is how long a path lasts that did not last.
	brief = 15 * time.Second
)

// pauses tells how long a search waits for the next. The zero value is not ready.
type pauses struct {
	next time.Duration
	had  bool // a path, which may come back
	// flaps counts the paths in a row that did not last.
	flaps int
}

// reset forgets what was in vain: the network is another one.
func (p *pauses) reset() { p.next, p.flaps = searchAfter, 0 }

// failed is told that the pause is over and nothing was found before it.
func (p *pauses) failed() {
	most := searchMost
	if p.had {
		most = searchAgain
	}
	p.next = min(2*p.next, most)
}

// lost is told how long a path lasted, and tells whether another is sought at once.
// Where paths can be opened and then carry nothing, each of them breaks off what
// was sent by it.
func (p *pauses) lost(lasted time.Duration) (atOnce bool) {
	p.had = true
	if p.flaps++; lasted >= brief {
		p.flaps = 0
	}
	if p.flaps > 1 {
		return false
	}
	p.next = searchAfter
	return true
}
