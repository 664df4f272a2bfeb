package main

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/drv-thru/drv-thru/core/cache"
	"github.com/drv-thru/drv-thru/core/client"
	"github.com/drv-thru/drv-thru/core/nix"
	"github.com/drv-thru/drv-thru/core/wire"
	"github.com/drv-thru/drv-thru/fusecache"
)

// maxImports bounds how often an import is begun. What an import has brought in
// before its connection was lost is not fetched again.
const maxImports = 10

// maxFruitless bounds the imports in a row that bring in nothing: a builder that
// answers but never sends a whole path must not keep its client for long.
const maxFruitless = 3

// largeImport is from how many bytes on an import fills its buffers.
const largeImport = 32 << 20

// flushTime bounds how long a build that is done waits until the chunks of its
// outputs are kept.
const flushTime = 5 * time.Second

// incoming is a build's outputs on their way into the local store.
type incoming struct {
	*buildRun
	session    *client.Session // nil: from the chunk store alone
	id         wire.BuildID
	signingKey string
	// trusted tells that the local Nix lets the user name trusted keys.
	trusted bool
	// helper imports because the local Nix would not; nil: it does.
	helper *importHelp
	wanted []nix.Path
	sum    *summary

	infos   []nix.PathInfo // the outputs' closure
	fetched []nix.PathInfo // what was not here when the last attempt began
}

// take brings the outputs of targets, and ends as the build did: of one that went on
// after a failure there are some.
func (in *incoming) take(ctx context.Context, targets []target) error {
	in.wanted = builtPaths(targets)
	if err := in.bring(ctx); err != nil {
		in.tellOfOutputs(err)
		return err
	}
	if err := in.finish(ctx, targets, in.sum); err != nil {
		return err
	}
	if built := in.sum.result; built.Error != nil {
		return in.buildFailed(in.id, built)
	}
	return nil
}

// tellOfOutputs tells how to have the outputs of a build whose import err has ended. The
// build is paid for, which another with the same ticket would be anew, and nobody else
// tells its ID.
func (in *incoming) tellOfOutputs(err error) {
	if code := wire.CodeOf(err); code != wire.CodeNotFound && code.Exit() != wire.ExitDenied {
		in.view.Note("the builder keeps what it has built; to import it without building again: drv-thru attach " + string(in.id))
	}
}

// bring brings the outputs into the local store.
func (in *incoming) bring(ctx context.Context) error {
	in.openChunks()
	way, err := in.open()
	if err != nil {
		return err
	}
	if err := in.describe(ctx); err != nil {
		return errors.Join(err, way.shut())
	}
	// The daemon may have been restarted while the build ran.
	if err := in.store.reopen(ctx); err != nil {
		return errors.Join(err, way.shut())
	}
	return in.bringBy(ctx, way)
}

// bringBy imports what is missing, at first by way.
func (in *incoming) bringBy(ctx context.Context, way *passage) (err error) {
	defer func() { err = errors.Join(err, way.shut()) }()
	least, fruitless := len(in.infos)+1, 0
	for attempt := 1; ; attempt++ {
		err := in.attempt(ctx, way, attempt == 1)
		if len(in.fetched) < least {
			least, fruitless = len(in.fetched), 0
		}
		fruitless++
		if err == nil {
			go way.shut() // meanwhile; what is deferred waits for it
			if err := in.keep(way); err != nil {
				in.log.Debug("importing this again will take the builder", "reason", err)
			}
			return in.check(ctx)
		}
		if attempt == maxImports || fruitless == maxFruitless {
			return err
		}
		if err := in.again(ctx, err); err != nil {
			return err
		}
		if err := way.shut(); err != nil {
			return err
		}
		if manifests, err := way.fetcher.AppendManifests(nil, in.infos); err == nil {
			in.kept = &kept{in.signingKey, in.infos, manifests}
		}
		next, err := in.open()
		if err != nil {
			return err
		}
		way = next
		in.view.Note("importing again what has not come")
	}
}

// again returns nil when to import again may help after a failure, or what to fail with.
func (in *incoming) again(ctx context.Context, failed error) error {
	var lost *lostError
	var copied *copyError
	switch {
	case in.session != nil && errors.As(failed, &lost):
		// Once the builder answers again.
		_, err := in.session.State(ctx, in.id)
		return err
	case errors.As(failed, &copied):
		// Somebody else may import the same. Nix 2.8 takes the bytes of a path that has
		// come meanwhile for the next path.
		if valid, err := in.store.ValidPaths(ctx, nix.PathsOf(in.fetched)); err == nil && len(valid) > 0 {
			in.log.Debug("not all was imported", "valid", len(valid), "err", copied)
			return nil
		}
	}
	return failed
}

// describe asks what the outputs are made of.
func (in *incoming) describe(ctx context.Context) (err error) {
	closure, err := in.session.Closure(ctx, in.id)
	if err != nil {
		return fmt.Errorf("ask for the outputs: %w", err)
	}
	if in.infos, err = client.ParseClosure(&closure); err != nil {
		return err
	}
	in.log.Debug("the closure of the outputs is known", "paths", len(in.infos))
	return client.CheckClosure(in.infos, in.wanted)
}

