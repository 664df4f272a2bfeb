package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log"
	"log/slog"
	"os"
	"os/signal"
	"regexp"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/drv-thru/drv-thru/cmd/drv-thru/internal/term"
	"github.com/drv-thru/drv-thru/core/client"
	"github.com/drv-thru/drv-thru/core/nix"
	"github.com/drv-thru/drv-thru/core/wire"
	"github.com/drv-thru/drv-thru/fusecache"
)

// hurry is how long a second Ctrl-C waits for the mount to go.
const hurry = 500 * time.Millisecond

// errInterrupted ends a build by Ctrl-C or SIGTERM, and is what is told of it: how that
// made a request fail is no news, and has hints of its own.
var errInterrupted = error(&exitError{"interrupted", exitInterrupted})

// errUnread ends a build whose progress nobody reads any more: the pipe is closed.
var errUnread = errors.New("nobody reads what is printed")

// exitInterrupted is the shell's convention: 128 and SIGINT's number.
const exitInterrupted = 130

// target is an installable and what it evaluates to.
type target struct {
	installable string
	drv         nix.Path // empty: the installable is a store path
	outputs     []output
	// nth is its place among all that are asked for, which names its links.
	nth int
}

// output is one wanted output; its path is empty when only the build tells it.
// A store path that is no derivation's is an output without a name.
type output struct {
	name string
	path nix.Path
}

// buildRun is one run of the build command.
type buildRun struct {
	app     *app
	flags   *buildFlags
	printer *term.Printer
	view    *term.Progress
	route   *route
	out     emergency
	store   *localStore
	targets []target
	here    map[nix.Path]bool // of all that is wanted, what is valid
	log     *slog.Logger
	// cacheSize bounds the chunk store.
	cacheSize int64
	chunks    *chunkCache // nil before openChunks
	kept      *kept       // what is known of the wanted outputs; nil: nothing
}

// build is the command: flags are read, installables at least one.
func (a *app) build(ctx context.Context, f *buildFlags, installables []string) error {
	return a.watch(ctx, f, "cancelling; once more to leave at once", func(ctx context.Context, r *buildRun) error {
		return r.run(ctx, installables)
	})
}

// watch does what a command does with a build while the terminal shows it. The
// first signal ends do's context and prints told.
func (a *app) watch(ctx context.Context, f *buildFlags, told string, do func(context.Context, *buildRun) error) error {
	p := term.New(a.stderr, a.env)
	defer p.Close()
	r, err := a.newRun(f, p)
	if err != nil {
		return err
	}
	// net/http prints what a builder has sent unasked, wherever the cursor is.
	defer log.SetOutput(log.Writer())
	log.SetOutput(slog.NewLogLogger(r.log.Handler(), slog.LevelDebug).Writer())
	ctx, stop := r.interruptible(ctx, told)
	defer stop()
	defer r.closeChunks()
	r.view = term.NewProgress(p, term.Config{Logs: f.logs, Alive: true, Nom: nom()})
	defer r.view.Close()
	err = do(ctx, r)
	switch cause := context.Cause(ctx); {
	case err == nil:
		return nil
	case errors.Is(cause, errInterrupted):
		return errInterrupted
	case errors.Is(cause, errUnread):
		return errUnread
	}
	return err
}

// newRun reads what the flags name. A damaged ticket is told before anything
// else is done.
func (a *app) newRun(f *buildFlags, p *term.Printer) (*buildRun, error) {
	if f.plain {
		p.Terminal = false
	}
	r := &buildRun{app: a, flags: f, printer: p, log: slog.New(slog.DiscardHandler)}
	if f.verbose {
		r.log = slog.New(slog.NewTextHandler(&lineWriter{p: p}, &slog.HandlerOptions{Level: slog.LevelDebug}))
	}
	var err error
	if r.cacheSize, err = a.cacheSize(); err != nil {
		return nil, err
	}
	r.route, err = a.route(&f.routeFlags, p.Line)
	return r, err
}

// interruptible returns a context that the first signal cancels. The second
// ends the process, with no more ado than ending nix copy and taking the mount away.
// told is printed at the first.
func (r *buildRun) interruptible(ctx context.Context, told string) (context.Context, func()) {
	ctx, cancel := context.WithCancelCause(ctx)
	r.printer.OnError(func(err error) {
		if errors.Is(err, syscall.EPIPE) {
			cancel(errUnread)
		}
	})
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, interrupts()...)
	done := make(chan struct{})
	go func() {
		for first := true; ; first = false {
			select {
			case <-done:
				return
			case <-signals:
			}
			if first {
				cancel(errInterrupted)
				go r.printer.Line(told)
				continue
			}
			r.out.leave(hurry)
			r.tidy()
			os.Exit(exitInterrupted)
		}
	}()
	return ctx, func() {
		signal.Stop(signals)
		close(done)
		cancel(nil)
	}
}

