package builder

import (
	"time"

	"github.com/drv-thru/drv-thru/core/ticket"
	"github.com/drv-thru/drv-thru/core/wire"
)

// Tuning is the part of a Config that may be changed while a Service runs.
type Tuning struct {
	Slots int // builds that run at once, default 1
	// KeepOutputs is how long a build's outputs and roots last after its end,
	// default 24h.
	KeepOutputs time.Duration
	// KeepLogs bounds the events of all ended builds that are remembered,
	// default DefaultKeepLogs; the oldest go first.
	KeepLogs int64
	// ReattachGrace is how long a build waits for its client, default 2m.
	ReattachGrace time.Duration
	MaxSilentTime time.Duration // of a builder; 0: no limit
	// MaxOutputBytes bounds every build in addition to its ticket's limit.
	MaxOutputBytes ticket.Size
	MinFree        uint64 // bytes below which nothing is built
	Cores          int
	// RecentBuilds is how many ended builds are remembered beyond KeepOutputs,
	// default 20.
	RecentBuilds int
}

func (t *Tuning) setDefaults() {
	t.Slots = max(1, t.Slots)
	if t.KeepOutputs <= 0 {
		t.KeepOutputs = defaultKeepOutputs
	}
	if t.KeepLogs <= 0 {
		t.KeepLogs = DefaultKeepLogs
	}
	if t.ReattachGrace <= 0 {
		t.ReattachGrace = wire.DefaultReattachGrace
	}
	if t.RecentBuilds <= 0 {
		t.RecentBuilds = defaultRecentBuilds
	}
}

// SetTuning changes what may be changed. Builds that run keep the cores and the
// time of silence that they began with; with fewer slots than builds that run, none
// is ended.
func (s *Service) SetTuning(t Tuning) {
	t.setDefaults()
	s.tuned.Store(&t)
	s.queue.setSlots(t.Slots)
}

func (s *Service) tuning() *Tuning { return s.tuned.Load() }