// attempt imports what is missing now.
func (in *incoming) attempt(ctx context.Context, way *passage, first bool) error {
	missing, err := client.FindMissing(ctx, in.store, in.infos, in.store.recall(), first && !in.flags.noSubstitute, in.view.Note)
	if err != nil {
		return err
	}
	in.fetched = missing.Fetch
	if first {
		in.sum.paths, in.sum.fromHere, in.sum.unpacked = len(missing.Fetch), missing.Substituted, missing.Bytes
	}
	in.log.Debug("compared with the local store", "missing", len(missing.Fetch), "substituted", missing.Substituted)
	switch {
	case len(missing.Fetch) == 0:
		return nil
	case in.session == nil && !way.fetcher.Kept(missing.Fetch):
		return errNotKept
	}
	return in.fetch(ctx, way, missing)
}

// check makes sure that the local Nix has what it said it imported.
func (in *incoming) check(ctx context.Context) error {
	valid, err := in.store.ValidPaths(ctx, in.wanted)
	if err == nil && len(valid) != len(in.wanted) {
		err = errors.New("the local Nix said that it imported the outputs, but not all of them are valid")
	}
	return err
}

// passage is what an import goes through: a View, which has nothing in it at
// first, and the importer that shows it to the local Nix.
type passage struct {
	*exposure
	importer *importer
	fetcher  *cache.ChunkFetcher
	known    []nix.PathInfo // that the fetcher has the manifests of from the beginning
	progress *importProgress
	shut     func() error // takes the View away from Nix and ends all fetching; may be called again
}

// open begins to make a passage; what it is for may still be asked meanwhile.
func (in *incoming) open() (*passage, error) {
	p := &passage{
		importer: &importer{
			app: in.app, log: in.log, mode: in.flags.importMode, note: in.view.Note,
			exposed: in.out.set, copying: in.out.copying, helper: in.helper,
		},
	}
	if in.trusted {
		p.importer.trustKey = in.signingKey
	}
	config := cache.ChunkConfig{Store: in.chunks.store, Warn: in.view.Note, Now: time.Now}
	var key string // what is kept was verified before
	var filed int64
	if in.session != nil {
		key = in.signingKey
		api := in.session.API
		config.Transport, config.Header, config.Base = api.Bulk, api.Header(), strings.TrimSuffix(api.Base, "/")
		config.Seeds = in.chunks.seeds
	} else if in.helper == nil {
		filed = fusecache.MinPiped
	}
	p.fetcher = cache.NewChunkFetcher(config)
	if k := in.kept; k != nil {
		// What is damaged is asked for.
		p.known, _ = p.fetcher.TakeManifests(k.manifests, k.infos)
	}
	p.progress = newImportProgress(in.view, p.fetcher.Received)
	view, err := cache.NewView(nil, cache.ViewConfig{
		Fetcher:      p.fetcher,
		SigningKey:   key,
		Filed:        filed,
		Fetches:      in.flags.fetches.orAuto(),
		Realisations: in.realisations(),
		Progress:     p.progress.piece,
	})
	if err != nil {
		_ = p.fetcher.Close()
		return nil, fmt.Errorf("the builder's answer about its outputs: %w", err)
	}
	p.exposure = p.importer.start(view)
	p.shut = sync.OnceValue(func() error { return errors.Join(p.exposure.close(), p.fetcher.Close()) })
	return p, nil
}

// fetch has the local Nix import what is missing.
func (in *incoming) fetch(ctx context.Context, way *passage, missing *client.Missing) error {
	paths := nix.PathsOf(missing.Fetch)
	infos, ask := missing.Fetch, paths
	if slices.ContainsFunc(paths, nix.Path.IsDrv) {
		// To nix copy a .drv by name is what it builds (up to Nix 2.14); as a
		// reference of something else it is itself.
		way.importer.recursive, infos, ask = true, in.infos, missing.Tops
	}
	if missing.Bytes > largeImport {
		// Most of what an import holds is buffers that are used again and again:
		// collecting the little garbage beside them sooner costs next to nothing,
		// and all of them with this much garbage are below 200 MiB.
		defer debug.SetGCPercent(debug.SetGCPercent(25))
	}
	verified := way.view.AddInfos(infos)
	before := way.fetcher.Received()
	defer func() { in.sum.received += way.fetcher.Received() - before }()
	in.view.Phase("importing")
	way.progress.begin(len(paths), missing.Bytes)
	way.view.RunAhead(paths)
	err := way.importer.run(ctx, way.exposure, ask)
	if unfit := verified(); unfit != nil {
		return fmt.Errorf("the builder's answer about its outputs: %w", unfit)
	}
	if err != nil {
		return err
	}
	way.progress.end()
	in.log.Debug("imported")
	flush, cancel := context.WithTimeout(ctx, flushTime)
	defer cancel()
	way.fetcher.Flush(flush)
	return nil
}

func (in *incoming) realisations() []string {
	if in.sum.result == nil {
		return nil
	}
	var out []string
	for _, o := range in.sum.result.Outputs {
		if o.Realisation != "" {
			out = append(out, o.Realisation)
		}
	}
	return out
}

// lostError is an import that failed because the builder could not be reached.
type lostError struct{ err error }

func (e *lostError) Error() string { return "import the outputs: " + e.err.Error() }
func (e *lostError) Unwrap() error { return e.err }
func (e *lostError) Exit() int     { return wire.ExitUnreachable }

// importError says why an import failed, given what nix copy said and why a
// read of the view failed, if one did: Nix has seen no more than a failed read.
func importError(copied, read error) error {
	var answer *wire.Error
	switch {
	case read == nil:
		return copied
	case errors.As(read, &answer), errors.Is(read, cache.ErrUnavailable), errors.Is(read, cache.ErrStream):
		return fmt.Errorf("import the outputs: %w", read)
	}
	return &lostError{read}
}
