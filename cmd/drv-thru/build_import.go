package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/drv-thru/drv-thru/core/cache"
	"github.com/drv-thru/drv-thru/core/nix"
	"github.com/drv-thru/drv-thru/core/nix/daemon"
	"github.com/drv-thru/drv-thru/fusecache"
)

const (
	// copyBatch bounds the paths of one nix copy: its command line has to fit.
	copyBatch = 2000
	// copyGrace is how long nix copy may take to end when it is told to.
	copyGrace = 2 * time.Second
	// maxStderr is how much of what it prints is kept for its error.
	maxStderr = 16 << 10
)

// importer lets the local Nix copy from a View.
type importer struct {
	app  *app
	mode string // auto, fuse or http
	// trustKey is given to Nix as a trusted key: only for a user whom the
	// daemon trusts, from others it ignores it.
	trustKey string
	// helper imports in the place of nix copy; nil: it does not.
	helper *importHelp
	// recursive imports also what the paths refer to. Without it the local Nix
	// is spared the narinfo of everything that it has already.
	recursive bool
	note      func(string)
	// exposed is told of the mount, so that it can be taken away in a hurry, and copying
	// of the nix copy that runs, so that it can be ended so; then of nil.
	exposed func(*fusecache.Mounted)
	copying func(*os.Process)
	log     *slog.Logger
}

// exposure is a View that the local Nix can copy from, or will be soon.
type exposure struct {
	view  *cache.View
	close func() error  // takes the view away from Nix; may be called again
	ready chan struct{} // closed when what follows is known
	url   string        // to copy from
	list  func()        // has the kernel learn what is mounted; may be nil
	done  func() error
	err   error
}

// start begins to expose the view: mounting takes longer than most answers.
func (i *importer) start(view *cache.View) *exposure {
	e := &exposure{view: view, ready: make(chan struct{})}
	e.close = sync.OnceValue(func() error {
		<-e.ready
		var err error
		if e.done != nil {
			err = e.done()
		}
		return errors.Join(err, view.Close())
	})
	go func() {
		defer close(e.ready)
		e.err = i.expose(e)
	}()
	return e
}

// run imports paths, references before referrers.
func (i *importer) run(ctx context.Context, from *exposure, paths []nix.Path) error {
	<-from.ready
	if from.err != nil {
		return from.err
	}
	i.log.Debug("nix copy begins", "url", from.url)
	var err error
	if from.list != nil {
		from.list()
	}
	if i.helper != nil {
		err = i.helper.copy(ctx, from.view, paths, i.recursive)
	} else {
		err = i.copyWhole(ctx, from, paths)
	}
	i.log.Debug("nix copy has ended", "err", err)
	if err != nil && ctx.Err() == nil {
		err = importError(err, from.view.Err())
	}
	return err
}

// expose shows the view to Nix.
func (i *importer) expose(e *exposure) error {
	if i.helper != nil {
		return nil // it mounts by itself, when there is something to import
	}
	if i.mode != "http" {
		err := i.mount(e)
		if err == nil || i.mode == "fuse" {
			return err
		}
		i.note("importing over HTTP on this machine, because: " + err.Error())
	}
	srv, err := fusecache.ServeHTTP(e.view)
	if err != nil {
		return fmt.Errorf("serve the outputs to the local Nix: %w", err)
	}
	e.url, e.done = srv.URL(), srv.Close
	return nil
}

func (i *importer) mount(e *exposure) error {
	if err := fusecache.Available(); err != nil {
		return err
	}
	base, err := i.app.runtimeDir()
	if err != nil {
		return err
	}
	dir, err := newMountDir(base, unix.Flock)
	if err != nil {
		return err
	}
	guard := dir.guard(i.app.env("PATH"))
	m, err := fusecache.Mount(e.view, dir.path, fusecache.Options{Logger: i.log, Pipes: dir.path + pipeSuffix})
	if err != nil {
		guard.release()
		return errors.Join(err, dir.remove())
	}
	i.exposed(m)
	e.url, e.list = m.URL(), guard.list
	e.done = func() error {
		if err := m.Unmount(); err != nil {
			return fmt.Errorf("unmount %s: %w", dir.path, err)
		}
		i.exposed(nil)
		// Who leaves in a hurry may end this process at any time: until then the guard stays.
		defer guard.release()
		return dir.remove()
	}
	return nil
}

// errNotWhole ends a nix copy of what cannot be read. The View says why.
var errNotWhole = errors.New("not all can be read")

// copyWhole is copy that ends when a NAR could not be read.
func (i *importer) copyWhole(ctx context.Context, from *exposure, paths []nix.Path) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	go func() {
		select {
		case <-from.view.Failed():
			cancel(errNotWhole)
		case <-ctx.Done():
		}
	}()
	return i.copy(ctx, from.url, paths)
}

