package builder

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/drv-thru/drv-thru/core/nix"
	"github.com/drv-thru/drv-thru/core/nix/daemon"
	"github.com/drv-thru/drv-thru/core/ticket"
	"github.com/drv-thru/drv-thru/core/wire"
)

// diskEvery is how often the disk is looked at while a build may fill it.
const diskEvery = 5 * time.Second

// What the names of roots in a build's directory begin with.
const (
	drvRoots = "drv-"
	outRoots = "out-"
)

// live is a build from its admission to its end. checked says that all inputs were
// there when it was admitted, so that it is known already that it may run, and idle
// that it has nothing to build.
func (b *build) live(checked, idle bool) {
	result := &wire.Result{}
	result.Error = wireError(b.run(checked, idle, result))
	b.end(result)
}

func (b *build) run(checked, idle bool, result *wire.Result) error {
	roots, idle, err := b.prepare(checked, idle)
	if err != nil {
		return b.leaveQueue(preferCause(b.ctx, err))
	}
	queued := b.s.cfg.Now()
	if idle {
		// What is built already takes no slot, and waits for none.
		_ = b.leaveQueue(nil)
	} else {
		b.dropSession()
		b.setState(wire.StateQueued)
		b.s.queue.setReady(b.place)
		select {
		case <-b.place.granted:
			defer func() { b.freeSlot(b.ctx.Err() == nil) }()
		case <-b.ctx.Done():
			return b.leaveQueue(context.Cause(b.ctx))
		}
	}
	b.setState(wire.StateBuilding)
	started := b.s.cfg.Now()
	result.QueueTime = started.Sub(queued).Seconds()
	err = b.execute(roots, result)
	result.BuildTime = b.s.cfg.Now().Sub(started).Seconds()
	return err
}

// prepare waits for the inputs, checks what would be built, and makes the roots,
// which a build that is resumed has.
// After it the closure is forgotten: a thousand queued builds would hold a
// thousand of them.
func (b *build) prepare(checked, idle bool) ([]daemon.DerivedPath, bool, error) {
	if b.resumed != nil {
		// What the builder offers may be less than when the build was admitted.
		_, idle, err := b.s.checkBuild(b.ctx, b, &closure{roots: b.resumed}, b.rec.Mode)
		return b.resumed, idle, err
	}
	select {
	case <-b.complete:
	case <-b.ctx.Done():
		return nil, false, context.Cause(b.ctx)
	}
	b.mu.Lock()
	cl := b.closure
	b.mu.Unlock()
	if !checked {
		planned, nothing, err := b.s.checkBuild(b.ctx, b, cl, b.rec.Mode)
		if err != nil {
			return nil, false, err
		}
		if err := b.s.askToStart(b.ctx, b, planned); err != nil {
			return nil, false, err
		}
		// After a crash what was sent is counted, and once it has roots, a detached
		// build goes on, within these limits.
		if rec := b.underWay(); rec.Detach || rec.Result != nil {
			if err := b.s.cfg.Records.UpdateBuild(b.ctx, rec); err != nil {
				return nil, false, err
			}
		}
		idle = nothing
	}
	if err := b.rootInputs(b.ctx, cl); err != nil {
		return nil, false, err
	}
	b.mu.Lock()
	b.closure, b.planned, b.wanted, b.policyRequest = nil, nil, nil, nil
	b.rooted = true
	b.mu.Unlock()
	close(b.held)
	return cl.roots, idle, nil
}

// leaveQueue gives the place up and returns err.
func (b *build) leaveQueue(err error) error {
	if b.s.queue.leave(b.place) {
		select {
		case <-b.place.granted:
			b.freeSlot(false)
		default: // it never joined
		}
	}
	return err
}

// freeSlot gives the slot back; typical says that it was had for as long as was needed.
func (b *build) freeSlot(typical bool) {
	b.s.estimate.end(b.place, b.s.cfg.Now(), typical)
	b.s.queue.release()
}

// rootInputs replaces the temporary roots of the inputs by links to the root
// derivations, which hold everything that they refer to.
func (b *build) rootInputs(ctx context.Context, cl *closure) error {
	session, err := b.uploadSession(ctx)
	if err != nil {
		return err
	}
	drvs := cl.rootDrvs()
	if err := b.addRoots(ctx, session, drvRoots, drvs); err != nil {
		return err
	}
	valid, err := b.s.cfg.Store.ValidPaths(ctx, drvs, false)
	if err != nil {
		return storeError(err)
	}
	if len(valid) < len(nix.SortedPaths(drvs)) {
		return wire.Errorf(wire.CodeStore, "a root derivation was collected while its build was prepared")
	}
	return nil
}

