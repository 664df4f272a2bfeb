package buildertest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"

	"github.com/drv-thru/drv-thru/core/builder"
	"github.com/drv-thru/drv-thru/core/nix"
	"github.com/drv-thru/drv-thru/core/nix/daemon"
)

type session struct {
	s      *Store
	ctx    context.Context
	cancel context.CancelFunc
	once   sync.Once
}

// Session implements builder.Store.
func (s *Store) Session(context.Context) (builder.Session, error) {
	s.mu.Lock()
	s.sessions++
	s.mu.Unlock()
	ctx, cancel := context.WithCancel(context.Background())
	return &session{s: s, ctx: ctx, cancel: cancel}, nil
}

var errClosed = errors.New("the connection is closed")

func (c *session) AddTempRoots(context.Context, []nix.Path) error { return c.closed() }

func (c *session) AddRoots(_ context.Context, links []string) error {
	c.s.mu.Lock()
	defer c.s.mu.Unlock()
	for _, link := range links {
		c.s.roots[link] = true
	}
	return c.closed()
}

func (c *session) closed() error {
	if c.ctx.Err() != nil {
		return errClosed
	}
	return nil
}

// Import takes a path only when its NAR has come whole, as the daemon does.
func (c *session) Import(_ context.Context, items []builder.ImportItem) error {
	c.s.mu.Lock()
	c.s.imports++
	c.s.mu.Unlock()
	for _, item := range items {
		data, err := io.ReadAll(item.Nar)
		if err != nil {
			c.cancel()
			return err
		}
		if err := c.add(item.Info, data); err != nil {
			return err
		}
	}
	return nil
}

func (c *session) add(info nix.PathInfo, data []byte) error {
	if err := c.closed(); err != nil {
		return err
	}
	if c.s.OnImport != nil {
		if err := c.s.OnImport(info); err != nil {
			return err
		}
		if err := c.closed(); err != nil {
			return err // half of it would be left
		}
	}
	c.s.mu.Lock()
	defer c.s.mu.Unlock()
	for _, ref := range info.References {
		if _, ok := c.s.objects[ref]; !ok && ref != info.Path {
			return fmt.Errorf("reference '%s' of '%s' is not valid", ref, info.Path)
		}
	}
	if _, ok := c.s.objects[info.Path]; !ok {
		c.s.objects[info.Path] = Object{info, data}
	}
	return nil
}

func (c *session) Build(ctx context.Context, targets []daemon.DerivedPath, opts builder.BuildOptions, sink daemon.Sink) ([]daemon.BuildResult, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(c.ctx, cancel)()
	results := make([]daemon.BuildResult, 0, len(targets))
	for _, t := range targets {
		built, err := c.build(ctx, t.Path, t.Outputs, opts, sink)
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		if said := (*daemon.Error)(nil); errors.As(err, &said) {
			return nil, err
		}
		r := daemon.BuildResult{Path: t, Status: daemon.AlreadyValid}
		switch {
		case err != nil:
			r.Status, r.ErrorMsg = daemon.PermanentFailure, err.Error()
		case built:
			r.Status = daemon.Built
		}
		results = append(results, r)
	}
	return results, nil
}

// build builds a derivation after what it depends on.
func (c *session) build(ctx context.Context, drv nix.Path, outputs []string, opts builder.BuildOptions, sink daemon.Sink) (bool, error) {
	c.s.mu.Lock()
	d, err := c.s.derivation(drv)
	valid := true
	if err == nil {
		for _, o := range outputs {
			_, ok := c.s.objects[d.Outputs[o].Path]
			valid = valid && ok
		}
	}
	c.s.mu.Unlock()
	if err == nil && opts.Check && !valid {
		err = fmt.Errorf("some outputs of '%s' are not valid, so checking is not possible", drv)
	}
	if err != nil || valid && !opts.Check {
		return false, err
	}
	for in, outs := range d.InputDrvs {
		if _, err := c.build(ctx, in, outs, builder.BuildOptions{}, sink); err != nil {
			return false, err
		}
	}
	sink.StartActivity(daemon.Activity{ID: 1, Type: daemon.ActivityBuild, Fields: []daemon.Field{{IsString: true, Str: string(drv)}}})
	defer sink.StopActivity(1)
	if c.s.OnBuild != nil {
		if err := c.s.OnBuild(ctx, drv, sink); err != nil {
			return false, err
		}
	}
	for name, o := range d.Outputs {
		text := "output " + name + " of " + string(drv)
		if c.s.Contents != nil {
			text = c.s.Contents(o.Path.Name())
		}
		out := Built(o.Path, text)
		out.Info.Deriver = drv
		c.s.Add(out)
	}
	return true, nil
}

func (c *session) Close() error {
	c.once.Do(func() {
		c.cancel()
		c.s.mu.Lock()
		c.s.sessions--
		c.s.mu.Unlock()
	})
	return nil
}
