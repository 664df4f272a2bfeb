package link

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// open makes a request and returns its answer, of which all has arrived that will.
func (b *bench) open(ctx context.Context, path string) *http.Response {
	b.t.Helper()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, BaseURL+path, nil)
	if err != nil {
		b.t.Fatal(err)
	}
	resp, err := b.Bulk().RoundTrip(req)
	if err != nil {
		b.t.Fatal(err)
	}
	synctest.Wait()
	return resp
}

// two leaves two connections that carry nothing.
func (b *bench) two() {
	second := b.begin(b.t.Context(), "second")
	b.want("")
	if err := <-second; err != nil {
		b.t.Error(err)
	}
}

// circuitsOpen is how many circuits are not closed, with the one of small requests.
func (b *bench) circuitsOpen() (n int) {
	synctest.Wait()
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, c := range b.Session.circuits {
		if !c.closed.Load() {
			n++
		}
	}
	return n
}

// An answer that was given up does not end well, whatever its end looks like: told that
// it is not wanted, a handler may end it early as if it were complete.
func TestAnswerThatWasGivenUp(t *testing.T) {
	inPool(t, 0, func(t *testing.T, b *bench) {
		resp := b.open(t.Context(), "")
		resp.Body.(*flightBody).ReadCloser.(*pooledBody).use.ended.Store(true)
		if text, err := io.ReadAll(resp.Body); !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("given up for dead: %q, %v", text, err)
		}
		_ = resp.Body.Close()
		ctx, cancel := context.WithCancel(t.Context())
		resp = b.open(ctx, "")
		cancel()
		synctest.Wait()
		if text, err := io.ReadAll(resp.Body); !errors.Is(err, context.Canceled) {
			t.Errorf("cancelled: %q, %v", text, err)
		}
		_ = resp.Body.Close()
		if n := b.circuitsOpen(); n != 1 {
			t.Errorf("%d circuits are left", n)
		}
		resp = b.open(t.Context(), "half")
		b.listen.Silence()
		if _, err := io.ReadAll(resp.Body); err == nil || !resp.Body.(*flightBody).ReadCloser.(*pooledBody).use.ended.Load() {
			t.Errorf("on a path that died: %v", err)
		}
		_ = resp.Body.Close()
	})
}

// An answer that takes over the connection is one without a body: nothing would end a
// Read of it.
func TestAnswerThatTakesOver(t *testing.T) {
	inPool(t, 0, func(t *testing.T, b *bench) {
		resp := b.open(t.Context(), "upgrade")
		if text, err := io.ReadAll(resp.Body); len(text) > 0 || err != nil || resp.StatusCode != http.StatusSwitchingProtocols {
			t.Errorf("%s: %q, %v", resp.Status, text, err)
		}
		_ = resp.Body.Close()
		if n := b.circuitsOpen(); n != 1 {
			t.Errorf("%d circuits are left", n)
		}
	})
}

// What ends a request at this end leaves the other connections as they are.
func TestRequestsThatEndHere(t *testing.T) {
	broken := errors.New("cannot read it")
	for name, end := range map[string]func(*bench) error{
		"cancelled": func(b *bench) error {
			ctx, cancel := context.WithCancel(b.t.Context())
			held := b.begin(ctx, "hold")
			cancel()
			return <-held
		},
		"closed": func(b *bench) error {
			_ = b.open(b.t.Context(), "half").Body.Close()
			return errors.New("closed")
		},
		"closed while much is left": func(b *bench) error {
			_ = b.open(b.t.Context(), "long").Body.Close()
			return errors.New("closed")
		},
		"cancelled while the answer comes": func(b *bench) error {
			ctx, cancel := context.WithCancel(b.t.Context())
			half := b.begin(ctx, "half")
			cancel()
			return <-half
		},
		"without a body": func(b *bench) error {
			_, err := b.put("read", readerFunc(func([]byte) (int, error) { return 0, broken }))
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			inPool(t, 0, func(t *testing.T, b *bench) {
				b.two()
				before := b.circuitsOpen()
				if err := end(b); err == nil {
					t.Error("the request ends well")
				}
				if n := b.circuitsOpen(); n != before-1 {
					t.Errorf("%d circuits of %d are left", n, before)
				}
			})
		})
	}
}

// Whoever closes an answer that another waits for does not wait with them.
func TestCloseWhileAnotherReads(t *testing.T) {
	inPool(t, 0, func(t *testing.T, b *bench) {
		resp := b.open(t.Context(), "half")
		read := make(chan error, 1)
		go func() {
			_, err := io.Copy(io.Discard, resp.Body)
			read <- err
		}()
		synctest.Wait()
		begin := time.Now()
		_ = resp.Body.Close()
		if err := <-read; err == nil {
			t.Error("the answer ends well")
		}
		if took := time.Since(begin); took != 0 {
			t.Errorf("it took %s", took)
		}
	})
}