// addRoots makes a root of every target: links in the build's directory, with
// names that begin with prefix.
func (b *build) addRoots(ctx context.Context, session Session, prefix string, targets []nix.Path) error {
	links := make([]string, len(targets))
	for i, target := range targets {
		links[i] = filepath.Join(b.dir, prefix+strconv.Itoa(i))
		err := os.Symlink(string(target), links[i])
		if errors.Is(err, os.ErrExist) {
			// A build that was interrupted may have left another target's.
			if err = os.Remove(links[i]); err == nil {
				err = os.Symlink(string(target), links[i])
			}
		}
		if err != nil {
			return fmt.Errorf("make root: %w", err)
		}
	}
	return storeError(session.AddRoots(ctx, links))
}

// execute builds.
func (b *build) execute(roots []daemon.DerivedPath, result *wire.Result) error {
	ctx := b.ctx
	if most := b.limits.MaxBuildTime; most > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeoutCause(ctx, most.Std(),
			wire.Errorf(wire.CodeBuildTimeLimit, "the build ran for %s and was cancelled", most))
		defer cancel()
	}
	session, err := b.buildSession(ctx)
	if err != nil {
		return preferCause(ctx, err)
	}
	defer session.Close()
	defer b.watchDisk(ctx)()
	sink := &sink{b: b, log: b.log}
	tuning := b.s.tuning()
	opts := BuildOptions{KeepGoing: b.rec.KeepGoing, MaxSilentTime: tuning.MaxSilentTime, Cores: tuning.Cores}
	results, err := session.Build(ctx, roots, opts, sink)
	if err == nil && b.rec.Mode == wire.ModeCheck && !slices.ContainsFunc(results, failed) {
		// Nix compares with what is valid, which everything is by now.
		opts.Check = true
		// What it leaves behind counts against no limit: strangers cannot have it.
		opts.KeepDiffering = b.rec.Ticket == ticket.ID{}
		results, err = session.Build(ctx, roots, opts, sink)
	}
	if err != nil {
		return preferCause(ctx, buildError(err))
	}
	failure := b.collect(roots, results, sink, result)
	if err := b.keepOutputs(ctx, session, result); err != nil {
		return preferCause(ctx, err)
	}
	return failure
}

// buildError is what ended a build without results. What the daemon says of a
// derivation is a failure of that one: of some Nix makes no result, up to 2.26 of a
// system feature that is missing, of outputs that refer to each other and of a FIFO.
func buildError(err error) error {
	var said *daemon.Error
	// Without a sandbox, as on macOS, a FIFO's path has no .drv in it.
	if errors.As(err, &said) && (strings.Contains(said.Msg, ".drv") || strings.Contains(said.Msg, "has an unsupported type")) {
		return fmt.Errorf("%w: %w", wire.Errorf(wire.CodeBuildFailed, "%s", clipText(said.Error())), err)
	}
	return storeError(err)
}

func failed(r daemon.BuildResult) bool { return !r.Status.Success() }

// preferCause prefers why ctx ended to what that made fail.
func preferCause(ctx context.Context, err error) error {
	if c := context.Cause(ctx); c != nil {
		return c
	}
	return err
}

// buildSession returns the session that still holds the inputs, or a new one.
func (b *build) buildSession(ctx context.Context) (Session, error) {
	b.mu.Lock()
	session := b.session
	b.session = nil
	b.mu.Unlock()
	if session != nil {
		return session, nil
	}
	session, err := b.s.cfg.Store.Session(ctx)
	if err != nil {
		return nil, storeError(err)
	}
	return session, nil
}

// watchDisk cancels the build when the disk gets too full, until stop is called.
func (b *build) watchDisk(ctx context.Context) (stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	var watch sync.WaitGroup
	watch.Go(func() {
		tick := time.NewTicker(b.s.cfg.DiskEvery)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
				if err := b.s.enoughDisk(); wire.CodeOf(err) == wire.CodeDisk {
					b.cancel(err)
				}
			}
		}
	})
	return func() {
		cancel()
		watch.Wait()
	}
}