// copy runs nix copy as the user, with signatures required: that is Nix's
// default and nothing here says otherwise.
func (i *importer) copy(ctx context.Context, url string, paths []nix.Path) error {
	env := i.app.nixEnv()
	args := []string{"--extra-experimental-features", "nix-command", "copy", "--from", url}
	if !i.recursive {
		args = append(args, "--no-recursive")
	}
	if i.trustKey != "" {
		// Not in addition: behind another key of its name Nix would not heed it, and
		// all that is there has the builder's signature.
		args = append(args, "--option", "trusted-public-keys", i.trustKey)
	}
	if strings.HasPrefix(url, "http:") {
		// What Nix keeps of a URL is of no use for long, as the URL is new each time.
		// (0 would also turn off what it keeps in memory.) What fails there has been
		// tried often enough.
		args = append(args, "--option", "narinfo-cache-positive-ttl", "60", "--option", "narinfo-cache-negative-ttl", "0",
			"--option", "download-attempts", "1")
		// nix copy would fail where it cannot write, as below a HOME of /nonexistent.
		if dir, err := os.MkdirTemp("", "drv-thru-"); err == nil {
			defer os.RemoveAll(dir)
			env = append(env, "XDG_CACHE_HOME="+dir, "NIX_CACHE_HOME="+dir)
		}
	}
	args = append(args, "--")
	for batch := range slices.Chunk(paths, copyBatch) {
		all := slices.Clone(args)
		for _, p := range batch {
			all = append(all, string(p))
		}
		if err := i.nix(ctx, env, all); err != nil {
			return err
		}
	}
	return nil
}

func (i *importer) nix(ctx context.Context, env, args []string) error {
	cmd := exec.CommandContext(ctx, "nix", args...)
	cmd.Env = env
	said := new(lastBytes)
	cmd.Stdout, cmd.Stderr = said, said
	// Ctrl-C in a terminal reaches everyone in it; this process decides.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = copyGrace
	err := cmd.Start()
	if err == nil {
		i.copying(cmd.Process)
		err = cmd.Wait()
		i.copying(nil)
	}
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil:
		return context.Cause(ctx)
	}
	return &copyError{err, strings.TrimSpace(daemon.StripANSI(string(*said)))}
}

// copyError is a nix copy that failed.
type copyError struct {
	err  error
	said string
}

func (e *copyError) Unwrap() error { return e.err }

func (e *copyError) Error() string {
	const what = "the local Nix did not import the outputs"
	// A nix that was killed, as where memory is short, has not said why.
	var exit *exec.ExitError
	switch killed := errors.As(e.err, &exit) && !exit.Exited(); {
	case e.said == "":
		return fmt.Sprintf("%s: nix copy: %v", what, e.err)
	case killed:
		return fmt.Sprintf("%s: nix copy: %v. It said:\n%s", what, e.err, e.said)
	}
	return what + ". It says:\n" + e.said
}

// nixEnv is what the local nix commands need to find their configuration and
// their daemon. Nothing else is handed on, tickets least of all.
func (a *app) nixEnv() []string {
	var out []string
	for _, kv := range a.environ {
		name, _, _ := strings.Cut(kv, "=")
		switch {
		case strings.HasPrefix(name, "NIX_"), strings.HasPrefix(name, "XDG_"), strings.HasPrefix(name, "LC_"),
			slices.Contains([]string{"PATH", "HOME", "USER", "LOGNAME", "LANG", "TMPDIR", "SSL_CERT_FILE"}, name):
			out = append(out, kv)
		}
	}
	return out
}

// lastBytes keeps the end of what is written to it, maxStderr bytes.
type lastBytes []byte

func (l *lastBytes) Write(p []byte) (int, error) {
	b := append(*l, p[max(0, len(p)-maxStderr):]...)
	*l = slices.Delete(b, 0, max(0, len(b)-maxStderr))
	return len(p), nil
}

// emergency takes the mount away without waiting for anyone, for a user who
// wants out now, and ends nix copy: Nix 2.8 may hang when it is told to end, and would
// hold a path's lock for good. What is left is for the guard.
type emergency struct {
	mu   sync.Mutex
	m    *fusecache.Mounted
	copy *os.Process
}

func (e *emergency) set(m *fusecache.Mounted) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.m = m
}

func (e *emergency) copying(p *os.Process) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.copy = p
}

func (e *emergency) leave(within time.Duration) {
	e.mu.Lock()
	m, nix := e.m, e.copy
	e.mu.Unlock()
	if nix != nil {
		_ = nix.Kill()
	}
	if m == nil {
		return
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = m.Unmount()
	}()
	select {
	case <-done:
	case <-time.After(within):
	}
}