// A connection that comes when the pool is closed is not kept.
func TestConnectionAfterClose(t *testing.T) {
	inPool(t, 0, func(t *testing.T, b *bench) {
		b.way.delay = time.Second
		waits := b.begin(t.Context(), "")
		b.bulk.close()
		if err := <-waits; !errors.Is(err, ErrClosed) {
			t.Errorf("who waited got %v", err)
		}
		time.Sleep(2 * time.Second)
		if n := b.circuitsOpen(); n != 1 {
			t.Errorf("%d circuits are left", n)
		}
	})
}

// A refusal is nobody's answer while another connection is on its way.
func TestRefusedBesideAnother(t *testing.T) {
	inPool(t, 2, func(t *testing.T, b *bench) {
		b.way.delay = time.Second
		b.Warm(2)
		b.want("")
	})
}

// Whoever waits does not get a connection that was answered for the last time, but
// another, and at once.
func TestTurnAfterALastAnswer(t *testing.T) {
	inPool(t, 2, func(t *testing.T, b *bench) {
		b.bulk.warm(1)
		synctest.Wait()
		last := make(chan error, 1)
		go func() {
			_, err := b.put("second", bytes.NewReader(make([]byte, 1<<20)))
			last <- err
		}()
		synctest.Wait()
		waits := make(chan error, 1)
		go func() {
			status, err := b.put("read", bytes.NewReader(nil))
			if status != http.StatusOK {
				err = errors.Join(err, errors.New(http.StatusText(status)))
			}
			waits <- err
		}()
		time.Sleep(time.Second / 2) // no other is to be had
		b.way.mu.Lock()
		b.way.most = 0
		b.way.mu.Unlock()
		if err := <-last; err != nil {
			t.Error(err)
		}
		begin := time.Now()
		if err := <-waits; err != nil {
			t.Error(err)
		}
		if took := time.Since(begin); took > time.Second {
			t.Errorf("it waited %s more", took)
		}
	})
}

