package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/http"
	"sync"
	"time"

	"github.com/drv-thru/drv-thru/cmd/internal/notify"
	"github.com/drv-thru/drv-thru/core/client"
	"github.com/drv-thru/drv-thru/core/link"
	"github.com/drv-thru/drv-thru/core/nix"
	"github.com/drv-thru/drv-thru/fusecache"
)

const (
	// firstPause and longestPause lie between attempts to reach the builder.
	firstPause   = 250 * time.Millisecond
	longestPause = 30 * time.Second
	// probeTime bounds one attempt.
	probeTime = 30 * time.Second
	// lookupTime bounds the question for one narinfo.
	lookupTime = 10 * time.Second
	// hiccup is how long a lookup waits for a connection that was lost a moment
	// ago. Nix takes a path that is not found for one that it has to build.
	hiccup = 5 * time.Second
	// infoTime is how long a narinfo is taken for fresh: for as long as Nix needs
	// from looking to reading, and not much longer, as the builder may collect it.
	infoTime = time.Minute
	// infoBytes bounds the narinfos that are remembered for that.
	infoBytes = 16 << 20
	// lookAhead is how many references are asked for at once, before Nix does.
	lookAhead = 16
)

var errOffline = errors.New("no connection to the builder")

// remote is the builder as a mount sees it: there, or not. Its methods are safe
// for concurrent use.
type remote struct {
	cfg    *mountConfig
	disk   *fusecache.Disk // may be nil
	log    *slog.Logger
	ahead  chan struct{}
	wg     sync.WaitGroup
	ctx    context.Context // ends with close
	cancel context.CancelFunc

	mu      sync.Mutex
	session *link.Session
	api     *client.API
	up      bool
	changed chan struct{} // closed when up changes, and after each attempt
	tries   int
	err     error // why it is not up
	since   time.Time
	doubt   chan struct{}
	status  string

	infos map[string]recentInfo
	bytes int
}

type recentInfo struct {
	text string
	at   time.Time
}

func newRemote(cfg *mountConfig, disk *fusecache.Disk, log *slog.Logger) *remote {
	r := &remote{
		cfg: cfg, disk: disk, log: log,
		ahead:   make(chan struct{}, lookAhead),
		changed: make(chan struct{}),
		doubt:   make(chan struct{}, 1),
		since:   time.Now(),
		infos:   make(map[string]recentInfo),
	}
	r.ctx, r.cancel = context.WithCancel(context.Background())
	return r
}

// close ends the session.
func (r *remote) close() {
	r.cancel()
	r.wg.Wait()
	if r.session != nil {
		_ = r.session.Close()
	}
}

// keep keeps the builder reached, for ever.
func (r *remote) keep(ctx context.Context) {
	pause := firstPause
	for ctx.Err() == nil {
		err := r.probe(ctx)
		if ctx.Err() != nil {
			return
		}
		r.set(err)
		if err == nil {
			pause = firstPause
			select {
			case <-ctx.Done():
			case <-r.doubt:
			}
			continue
		}
		select {
		case <-ctx.Done():
		case <-time.After(pause):
		}
		pause = min(2*pause, longestPause)
	}
}

// probe asks the builder whether it is there.
func (r *remote) probe(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, probeTime)
	defer cancel()
	r.mu.Lock()
	api := r.api
	r.mu.Unlock()
	if api == nil {
		dialed, err := r.cfg.route.dial(ctx, r.log)
		if err != nil {
			return err
		}
		r.mu.Lock()
		r.session, r.api = dialed.link, dialed.API
		r.mu.Unlock()
		api = dialed.API
	}
	info, err := api.Info(ctx, "")
	if err != nil {
		return err
	}
	return r.cfg.route.checkKey(info.SigningKey)
}

// set notes how an attempt has ended.
func (r *remote) set(err error) {
	r.mu.Lock()
	was := r.up
	r.up, r.err = err == nil, err
	r.tries++
	if was != r.up || r.tries == 1 {
		r.since = time.Now()
	}
	select {
	case <-r.doubt:
	default:
	}
	close(r.changed)
	r.changed = make(chan struct{})
	first := r.tries == 1
	r.mu.Unlock()
	switch {
	case err == nil && !was && first:
		r.log.Info("connected", "builder", r.cfg.route.builder.Short())
	case err == nil && !was:
		r.log.Info("connected again", "builder", r.cfg.route.builder.Short())
	case err != nil && (was || first):
		r.log.Warn("no connection to the builder; trying on", "builder", r.cfg.route.builder.Short(), "err", err)
	}
	r.tell()
}

// tell tells the service manager how it stands.
func (r *remote) tell() {
	r.mu.Lock()
	defer r.mu.Unlock()
	text := "connected to builder " + r.cfg.route.builder.Short()
	if !r.up {
		text = "not connected to builder " + r.cfg.route.builder.Short() + "; what was read before is there"
	}
	if text != r.status {
		r.status = text
		notify.Status(text)
	}
}

// failed notes that a request has failed for want of a connection.
func (r *remote) failed(err error) {
	r.mu.Lock()
	was := r.up
	r.up, r.err = false, err
	if was {
		r.since = time.Now()
	}
	r.mu.Unlock()
	if was {
		r.log.Warn("lost the connection to the builder", "err", err)
	}
	select {
	case r.doubt <- struct{}{}:
	default:
	}
}