// tidy takes away what is drawn on the terminal, unless that is stuck.
func (r *buildRun) tidy() {
	done := make(chan struct{})
	go func() {
		defer close(done)
		r.printer.Close()
	}()
	select {
	case <-done:
	case <-time.After(hurry):
	}
}

func (r *buildRun) run(ctx context.Context, installables []string) error {
	// What a killed client left mounted goes with the next one that starts.
	if dir, err := r.app.runtimeDir(); err == nil {
		sweep(dir, fusecache.ClearStale)
	}
	userTrust, end, err := r.openStore(ctx)
	if err != nil {
		return err
	}
	defer end()
	r.view.Phase("evaluating")
	if err := r.evaluate(ctx, installables); err != nil {
		return err
	}
	r.log.Debug("evaluated")
	find := r.beginKept()
	valid, err := r.valid(ctx)
	if err != nil {
		return err
	}
	if !r.flags.rebuild {
		switch {
		case valid && r.flags.detach:
			return r.nothingToDetach()
		case valid:
			return r.finish(ctx, r.targets, nil)
		}
	}
	if r.route == nil {
		return &usageError{
			text: "this has to be built elsewhere, and the command line does not say by whom",
			hint: "give --ticket TICKET, --builder NAME (see: drv-thru builders list), or --server ID with --relay-url URL",
		}
	}
	roots, err := r.wireRoots()
	if err != nil {
		return err
	}
	if err := r.checkLinks(); err != nil {
		return err
	}
	if find != nil {
		if done, err := r.importKept(ctx, find, userTrust); done || err != nil {
			return err
		}
	}
	return r.elsewhere(ctx, roots, userTrust)
}

// openStore connects to the local store until end, and begins to find out whether it
// trusts the user, so that this costs no time of its own.
func (r *buildRun) openStore(ctx context.Context) (userTrust func() (client.LocalTrust, error), end func(), err error) {
	if r.store, err = r.app.dialStore(ctx); err != nil {
		return nil, nil, err
	}
	ctx, stop := context.WithCancel(ctx)
	userTrust = sync.OnceValues(func() (client.LocalTrust, error) { return r.app.userTrust(ctx, r.store) })
	go userTrust()
	return userTrust, func() {
		stop()
		_, _ = userTrust()
		r.store.Close()
	}, nil
}

// roots returns what the targets come from: derivations and store paths.
func (r *buildRun) roots() []nix.Path {
	var out []nix.Path
	for _, t := range r.targets {
		if t.drv != "" {
			out = append(out, t.drv)
		}
		for _, o := range t.outputs {
			if o.path != "" {
				out = append(out, o.path)
			}
		}
	}
	return nix.SortedPaths(out)
}

// valid reports whether every wanted output is here already. Nobody else keeps the
// derivations from garbage collection: the evaluator is gone.
func (r *buildRun) valid(ctx context.Context) (bool, error) {
	here, err := r.store.validity(ctx, r.roots())
	if err != nil {
		return false, err
	}
	r.here = here
	all := true
	for _, t := range r.targets {
		for _, o := range t.outputs {
			all = all && r.here[o.path]
		}
	}
	return all, nil
}