// A connection that comes just as who waited for it leaves is not lost.
func TestTurnThatNobodyTakes(t *testing.T) {
	inPool(t, 2, func(t *testing.T, b *bench) {
		for range 20 {
			c, err := b.bulk.take(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithCancel(t.Context())
			got := make(chan *pooled, 1)
			go func() {
				c, _ := b.bulk.take(ctx)
				got <- c
			}()
			synctest.Wait()
			b.bulk.mu.Lock()
			cancel()
			c.rest(time.Now())
			b.bulk.handLocked(c)
			b.bulk.mu.Unlock()
			if c := <-got; c != nil {
				b.bulk.release(c)
			}
		}
		b.want("")
	})
}

// Who carries nothing, and ends, is not at fault; who breaks off an answer is, however
// often they were well before.
func TestConnectionsThatEnd(t *testing.T) {
	for path, faults := range map[string]int{"": 1, "half": 2} {
		inPool(t, 0, func(t *testing.T, b *bench) {
			b.want("")
			if path != "" {
				done := b.begin(t.Context(), path)
				defer func() { <-done }()
			}
			b.listen.Cut()
			if n := b.circuitsOpen(); n != 0 {
				t.Errorf("%q: %d circuits are left", path, n)
			}
			bad := 0 // that of small requests is one
			for _, well := range b.way.wells {
				if !well {
					bad++
				}
			}
			if bad != faults {
				t.Errorf("%q: circuits ended well: %v", path, b.way.wells)
			}
			// One that has ended takes nothing that cannot be sent again.
			if status, err := b.put("read", bytes.NewReader(nil)); err != nil || status != http.StatusOK {
				t.Errorf("%q: then %d, %v", path, status, err)
			}
		})
	}
}

// Answers that are not read give their places back.
func TestUnreadAnswersInARow(t *testing.T) {
	inPool(t, 0, func(t *testing.T, b *bench) {
		for range poolSize + 1 {
			_ = b.open(t.Context(), "much").Body.Close()
		}
		b.want("")
	})
}

// A context that outlives its requests does not gather them.
func TestContextOfManyRequests(t *testing.T) {
	inPool(t, 0, func(t *testing.T, b *bench) {
		ctx := &watched{Context: t.Context()}
		for path, end := range map[string]func(*http.Response){
			"":     func(resp *http.Response) { _, _ = io.Copy(io.Discard, resp.Body) },
			"half": func(resp *http.Response) { _ = resp.Body.Close() },
			"much": func(resp *http.Response) { _ = resp.Body.Close() },
			"little": func(resp *http.Response) {
				b.listen.Cut()
				_, _ = io.Copy(io.Discard, resp.Body)
			},
		} {
			end(b.open(ctx, path))
			if n := ctx.watchers.Load(); n != 0 {
				t.Errorf("%q: %d functions wait for the context", path, n)
			}
		}
		_ = b.Close()
		if err := <-b.begin(ctx, ""); !errors.Is(err, ErrClosed) {
			t.Error(err)
		}
		if n := ctx.watchers.Load(); n != 0 {
			t.Errorf("not sent: %d functions wait for the context", n)
		}
		if n := b.base.down.flying(); n != 0 {
			t.Errorf("%d requests seem to be under way", n)
		}
	})
}

// watched is a context that counts what waits for its end.
type watched struct {
	context.Context
	watchers atomic.Int32
}

func (c *watched) AfterFunc(func()) (stop func() bool) {
	c.watchers.Add(1)
	return sync.OnceValue(func() bool {
		c.watchers.Add(-1)
		return true
	})
}

// Of an answer that was read almost to its end, the rest is read for the connection's sake.
func TestAnswerThatIsAlmostRead(t *testing.T) {
	inPool(t, 0, func(t *testing.T, b *bench) {
		for range 3 {
			resp := b.open(t.Context(), "long")
			if _, err := io.CopyN(io.Discard, resp.Body, drainSize+1); err != nil {
				t.Error(err)
			}
			_ = resp.Body.Close()
		}
		if n := b.way.circuits(); n != 2 {
			t.Errorf("%d circuits", n)
		}
	})
}

// The length that an answer to HEAD tells is of nothing that comes.
func TestAnswerToHEAD(t *testing.T) {
	inPool(t, 0, func(t *testing.T, b *bench) {
		for range 3 {
			req, err := http.NewRequest(http.MethodHead, BaseURL+"long", nil)
			if err != nil {
				t.Fatal(err)
			}
			resp, err := b.Bulk().RoundTrip(req)
			if err != nil {
				t.Fatal(err)
			}
			_ = resp.Body.Close()
		}
		if n := b.way.circuits(); n != 2 {
			t.Errorf("%d circuits", n)
		}
	})
}

// Of connections that carry nothing, none is trusted once one has broken off.
func TestIdleConnectionsThatBreakOff(t *testing.T) {
	inPool(t, 0, func(t *testing.T, b *bench) {
		b.two()
		b.want("new")
	})
}

// An answer that comes slowly comes.
func TestAnswerThatTrickles(t *testing.T) {
	inPool(t, 0, func(t *testing.T, b *bench) {
		begin := time.Now()
		if _, err := get(b.Bulk(), "trickle"); err != nil || time.Since(begin) < 3*stallAfter {
			t.Errorf("after %s: %v", time.Since(begin), err)
		}
	})
}

// While it is found out that a path is dead, a connection of it may prove the opposite,
// or carry something else by then.
func TestConnectionsThatMoveAgain(t *testing.T) {
	for path, pause := range map[string]time.Duration{"resume": 10 * time.Second, "pause": 20 * time.Second} {
		inPool(t, 0, func(t *testing.T, b *bench) {
			asked := false
			b.bulk.alive = func(context.Context, Path, time.Time) (bool, error) {
				if asked {
					return true, nil
				}
				asked = true
				time.Sleep(pause)
				return true, errors.New("no answer")
			}
			if _, err := get(b.Bulk(), path); err != nil {
				t.Errorf("%s: %v", path, err)
			}
			b.want("prepare")
			if n := b.way.circuits(); n != 2 || !asked {
				t.Errorf("%s: %d circuits, the path was asked: %t", path, n, asked)
			}
		})
	}
}

// An upload that waits for what it sends is not given up.
func TestUploadThatPauses(t *testing.T) {
	inPool(t, 0, func(t *testing.T, b *bench) {
		begun := false
		status, err := b.put("read", readerFunc(func(p []byte) (int, error) {
			if begun {
				time.Sleep(2 * stallAfter)
				return 0, io.EOF
			}
			begun = true
			return len(p), nil
		}))
		if err != nil || status != http.StatusOK {
			t.Errorf("%d, %v", status, err)
		}
	})
}

// A body is closed when there is nothing to send it by, as http.RoundTripper demands.
func TestBodyOfARequestThatIsNotSent(t *testing.T) {
	inPool(t, 0, func(t *testing.T, b *bench) {
		_ = b.Close()
		for name, rt := range map[string]http.RoundTripper{"small": b.Control(), "large": b.Bulk()} {
			body := &closing{}
			req, err := http.NewRequest(http.MethodPut, BaseURL, body)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := rt.RoundTrip(req); !errors.Is(err, ErrClosed) {
				t.Errorf("%s request: %v", name, err)
			}
			if !body.closed {
				t.Errorf("%s request: its body is not closed", name)
			}
		}
	})
}

// closing is a body that knows whether it was closed.
type closing struct {
	zeros
	closed bool
}

func (c *closing) Close() error {
	c.closed = true
	return nil
}
