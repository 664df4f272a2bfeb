package daemon

import (
	"context"
	"maps"
	"slices"
)

// Options are a connection's settings. Setting them replaces the daemon's own
// values of all the named ones, so a zero MaxJobs means that nothing is built:
// a connection without options keeps what the daemon's nix.conf says.
type Options struct {
	// KeepFailed keeps the directories of failed builds.
	KeepFailed bool
	// KeepGoing builds what can still be built after a failure.
	KeepGoing bool
	// Verbosity of messages and activities; build logs come at any level.
	Verbosity Verbosity
	// MaxJobs is the number of local builds at a time.
	MaxJobs uint
	// MaxSilentTime in seconds, after which a build without output is killed; 0 never.
	MaxSilentTime uint64
	// BuildCores is what builders find in NIX_BUILD_CORES; 0 is all cores.
	BuildCores uint
	// UseSubstitutes allows the daemon's substituters.
	UseSubstitutes bool
	// Overrides are further settings by their names in nix.conf. From a client
	// that it does not trust the daemon takes just a few (timeout among them,
	// and substituters that it trusts already) and ignores the rest, newer ones
	// with a warning on the log channel.
	Overrides map[string]string
}

// SetOptions sets the connection's options for the following operations.
func (c *Conn) SetOptions(ctx context.Context, o Options) error {
	c.private.Store(true)
	return c.setOptions(ctx, o)
}

func (c *Conn) setOptions(ctx context.Context, o Options) error {
	return c.call(ctx, func(e *encoder) {
		e.u64(opSetOptions)
		e.bool(o.KeepFailed)
		e.bool(o.KeepGoing)
		// Fallback: a substitute that was announced and is gone must not become a
		// build that was never checked.
		e.bool(false)
		e.u64(uint64(o.Verbosity))
		e.u64(uint64(o.MaxJobs))
		e.u64(o.MaxSilentTime)
		e.u64(1) // use the build hook, obsolete
		// "Verbose builds", which nothing in the daemon reads any more; the nix
		// command sends the same.
		e.u64(uint64(LevelVomit))
		e.u64(0) // log type, obsolete
		e.u64(0) // print build trace, obsolete
		e.u64(uint64(o.BuildCores))
		e.bool(o.UseSubstitutes)
		e.u64(uint64(len(o.Overrides)))
		for _, name := range slices.Sorted(maps.Keys(o.Overrides)) {
			e.string(name)
			e.string(o.Overrides[name])
		}
	}, nil)
}