// elsewhere builds on the builder.
func (r *buildRun) elsewhere(ctx context.Context, roots []wire.Root, userTrust func() (client.LocalTrust, error)) error {
	r.view.Phase("connecting to builder " + r.route.builder.Short())
	var b *dialed
	var s *client.Session
	var info wire.Info
	var inputs *client.Inputs
	g, gctx := errgroup.WithContext(ctx)
	g.Go(func() (err error) {
		if b, err = r.route.dial(gctx, r.log); err != nil {
			return err
		}
		b.link.Warm(1) // for what the builder lacks
		r.view.SetPath(func() string { return string(b.link.Path().Kind) })
		s = b.session(r.view)
		info, err = s.Info(gctx, "")
		return err
	})
	// Of a large graph this takes as long as reaching a builder far away.
	g.Go(func() (err error) {
		inputs, err = collect(gctx, r.store, drvsOf(roots))
		return err
	})
	err := g.Wait()
	if b != nil {
		defer b.link.Close()
	}
	if err != nil {
		return err
	}
	trust, err := userTrust()
	if err != nil {
		return err
	}
	if err := r.route.checkKey(info.SigningKey); err != nil {
		return err
	}
	r.log.Debug("the builder is known, inputs are collected", "paths", len(inputs.Paths))
	if r.printer.Terminal {
		r.view.SetGraph(term.NewGraph(inputs, drvsOf(roots)))
	}
	help, err := r.app.trusted(ctx, trust, info.SigningKey, r.flags.importMode, r.log)
	if err != nil {
		return err
	}
	if err := checkBuilder(&info, roots); err != nil {
		return err
	}
	if r.flags.dryRun {
		plan, err := s.Plan(ctx, &wire.PlanRequest{Roots: roots, Closure: inputs.Wire})
		if err != nil {
			return err
		}
		return r.printPlan(&plan, inputs)
	}

	id, err := wire.NewBuildID(rand.Reader)
	if err != nil {
		return err
	}
	r.view.Phase("asking the builder to build")
	request := &client.Request{
		ID: id, Roots: roots, Inputs: inputs, Mode: r.flags.mode(), KeepGoing: r.flags.keepGoing, Detach: r.flags.detach,
	}
	if request.Detach {
		return r.leave(ctx, s, request)
	}
	built, err := s.Build(ctx, request)
	if err != nil {
		return err
	}
	r.log.Debug("the build has ended", "build", id)
	sum := &summary{began: time.Now(), inputs: len(inputs.Paths), sent: s.Sent(), result: built, path: b.link.Explain}
	if built.Error != nil && (!r.flags.keepGoing || len(built.Outputs) == 0) {
		return r.buildFailed(id, built)
	}
	targets, err := r.resolve(roots, built)
	if err != nil {
		return err
	}
	b.link.Warm(2) // for what there is, and for what is in it
	in := &incoming{buildRun: r, session: s, id: id, signingKey: info.SigningKey, trusted: trust.UserTrusted, helper: help, sum: sum}
	return in.take(ctx, targets)
}

func drvsOf(roots []wire.Root) []nix.Path {
	drvs := make([]nix.Path, len(roots))
	for i, root := range roots {
		drvs[i] = nix.Path(root.Drv)
	}
	return drvs
}

// credentials are those of a URL over HTTP.
var credentials = regexp.MustCompile(`(https?://)[^/?#@\s]*@`)

// label is what the builder is told of an installable: the credentials of a flake's URL
// are no business of its owner's.
func label(installable string) string {
	l := credentials.ReplaceAllString(installable, "${1}…@")
	if len(l) > wire.MaxLabel {
		l = strings.ToValidUTF8(l[:wire.MaxLabel], "")
	}
	return l
}

// wireRoots makes the request's roots of the targets, each derivation once.
func (r *buildRun) wireRoots() ([]wire.Root, error) {
	var roots []wire.Root
	index := make(map[nix.Path]int)
	for _, t := range r.targets {
		switch {
		case t.drv != "":
		case r.here[t.outputs[0].path]:
			continue
		default:
			return nil, fmt.Errorf("%s is a store path that is not valid here, and what builds it is not known", t.installable)
		}
		i, ok := index[t.drv]
		if !ok {
			i = len(roots)
			index[t.drv] = i
			roots = append(roots, wire.Root{Drv: string(t.drv), Label: label(t.installable)})
		}
		for _, o := range t.outputs {
			if !slices.Contains(roots[i].Outputs, o.name) {
				roots[i].Outputs = append(roots[i].Outputs, o.name)
			}
		}
	}
	if len(roots) == 0 {
		return nil, errors.New("there is no derivation among the installables to build again")
	}
	if len(roots) > wire.MaxRoots {
		return nil, fmt.Errorf("%d derivations at once; a builder takes %d", len(roots), wire.MaxRoots)
	}
	return roots, nil
}

// resolve fills in the paths that the build told. With --keep-going, targets
// that failed are left out.
func (r *buildRun) resolve(roots []wire.Root, built *wire.Result) ([]target, error) {
	known := make(map[nix.Path]map[string]nix.Path)
	for _, t := range r.targets {
		if known[t.drv] == nil {
			known[t.drv] = make(map[string]nix.Path)
		}
		for _, o := range t.outputs {
			if o.path != "" {
				known[t.drv][o.name] = o.path
			}
		}
	}
	if built.Error != nil {
		done := make(map[string]bool)
		for _, o := range built.Outputs {
			done[o.Drv] = true
		}
		roots = slices.DeleteFunc(slices.Clone(roots), func(root wire.Root) bool { return !done[root.Drv] })
	}
	paths, err := client.WantedOutputs(roots, known, built)
	if err != nil {
		return nil, err
	}
	var out []target
	for nth, t := range r.targets {
		c := target{installable: t.installable, drv: t.drv, nth: nth}
		if t.drv == "" {
			c.outputs = t.outputs
			out = append(out, c)
			continue
		}
		if paths[t.drv] == nil {
			continue
		}
		for _, o := range t.outputs {
			c.outputs = append(c.outputs, output{o.name, paths[t.drv][o.name]})
		}
		out = append(out, c)
	}
	return out, nil
}