// first waits for the first connection, but not for long, and fails when the
// builder will have none of it.
func (r *remote) first(ctx context.Context, most time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, most)
	defer cancel()
	r.mu.Lock()
	changed := r.changed
	tried := r.tries > 0
	r.mu.Unlock()
	if !tried {
		select {
		case <-changed:
		case <-ctx.Done():
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if denied(r.err) {
		return r.err
	}
	return nil
}

// reach returns the API of a builder that is there; it waits for one that was there
// less than patience ago, until then. Nil: there is none.
func (r *remote) reach(ctx context.Context, patience time.Duration) *client.API {
	var over <-chan time.Time
	for {
		r.mu.Lock()
		api, up, changed := r.api, r.up, r.changed
		left := patience - time.Since(r.since)
		r.mu.Unlock()
		if up || left <= 0 || denied(r.reason()) {
			if !up {
				return nil
			}
			return api
		}
		if over == nil {
			over = time.After(left)
		}
		select {
		case <-changed:
		case <-over:
			return nil
		case <-ctx.Done():
			return nil
		}
	}
}

func (r *remote) reason() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.err
}

// RoundTrip implements [http.RoundTripper] for NARs. It waits for as long as a read may:
// whoever reads one has found its path, and gives up a whole build when that fails.
func (r *remote) RoundTrip(req *http.Request) (*http.Response, error) {
	api := r.reach(req.Context(), r.cfg.readTimeout)
	if api == nil {
		if req.Body != nil {
			_ = req.Body.Close()
		}
		return nil, errOffline
	}
	resp, err := api.Bulk.RoundTrip(req)
	if err != nil && req.Context().Err() == nil {
		r.failed(err)
	}
	return resp, err
}

// lookup finds the narinfo of a path. Without a connection, and for a path that
// the builder has no more, those are found whose NARs are here.
//
// It never fails for want of a connection, of time or of sense: Nix gives up a whole build
// when a substituter has an I/O error, and asks the next one when it lacks a path.
func (r *remote) lookup(ctx context.Context, hash string) (string, error) {
	text, err := r.ask(ctx, hash)
	if err == nil {
		r.askAhead(text)
		return text, nil
	}
	if errors.Is(ctx.Err(), context.Canceled) {
		return "", ctx.Err()
	}
	return r.kept(hash)
}

// ask asks the builder for a narinfo, unless that was done a moment ago.
func (r *remote) ask(ctx context.Context, hash string) (string, error) {
	api := r.reach(ctx, hiccup)
	if api == nil {
		return "", errOffline
	}
	if text, ok := r.recent(hash); ok {
		return text, nil
	}
	within, cancel := context.WithTimeout(ctx, lookupTime)
	defer cancel()
	text, err := api.NarInfo(within, hash)
	if err == nil {
		_, err = narInfoFor(hash, text)
	}
	switch {
	case err == nil:
		r.remember(hash, text)
	case errors.Is(err, fs.ErrNotExist), errors.Is(ctx.Err(), context.Canceled):
	case errors.Is(err, client.ErrConnection), within.Err() != nil, denied(err):
		r.failed(err)
	default:
		r.log.Warn("the builder does not answer about a path", "hash", hash, "err", err)
	}
	return text, err
}

// askAhead asks for the references of a path before Nix does, one after the other.
func (r *remote) askAhead(text string) {
	info, err := nix.ParseNarInfo([]byte(text))
	if err != nil {
		return
	}
	for _, ref := range info.References {
		hash := ref.Hash()
		if _, ok := r.recent(hash); ok || ref == info.Path {
			continue
		}
		select {
		case r.ahead <- struct{}{}:
		default:
			return
		}
		r.wg.Go(func() {
			defer func() { <-r.ahead }()
			_, _ = r.ask(r.ctx, hash) // who needs it asks again
		})
	}
}

// kept returns the narinfo of a path whose NAR is on this machine.
func (r *remote) kept(hash string) (string, error) {
	if r.disk == nil {
		return "", fs.ErrNotExist
	}
	text, ok := r.disk.NarInfo(hash)
	if !ok {
		return "", fs.ErrNotExist
	}
	info, err := narInfoFor(hash, text)
	if err != nil || !r.disk.HasNar(info.NarHash.Nix32()) {
		return "", fs.ErrNotExist
	}
	return text, nil
}

// narInfoFor reads a narinfo, which has to be that of the path with the hash part.
func narInfoFor(hash, text string) (nix.PathInfo, error) {
	info, err := nix.ParseNarInfo([]byte(text))
	if err == nil && info.Path.Hash() != hash {
		err = fmt.Errorf("it is that of %s", info.Path)
	}
	return info, err
}

func (r *remote) recent(hash string) (string, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	info, ok := r.infos[hash]
	if !ok || time.Since(info.at) > infoTime {
		return "", false
	}
	return info.text, true
}

func (r *remote) remember(hash, text string) {
	r.mu.Lock()
	old := r.infos[hash]
	r.bytes += len(text) - len(old.text)
	if r.bytes > infoBytes {
		clear(r.infos)
		r.bytes = len(text)
	}
	r.infos[hash] = recentInfo{text, time.Now()}
	r.mu.Unlock()
	// Its NAR is of use without the builder only as long as this is there.
	if r.disk != nil && (old.text != text || !r.disk.UseNarInfo(hash)) {
		r.disk.PutNarInfo(hash, text)
	}
}
