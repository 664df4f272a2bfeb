package daemon

import (
	"context"
	"errors"
	"io"
	"testing"
	"testing/synctest"
	"time"

	"github.com/drv-thru/drv-thru/core/nix"
)

var pingStep = step{u(13), last + u(1)}

// dials hands out fakes in turn and counts them.
type dials struct {
	count int
	fakes []Dialer
}

func (d *dials) dial(ctx context.Context) (io.ReadWriteCloser, error) {
	d.count++
	if len(d.fakes) == 0 {
		return nil, errors.New("no more daemons")
	}
	next := d.fakes[0]
	d.fakes = d.fakes[1:]
	return next(ctx)
}

// testPool returns a pool that dials these fakes in turn. Close it with defer:
// the fakes wait for the hang-up when the test ends.
func testPool(t *testing.T, fakes ...[]step) (*Pool, *dials) {
	t.Helper()
	d := &dials{}
	for _, steps := range fakes {
		d.fakes = append(d.fakes, fake(t, append(greeting(38), steps...)...))
	}
	return NewPool(Config{Dial: d.dial}, 2), d
}

func (p *Pool) idling() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.idle)
}

func TestPoolReuses(t *testing.T) {
	p, d := testPool(t, []step{validStep, pingStep, validStep, pingStep})
	defer p.Close()
	for range 2 {
		if err := p.Do(t.Context(), func(c *Conn) error { return isValid(t.Context(), c) }); err != nil {
			t.Fatal(err)
		}
	}
	// An error of the caller's own says nothing about the connection.
	own := errors.New("mine")
	if err := p.Do(t.Context(), func(*Conn) error { return own }); !errors.Is(err, own) {
		t.Error(err)
	}
	if d.count != 1 || p.idling() != 1 {
		t.Errorf("dialled %d times, %d idle", d.count, p.idling())
	}
}

func TestPoolDiscards(t *testing.T) {
	for name, tt := range map[string]struct {
		step step
		do   func(ctx context.Context, c *Conn)
	}{
		"daemon error": {step{askValid, errorMsg("no")}, func(ctx context.Context, c *Conn) { _ = isValid(ctx, c) }},
		"root":         {step{u(11) + s(pathA), last + u(1)}, func(ctx context.Context, c *Conn) { _ = c.AddTempRoots(ctx, []nix.Path{pathA}) }},
		"keep":         {step{u(31) + list() + u(0), last + list()}, func(ctx context.Context, c *Conn) { _, _ = c.KeepPaths(ctx, nil) }},
		"closed":       {step{}, func(_ context.Context, c *Conn) { _ = c.Close() }},
		"running": {step{askValid, logLine(1, "x")}, func(ctx context.Context, c *Conn) {
			begun := make(chan struct{})
			_ = c.SetSink(lineSink{line: func() { close(begun) }})
			go func() { _ = isValid(ctx, c) }()
			<-begun
		}},
		"options": {
			step{u(19) + u(0) + u(0) + u(0) + u(0) + u(0) + u(0) + u(1) + u(7) + u(0) + u(0) + u(0) + u(0) + u(0), last},
			func(ctx context.Context, c *Conn) { _ = c.SetOptions(ctx, Options{}) },
		},
	} {
		t.Run(name, func(t *testing.T) {
			p, _ := testPool(t, []step{tt.step})
			defer p.Close()
			_ = p.Do(t.Context(), func(c *Conn) error { tt.do(t.Context(), c); return nil })
			if p.idling() != 0 {
				t.Error("the connection was kept")
			}
		})
	}
}

func TestPoolReplacesDead(t *testing.T) {
	// The first daemon hangs up when asked whether it is still there.
	p, d := testPool(t, []step{validStep, {u(13), errorMsg("shutting down")}}, []step{validStep})
	defer p.Close()
	for range 2 {
		if err := p.Do(t.Context(), func(c *Conn) error { return isValid(t.Context(), c) }); err != nil {
			t.Fatal(err)
		}
	}
	if d.count != 2 {
		t.Errorf("dialled %d times", d.count)
	}
}

func TestPoolLimitAndIdle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, d := testPool(t, []step{}, []step{}, []step{})
		defer p.Close()
		var held []chan struct{}
		done := make(chan error, 3)
		running := 0
		start := func() {
			release := make(chan struct{})
			held = append(held, release)
			go func() {
				done <- p.Do(t.Context(), func(*Conn) error {
					running++
					<-release
					return nil
				})
			}()
			synctest.Wait()
		}
		start()
		start()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := p.Do(ctx, func(*Conn) error { return nil }); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("third of two: %v", err)
		}
		// A connection of one's own does not count.
		c, err := p.Conn(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		_ = c.Close()
		for _, r := range held {
			close(r)
		}
		for range held {
			if err := <-done; err != nil {
				t.Error(err)
			}
		}
		if running != 2 || d.count != 3 || p.idling() != 2 {
			t.Errorf("%d ran, %d dialled, %d idle", running, d.count, p.idling())
		}
		<-time.After(2 * idleTimeout)
		synctest.Wait()
		if p.idling() != 0 {
			t.Error("idle connections stay open")
		}
	})
}

func TestPoolClose(t *testing.T) {
	p, _ := testPool(t, []step{validStep}, []step{validStep})
	err := p.Do(t.Context(), func(c *Conn) error {
		_ = p.Close()
		return isValid(t.Context(), c) // still in use
	})
	if err != nil {
		t.Error(err)
	}
	if err := p.Do(t.Context(), func(c *Conn) error { return isValid(t.Context(), c) }); !errors.Is(err, ErrClosed) {
		t.Errorf("after Close: %v", err)
	}
	if _, err := p.Conn(t.Context()); !errors.Is(err, ErrClosed) {
		t.Errorf("after Close: %v", err)
	}
	if p.idling() != 0 {
		t.Error("a connection came back")
	}
}
