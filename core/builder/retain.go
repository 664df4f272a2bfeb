package builder

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"time"

	"net/http"

	"github.com/drv-thru/drv-thru/core/wire"
)

// retainEvery is how often the builds whose time is over are looked for.
const retainEvery = time.Minute

// recover takes over what an earlier process left: its records, with those under
// way marked as interrupted, and no directory without a record.
func (s *Service) recover(ctx context.Context) error {
	records, err := s.cfg.Records.Builds(ctx)
	if err != nil {
		return err
	}
	for _, rec := range records {
		if !rec.State.Ended() {
			rec.State, rec.Ended = wire.StateInterrupted, s.cfg.Now()
			rec.Result = &wire.Result{Error: errInterrupted}
			if err := s.cfg.Records.UpdateBuild(ctx, rec); err != nil {
				return err
			}
			s.cfg.Log.Info("build was interrupted", "build", rec.ID)
		}
		s.builds[rec.ID] = s.pastBuild(rec)
	}
	entries, err := os.ReadDir(s.cfg.Dir)
	if err != nil {
		return fmt.Errorf("read builds directory: %w", err)
	}
	for _, e := range entries {
		if s.builds[wire.BuildID(e.Name())] == nil {
			if err := os.RemoveAll(filepath.Join(s.cfg.Dir, e.Name())); err != nil {
				return fmt.Errorf("remove what an earlier run left: %w", err)
			}
		}
	}
	return nil
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

// retain removes the builds whose time is over, now and every minute.
func (s *Service) retain() {
	defer s.wg.Done()
	tick := time.NewTicker(retainEvery)
	defer tick.Stop()
	for {
		if err := s.forget(s.ctx); err != nil && s.ctx.Err() == nil {
			s.cfg.Log.Error("remove old builds", "err", err)
		}
		select {
		case <-s.ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// forget removes the roots and events of builds that ended KeepOutputs ago, and
// their records but for the newest RecentBuilds.
func (s *Service) forget(ctx context.Context) error {
	past := s.past()
	limit := s.cfg.Now().Add(-s.cfg.KeepOutputs)
	failed := s.incoming.tidy()
	if s.enoughDisk() != nil {
		s.incoming.dropIdle()
	}
	for i, b := range past {
		rec := b.record()
		if rec.Ended.After(limit) {
			continue
		}
		s.mu.Lock()
		delete(s.indexes, rec.ID)
		s.mu.Unlock()
		if err := os.RemoveAll(b.dir); err != nil {
			failed = errors.Join(failed, err)
			continue
		}
		b.mu.Lock()
		b.log = nil
		if b.rec.Result != nil {
			// Nothing keeps the outputs any more, so they are not promised.
			kept := *b.rec.Result
			kept.Outputs = nil
			b.rec.Result = &kept
		}
		b.mu.Unlock()
		if i < s.cfg.RecentBuilds {
			continue
		}
		if err := s.cfg.Records.DeleteBuild(ctx, rec.ID); err != nil {
			failed = errors.Join(failed, err)
			continue
		}
		s.mu.Lock()
		if s.builds[rec.ID] == b {
			delete(s.builds, rec.ID)
		}
		s.mu.Unlock()
	}
	return failed
}

// past returns the ended builds, the last ended first.
func (s *Service) past() []*build {
	s.mu.Lock()
	var all []*build
	for _, b := range s.builds {
		select {
		case <-b.done:
			all = append(all, b)
		default:
		}
	}
	s.mu.Unlock()
	slices.SortFunc(all, func(a, b *build) int { return b.record().Ended.Compare(a.record().Ended) })
	return all
}

func queryNumber(r *http.Request, name string) (int64, error) {
	text := r.URL.Query().Get(name)
	if text == "" {
		return 0, nil
	}
	n, err := strconv.ParseInt(text, 10, 64)
	if err != nil || n < 0 {
		return 0, badRequest("%s=%.40q is not a number", name, text)
	}
	return n, nil
}
