package builder

import (
	"cmp"
	"math"
	"slices"
	"time"

	"github.com/drv-thru/drv-thru/core/key"
	"github.com/drv-thru/drv-thru/core/wire"
)

// Status is what the builder's owner sees.
type Status struct {
	Load
	// Refusing is why no build is taken until the owner mends it: the disk is full.
	Refusing string `json:"refusing,omitempty"`
	// Active are the builds that are not ended, those that run first, then in
	// the order of the queue, then those that it passes over because nobody is
	// there. Recent are ended ones, the newest first.
	Active []BuildStatus `json:"active"`
	Recent []BuildStatus `json:"recent"`
}

// BuildStatus is one build.
type BuildStatus struct {
	ID         wire.BuildID `json:"id"`
	Client     key.ID       `json:"client"`
	ClientName string       `json:"client_name,omitempty"`
	Ticket     string       `json:"ticket,omitempty"`
	Labels     []string     `json:"labels"` // what the client calls its installables
	State      wire.State   `json:"state"`
	Position   int          `json:"position,omitempty"`
	// WaitSeconds is how long that place may last; 0 is not known.
	WaitSeconds float64   `json:"wait_seconds,omitempty"`
	Created     time.Time `json:"created"`
	Started     time.Time `json:"started,omitzero"`
	Ended       time.Time `json:"ended,omitzero"`
	// Connected tells whether somebody follows its events.
	Connected bool `json:"connected,omitempty"`
	// Path is the kind of path of who began to follow last: a [link.PathKind].
	Path     string `json:"path,omitempty"`
	Detached bool   `json:"detached,omitempty"`
	// Building are the derivations that are being built.
	Building []BuildingDrv `json:"building,omitempty"`
	Result   *wire.Result  `json:"result,omitempty"`
}

// Status returns a snapshot with the newest RecentBuilds ended builds.
func (s *Service) Status() Status {
	st := Status{Load: s.Load()}
	if err := s.enoughDisk(); err != nil {
		st.Refusing = err.Error()
	}
	st.Active = s.active()
	st.Recent = s.ended(s.tuning().RecentBuilds)
	return st
}

// active are the builds that are not ended.
func (s *Service) active() []BuildStatus {
	all := []BuildStatus{}
	for _, b := range s.live() {
		all = append(all, b.status())
	}
	slices.SortFunc(all, func(a, b BuildStatus) int {
		return cmp.Or(cmp.Compare(a.turn(), b.turn()), a.Created.Compare(b.Created))
	})
	return all
}

// turn orders builds that are not ended.
func (st *BuildStatus) turn() int {
	if st.State == wire.StateQueued && st.Position == 0 {
		return math.MaxInt
	}
	return st.Position
}

// ended are the newest most ended builds, or all when most is negative.
func (s *Service) ended(most int) []BuildStatus {
	all := []BuildStatus{}
	for _, b := range s.past() {
		if len(all) == most {
			break
		}
		if b.admitErr == nil {
			all = append(all, b.status())
		}
	}
	return all
}

func (b *build) status() BuildStatus {
	position := b.s.queue.positionOf(b.place)
	wait := b.s.estimate.wait(position, b.s.tuning().Slots, b.s.cfg.Now())
	b.mu.Lock()
	defer b.mu.Unlock()
	st := BuildStatus{
		ID: b.rec.ID, Client: b.rec.Client, ClientName: b.rec.ClientName, State: b.rec.State, Position: position, WaitSeconds: wait.Seconds(),
		Created: b.rec.Created, Started: b.rec.Started, Ended: b.rec.Ended, Connected: b.readers > 0,
		Detached: b.rec.Detach, Building: b.buildingNow(), Result: b.rec.Result,
	}
	if b.readers > 0 {
		st.Path = b.path
	}
	if b.rec.Ticket != [16]byte{} {
		st.Ticket = b.rec.Ticket.String()
	}
	for _, r := range b.rec.Roots {
		st.Labels = append(st.Labels, cmp.Or(r.Label, r.Drv))
	}
	return st
}