// collect turns the daemon's results into ours and returns the first failure.
func (b *build) collect(roots []daemon.DerivedPath, results []daemon.BuildResult, sink *sink, result *wire.Result) error {
	var failure *wire.Error
	for _, r := range results {
		drv := r.Path.Path
		report := wire.DrvResult{
			Drv: string(drv), Status: r.Status.String(), TimesBuilt: r.TimesBuilt,
			NonDeterministic: r.IsNonDeterministic || r.Status == daemon.NotDeterministic,
		}
		if r.Status.Success() {
			outputs, err := b.outputsOf(drv, r)
			if err != nil {
				return err
			}
			result.Outputs = append(result.Outputs, outputs...)
		} else {
			report.Error = clipText(daemon.StripANSI(r.ErrorMsg))
			if failure == nil {
				failure = buildFailure(r, report.Error, sink.firstError())
			}
		}
		result.Derivations = append(result.Derivations, report)
	}
	if len(results) < len(roots) && failure == nil {
		return wire.Errorf(wire.CodeStore, "the daemon reported on %d of %d derivations", len(results), len(roots))
	}
	if failure == nil {
		return nil
	}
	return failure
}

func buildFailure(r daemon.BuildResult, message, first string) *wire.Error {
	code := wire.CodeBuildFailed
	if r.Status == daemon.NotDeterministic {
		code = wire.CodeNotReproduced
	}
	detail := message
	if detail == "" {
		detail = fmt.Sprintf("%s: %s", r.Path.Path, r.Status)
	}
	// "1 dependency failed" alone does not tell which.
	if r.Status == daemon.DependencyFailed && first != "" {
		detail = first + "\n" + message
	}
	return wire.Errorf(code, "%s", detail)
}

// outputsOf returns the wanted outputs of a root that was built.
func (b *build) outputsOf(drv nix.Path, r daemon.BuildResult) ([]wire.Output, error) {
	d, err := b.s.readDerivation(drv)
	if err != nil {
		return nil, err
	}
	outputs := make([]wire.Output, 0, len(r.Path.Outputs))
	for _, name := range r.Path.Outputs {
		o := wire.Output{Drv: string(drv), Name: name}
		path := r.BuiltOutputs[name]
		if path == "" {
			path = d.Outputs[name].Path
		}
		if path == "" {
			return nil, wire.Errorf(wire.CodeStore, "the daemon did not tell the path of output %q of %s", name, drv)
		}
		o.Path = string(path)
		if kind := d.Outputs[name].Kind(); kind == nix.Floating || kind == nix.Impure || kind == nix.Deferred {
			o.Realisation = realisationOf(r, name)
		}
		outputs = append(outputs, o)
	}
	return outputs, nil
}

func realisationOf(r daemon.BuildResult, output string) string {
	for id, text := range r.Realisations {
		if len(id) > len(output) && id[len(id)-len(output)-1:] == "!"+output {
			return string(text)
		}
	}
	return ""
}

// keepOutputs makes roots of the outputs, which are kept until their time is over,
// and has what they are made of ready for the client. The connection that built
// them still holds them, so what is too large never gets a root of its own.
func (b *build) keepOutputs(ctx context.Context, session Session, result *wire.Result) error {
	outputs := outputPaths(result)
	if len(outputs) == 0 {
		return nil
	}
	infos, err := b.s.cache.Closure(ctx, outputs)
	if most := smallest(b.limits.MaxOutputBytes, b.s.tuning().MaxOutputBytes); most != 0 {
		if err == nil {
			err = b.s.checkOutputs(infos, most)
		}
		if err != nil {
			result.Outputs = nil // whoever reads the build's outputs reads these
			return storeError(err)
		}
	}
	if err == nil { // else the client will be told
		b.countOutputs(infos, outputs)
		b.s.keepIndex(b.rec.ID, newIndex(infos))
		outputs = nix.Tops(infos) // which holds no others
	}
	return b.addRoots(ctx, session, outRoots, outputs)
}

