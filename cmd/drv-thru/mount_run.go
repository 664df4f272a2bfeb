package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/drv-thru/drv-thru/cmd/internal/notify"
	"github.com/drv-thru/drv-thru/core/cache"
	"github.com/drv-thru/drv-thru/core/link"
	"github.com/drv-thru/drv-thru/core/wire"
	"github.com/drv-thru/drv-thru/fusecache"
)

// firstConnect is how long mount waits for the builder before it mounts without.
const firstConnect = 10 * time.Second

// mount shows the builder's cache until ctx ends or somebody unmounts it.
func (a *app) mount(ctx context.Context, cfg *mountConfig) (err error) {
	log := a.logger(cfg.verbose)
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()

	var disk *fusecache.Disk
	if cfg.cacheDir != "" {
		if disk, err = fusecache.OpenDisk(cfg.cacheDir, cfg.cacheBytes, log); err != nil {
			// It only costs time to do without.
			log.Warn("nothing is kept on disk", "err", err)
			disk = nil
		} else {
			defer func() { err = errors.Join(err, disk.Close()) }()
		}
	}
	r := newRemote(cfg, disk, log)
	keeper := make(chan struct{})
	go func() {
		defer close(keeper)
		r.keep(ctx)
	}()
	defer func() {
		cancel()
		<-keeper
		r.close()
	}()
	if err := r.first(ctx, firstConnect); err != nil {
		return err
	}
	chunks := a.openChunks(cfg.chunkBytes, func(text string) { log.Warn(text) })
	defer chunks.close()
	fetcher := cache.NewChunkFetcher(cache.ChunkConfig{
		Transport: r, Header: cfg.route.header(), Base: strings.TrimSuffix(link.BaseURL, "/"),
		Store: chunks.store, Seeds: chunks.seeds, Now: time.Now, Warn: func(text string) { log.Warn(text) },
	})
	defer fetcher.Close()
	view, err := cache.NewView(nil, cache.ViewConfig{
		Fetcher:     fetcher,
		Lookup:      r.lookup,
		Fetches:     cfg.fetches,
		ReadTimeout: cfg.readTimeout,
	})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, view.Close()) }()
	m, err := fusecache.Mount(view, cfg.dir, fusecache.Options{AllowOther: cfg.allowOther, Live: true, Disk: disk, Logger: log})
	if err != nil {
		return mountError(err)
	}
	notify.Ready()
	r.tell()
	fmt.Fprintf(a.stderr, "mounted on %s; use it with --substituters %s\n", m.Dir(), m.URL())
	select {
	case <-ctx.Done():
		notify.Stopping()
	case <-m.Done():
		log.Info("somebody has unmounted it", "dir", m.Dir())
	}
	return m.Unmount()
}

func mountError(err error) error {
	if errors.Is(err, fusecache.ErrUnavailable) {
		return &hintError{err, "mount needs FUSE: the fuse3 package, and /dev/fuse open to this user"}
	}
	return err
}

// denied reports whether the builder has answered, and will not answer otherwise
// soon: the ticket or the client's key is no good, or the builder's own.
func denied(err error) bool {
	if errors.As(err, new(*otherKeyError)) {
		return true
	}
	code := wire.CodeOf(err)
	return code != "" && code.Exit() == wire.ExitDenied
}
