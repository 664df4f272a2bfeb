package builder

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/drv-thru/drv-thru/core/nix"
	"github.com/drv-thru/drv-thru/core/wire"
)

const (
	// retainEvery is how often the builds whose time is over are looked for.
	retainEvery = time.Minute
	// sweepEvery is how often the index is asked for paths that were collected.
	sweepEvery = time.Hour
)

// recover takes over what an earlier process left: its records, with those under
// way marked as interrupted unless nobody will ask for them again, and no
// directory without a record. It returns the builds that go on.
func (s *Service) recover(ctx context.Context) (resumed []*build, err error) {
	records, err := s.cfg.Records.Builds(ctx)
	if err != nil {
		return nil, err
	}
	for _, rec := range records {
		if !rec.State.Ended() {
			b, err := s.resume(ctx, rec)
			if err == nil {
				s.builds.put(b)
				resumed = append(resumed, b)
				continue
			}
			s.cfg.Log.Debug("build does not go on by itself", "build", rec.ID, "err", err)
			rec.State, rec.Ended = wire.StateInterrupted, s.cfg.Now()
			rec.Result = &wire.Result{Error: errInterrupted, UploadBytes: rec.sent()}
			if err := s.cfg.Records.UpdateBuild(ctx, rec); err != nil {
				return nil, err
			}
			s.cfg.Log.Info("build was interrupted", "build", rec.ID)
		}
		s.builds.put(s.pastBuild(rec))
	}
	s.estimate.learn(records)
	if _, err := s.leftOver(false); err != nil {
		return nil, fmt.Errorf("remove what an earlier run left: %w", err)
	}
	return resumed, nil
}

// pastBuild stands for a build of an earlier process.
func (s *Service) pastBuild(rec BuildRecord) *build {
	b := &build{
		s: s, rec: rec, dir: filepath.Join(s.cfg.Dir, string(rec.ID)),
		admitted: make(chan struct{}), done: make(chan struct{}),
		place: &place{}, cancel: func(error) {},
	}
	close(b.admitted)
	close(b.done)
	return b
}