// checkOutputs holds the outputs' size against the limit. What counts are the
// paths of the outputs' closure that were built for somebody here: neither what the
// client sent nor what a cache had. Asking again gives the same answer, so a second
// build does not slip past the limit because the first has left its outputs in the
// store.
func (s *Service) checkOutputs(closure []nix.PathInfo, most ticket.Size) error {
	var sum uint64
	for _, info := range closure {
		if info.Ultimate || info.Deriver != "" {
			sum += info.NarSize
		}
	}
	if sum <= uint64(most) {
		return nil // without looking at signatures
	}
	sum = 0
	for i := range closure {
		if s.builtHere(&closure[i]) {
			sum += closure[i].NarSize
		}
	}
	if sum > uint64(most) {
		return wire.Errorf(wire.CodeOutputLimit, "the outputs have %d bytes, %s are allowed", sum, most)
	}
	return nil
}

// builtHere tells whether the daemon has built a path, which it then marks as
// ultimate, or a machine that it sends builds to has. Such a path is copied like one
// from a cache, and has a deriver as that may have, but no signature that counts.
func (s *Service) builtHere(info *nix.PathInfo) bool {
	if info.Ultimate || info.Deriver == "" {
		return info.Ultimate
	}
	_, signed := info.VerifySig(s.cfg.TrustedKeys)
	return !signed
}

func smallest(a, b ticket.Size) ticket.Size {
	if a == 0 || b != 0 && b < a {
		return b
	}
	return a
}

func outputPaths(result *wire.Result) []nix.Path {
	paths := make([]nix.Path, len(result.Outputs))
	for i, o := range result.Outputs {
		paths[i] = nix.Path(o.Path)
	}
	return nix.SortedPaths(paths)
}

// end records and tells how the build ended.
func (b *build) end(result *wire.Result) {
	defer b.s.wg.Done()
	b.cancel(endedError(result)) // for requests that are under way
	state := wire.StateBuilt
	if result.Error != nil {
		switch state = wire.StateFailed; result.Error.Code {
		case wire.CodeBuildCancelled, wire.CodeBuildAbandoned:
			state = wire.StateCancelled
		}
	}
	shutdown := result.Error != nil && isShutdown(b.s.ctx)
	if shutdown {
		state = wire.StateInterrupted
		result = &wire.Result{Error: errInterrupted}
	}
	b.mu.Lock()
	lasting := shutdown && b.lasting()
	b.rec.State, b.rec.Ended, b.rec.Result = state, b.s.cfg.Now(), result
	result.UploadBytes = b.sent
	if len(b.machines) > 0 && (len(b.machines) > 1 || b.machines[wire.MachineSelf] == 0) {
		result.Machines = b.machines
	}
	b.building, b.machines = nil, nil
	b.stopAway()
	b.sending(0)
	running := b.upload
	b.closure, b.planned, b.wanted, b.policyRequest = nil, nil, nil, nil
	rec, log := b.rec, b.log
	if lasting {
		rec.State, rec.Started, rec.Ended, rec.Result = wire.StateQueued, time.Time{}, time.Time{}, b.sofar()
	}
	b.mu.Unlock()
	if running != nil {
		<-running.done // it was cancelled with the build, but may still add a path
	}
	b.dropIntakes()
	b.dropSession()
	// The build is over whether or not the service is stopping.
	if err := b.s.cfg.Records.UpdateBuild(context.WithoutCancel(b.s.ctx), rec); err != nil {
		b.s.cfg.Log.Error("record build", "build", rec.ID, "err", err)
		b.mu.Lock()
		b.unrecorded = true
		b.mu.Unlock()
	}
	if log != nil && shutdown {
		_ = log.Close()
	} else if log != nil {
		log.add(&wire.Event{Type: wire.EventFinished, State: state, Result: result})
	}
	attrs := []any{"build", rec.ID, "state", rec.State, "seconds", result.BuildTime}
	if result.Error != nil {
		attrs = append(attrs, "code", result.Error.Code)
	}
	b.s.cfg.Log.Info("build ended", attrs...)
	rec.State, rec.Result = state, result
	b.s.cfg.Meter.Ended(&rec)
	b.s.mu.Lock()
	b.s.builds.ended(b)
	b.s.mu.Unlock()
	close(b.done)
	b.prepareOutputs()
}

// prepareOutputs has the NARs that were built here cut before the client asks
// for them. What came from a cache it has likely nearer.
func (b *build) prepareOutputs() {
	x, err := b.s.indexOf(b.s.ctx, b)
	if x == nil || err != nil {
		return // the client will be told why
	}
	infos := make([]nix.PathInfo, 0, len(x.infos))
	for _, info := range x.infos {
		if info.Ultimate {
			infos = append(infos, info)
		}
	}
	b.s.cache.Prepare(infos)
}