// retain removes what has had its time, now and every minute.
func (s *Service) retain() {
	defer s.wg.Done()
	tick := time.NewTicker(retainEvery)
	defer tick.Stop()
	var swept time.Time
	for {
		_, err := s.forget(s.ctx, false)
		_, tidyErr := s.incoming.tidy(s.tuning().KeepOutputs, s.enoughDisk() != nil, false)
		err = errors.Join(err, tidyErr)
		if now := time.Now(); now.Sub(swept) >= sweepEvery {
			swept = now
			_, sweepErr := s.sweep(s.ctx, false)
			err = errors.Join(err, sweepErr)
		}
		if err != nil && s.ctx.Err() == nil {
			s.cfg.Log.Error("remove what has had its time", "err", err)
		}
		select {
		case <-s.ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// Garbage is something that has had its time.
type Garbage struct {
	What string `json:"what"` // a Garbage… constant
	Name string `json:"name"` // a build's ID, a store path or a file
	// Bytes is what it takes on disk; for GarbageOutputs what the next
	// collection of the Nix store may free at most.
	Bytes int64 `json:"bytes"`
}

// The kinds of garbage.
const (
	GarbageOutputs = "outputs"   // roots of a build's outputs
	GarbageLog     = "log"       // events of a build
	GarbageBuild   = "build"     // the record of a build and its events
	GarbageUpload  = "upload"    // of a large input: what came of it, or its manifest
	GarbageIndex   = "index"     // index of a path that is not valid any more
	GarbageLeft    = "left over" // what no build knows of
)

// CollectGarbage removes what has had its time and returns what that was; with
// dryRun it only tells. All of this also happens by itself, sooner or later.
func (s *Service) CollectGarbage(ctx context.Context, dryRun bool) ([]Garbage, error) {
	all, err := s.forget(ctx, dryRun)
	left, leftErr := s.leftOver(dryRun)
	swept, sweepErr := s.sweep(ctx, dryRun)
	sent, sentErr := s.incoming.tidy(s.tuning().KeepOutputs, s.enoughDisk() != nil, dryRun)
	return slices.Concat(all, left, swept, sent), errors.Join(err, leftErr, sweepErr, sentErr)
}

// sweep drops the index of paths that were collected.
func (s *Service) sweep(ctx context.Context, dryRun bool) ([]Garbage, error) {
	if s.cfg.Index == nil {
		return nil, nil
	}
	swept, err := s.cfg.Index.Sweep(ctx, func(ctx context.Context, paths []nix.Path) ([]nix.Path, error) {
		return s.cfg.Store.ValidPaths(ctx, paths, false)
	}, dryRun)
	gone := make([]Garbage, len(swept))
	for i, x := range swept {
		gone[i] = Garbage{GarbageIndex, string(x.Path), x.Bytes}
	}
	return gone, err
}

// leftOver removes directories that belong to no build.
func (s *Service) leftOver(dryRun bool) ([]Garbage, error) {
	s.keeping.Lock()
	defer s.keeping.Unlock()
	entries, err := os.ReadDir(s.cfg.Dir)
	if err != nil {
		return nil, err
	}
	var gone []Garbage
	var failed error
	for _, e := range entries {
		s.mu.Lock()
		b := s.builds.all[wire.BuildID(e.Name())]
		s.mu.Unlock()
		if b != nil {
			continue
		}
		path := filepath.Join(s.cfg.Dir, e.Name())
		g := Garbage{GarbageLeft, path, BytesBelow(path)}
		if !dryRun {
			if err := os.RemoveAll(path); err != nil {
				failed = errors.Join(failed, err)
				continue
			}
		}
		gone = append(gone, g)
	}
	return gone, failed
}

// forget removes the roots of builds that ended KeepOutputs ago, the records of
// those but for the newest RecentBuilds, and the oldest events beyond KeepLogs.
func (s *Service) forget(ctx context.Context, dryRun bool) ([]Garbage, error) {
	s.keeping.Lock()
	defer s.keeping.Unlock()
	now := s.cfg.Now()
	limit := now.Add(-s.tuning().KeepOutputs)
	logs := s.tuning().KeepLogs
	var gone []Garbage
	var failed error
	note := func(what string, b *build, bytes int64, remove func() error) {
		done := s.clear(b)
		if done == nil {
			return // it was interrupted, and its client is back
		}
		defer done()
		if !dryRun {
			if err := remove(); err != nil {
				failed = errors.Join(failed, err)
				return
			}
		}
		gone = append(gone, Garbage{what, string(b.rec.ID), bytes})
	}
	for i, b := range s.past() {
		if !dryRun {
			if err := s.amend(ctx, b, now); err != nil {
				failed = errors.Join(failed, err)
				continue
			}
		}
		over := !b.record().Ended.After(limit)
		if over && b.hasRoots() {
			note(GarbageOutputs, b, s.outputBytes(ctx, b), b.dropRoots)
		}
		if over && !dryRun {
			b.unpromise()
		}
		size := b.logBytes()
		if over && i >= s.tuning().RecentBuilds {
			note(GarbageBuild, b, size, func() error { return s.remove(ctx, b) })
			continue
		}
		if logs -= size; logs < 0 && size > 0 {
			note(GarbageLog, b, size, b.dropLog)
		}
	}
	return gone, failed
}

// amend records how a build ended, if that could not be when it did, as on a full
// disk. Of one that ended later than now the clock was set back since, perhaps by
// years: its time begins anew.
func (s *Service) amend(ctx context.Context, b *build, now time.Time) error {
	b.mu.Lock()
	rec, amiss := b.rec, b.unrecorded || b.rec.Ended.After(now)
	b.mu.Unlock()
	if !amiss {
		return nil
	}
	done := s.clear(b)
	if done == nil {
		return nil
	}
	defer done()
	if rec.Ended.After(now) {
		rec.Ended = now
	}
	if err := s.cfg.Records.UpdateBuild(ctx, rec); err != nil {
		return err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.rec.Ended, b.unrecorded = rec.Ended, false
	return nil
}

// clear keeps a client that is back from the build, of which something is about to be
// removed, until done. It returns nil when the client came first.
func (s *Service) clear(b *build) (done func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.builds.all[b.rec.ID] != b {
		return nil
	}
	cleared := make(chan struct{})
	b.clearing = cleared
	return func() {
		s.mu.Lock()
		b.clearing = nil
		s.mu.Unlock()
		close(cleared)
	}
}

// remove forgets a build altogether.
func (s *Service) remove(ctx context.Context, b *build) error {
	if err := os.RemoveAll(b.dir); err != nil {
		return err
	}
	if err := s.cfg.Records.DeleteBuild(ctx, b.rec.ID); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.builds.drop(b)
	return nil
}

// rootsOf lists what a build's directory holds besides its events.
func (b *build) rootsOf() []string {
	entries, err := os.ReadDir(b.dir)
	if err != nil {
		return nil
	}
	var roots []string
	for _, e := range entries {
		if path := filepath.Join(b.dir, e.Name()); path != b.eventsPath() {
			roots = append(roots, path)
		}
	}
	return roots
}

func (b *build) hasRoots() bool { return len(b.rootsOf()) > 0 }

func (b *build) dropRoots() error {
	var failed error
	for _, path := range b.rootsOf() {
		failed = errors.Join(failed, os.RemoveAll(path))
	}
	if failed == nil {
		_ = os.Remove(b.dir) // when its events are gone already
	}
	return failed
}

// unpromise says no more that the outputs are there, as nothing keeps them.
func (b *build) unpromise() {
	b.s.mu.Lock()
	b.s.dropIndex(b.rec.ID)
	b.s.mu.Unlock()
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.rec.Result != nil {
		kept := *b.rec.Result
		kept.Outputs = nil
		b.rec.Result = &kept
	}
}

func (b *build) logBytes() int64 {
	info, err := os.Stat(b.eventsPath())
	if err != nil {
		return 0
	}
	return info.Size()
}

func (b *build) dropLog() error {
	if err := os.Remove(b.eventsPath()); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	_ = os.Remove(b.dir) // when its roots are gone already
	b.mu.Lock()
	defer b.mu.Unlock()
	b.log = nil
	return nil
}

// outputBytes adds up the NARs of a build's outputs, as far as they are known.
func (s *Service) outputBytes(ctx context.Context, b *build) int64 {
	rec := b.record()
	if rec.Result == nil || len(rec.Result.Outputs) == 0 {
		return 0
	}
	infos, err := s.cfg.Store.PathInfos(ctx, outputPaths(rec.Result))
	if err != nil {
		return 0
	}
	var n int64
	for _, info := range infos {
		n += int64(info.NarSize)
	}
	return n
}

// BytesBelow is the size of the files in a directory, as far as they can be read, or of
// the one file at root.
func BytesBelow(root string) int64 {
	var n int64
	_ = filepath.WalkDir(root, func(_ string, e fs.DirEntry, err error) error {
		if err == nil && e.Type().IsRegular() {
			if info, err := e.Info(); err == nil {
				n += info.Size()
			}
		}
		return nil
	})
	return n
}

// past returns the ended builds, the last ended first.
func (s *Service) past() []*build {
	s.mu.Lock()
	all := make([]*build, 0, len(s.builds.all))
	for _, b := range s.builds.all {
		select {
		case <-b.done:
			all = append(all, b)
		default:
		}
	}
	s.mu.Unlock()
	// When is asked for once each: a comparison would copy two records.
	type dated struct {
		*build
		ended time.Time
	}
	order := make([]dated, len(all))
	for i, b := range all {
		order[i] = dated{b, b.record().Ended}
	}
	slices.SortFunc(order, func(a, b dated) int { return b.ended.Compare(a.ended) })
	for i := range order {
		all[i] = order[i].build
	}
	return all
}
