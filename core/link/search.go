//go:build !js && !wasip1

package link

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"sync"
	"time"

	"github.com/drv-thru/drv-thru/core/link/direct"
	"github.com/drv-thru/drv-thru/core/wire"
)

const (
	// searchTime bounds one search for a direct path, after the exchange.
	searchTime = 4 * time.Second
	// preferTCP is how long a path by TCP has to come up after one by QUIC: it
	// is several times faster where the line is not the limit.
	preferTCP = 250 * time.Millisecond
	// A clock that jumps by more than this was stopped: the machine slept.
	slept = 4 * time.Second
	// settle is how long the network has after a change to come to rest.
	settle = 100 * time.Millisecond
	// observeWait is how long an exchange waits for what STUN servers see.
	observeWait = 500 * time.Millisecond
	// resolveTime bounds looking up the names of STUN servers.
	resolveTime = 2 * time.Second
)

// search looks for direct paths of a session.
type search struct {
	s *Session
	e *direct.Endpoint

	mu      sync.Mutex
	off     string // why there is no search at all
	nat     wire.NAT
	seen    []netip.AddrPort
	answer  *wire.PathAnswer
	lastErr error
	tried   bool
}

// lookForDirect begins to look for direct paths. The channel is closed once the
// addresses that the session was given have been tried.
func (s *Session) lookForDirect() <-chan struct{} {
	f := &s.search
	f.s = s
	if s.cfg.Direct == nil {
		f.off = "direct paths are switched off"
		return nil
	}
	looked := make(chan struct{})
	if !s.start(func() { f.run(looked) }) {
		return nil
	}
	return looked
}

func (f *search) run(looked chan<- struct{}) {
	var once sync.Once
	tried := func() { once.Do(func() { close(looked) }) }
	defer tried()
	ctx := f.s.ctx
	e, err := direct.Open(f.local(), nil)
	if err != nil {
		f.note(fmt.Errorf("open a UDP socket: %w", err))
		return
	}
	f.e = e
	defer e.Close()
	defer f.s.loseDirect() // says goodbye, before the socket goes
	changed, err := direct.Watch(ctx)
	if err != nil {
		f.s.log.Debug("changes of the network are not noticed", slog.Any("error", err))
	}
	observed := begin(func() {
		if len(f.s.cfg.Direct.STUN) == 0 {
			// The relay says who to ask.
			_, _, _ = f.s.control.conn(ctx)
		}
		f.observe(ctx)
	})
	defer func() { <-observed }()
	observeAgain := func() {
		<-observed
		observed = begin(func() { f.observe(ctx) })
	}
	w := f.known(ctx)
	tried()
	pause, atOnce, found := pauses{next: searchAfter}, true, time.Now()
	for {
		if w == nil && atOnce {
			// The exchange needs the builder.
			if _, _, err := f.s.control.conn(ctx); err != nil {
				w = f.known(ctx)
			} else {
				// Servers that do not answer must not hold up what needs none.
				patience := time.NewTimer(observeWait)
				select {
				case <-observed:
				case <-patience.C:
				case <-ctx.Done():
				}
				patience.Stop()
				w = f.find(ctx)
			}
			found = time.Now()
		}
		atOnce = true
		var done <-chan struct{}
		retry := time.NewTimer(pause.next)
		if w != nil {
			done = w.done
			retry.Stop()
			retry.C = nil
		}
		switch f.wait(ctx, done, retry.C, changed) {
		case ended:
			retry.Stop()
			return
		case wayLost:
			f.gone(w)
			w = nil
			if atOnce = pause.lost(time.Since(found)); !atOnce {
				f.s.log.Debug("direct paths do not last", slog.Duration("next_search_in", pause.next))
			}
			// Perhaps the router has another address now, of which nothing is
			// heard here.
			observeAgain()
		case networkChanged:
			f.recheck(ctx, w)
			if w != nil && w.dead() {
				f.gone(w)
				w = nil
				pause.had = true
			}
			pause.reset()
			observeAgain()
		case timeToRetry:
			pause.failed()
			f.observe(ctx)
		}
		retry.Stop()
	}
}

// begin runs fn beside its caller. What it returns is closed when fn has ended.
func begin(fn func()) <-chan struct{} {
	done := make(chan struct{})
	go func() {
		defer close(done)
		fn()
	}()
	return done
}

// gone forgets a way that was lost.
func (f *search) gone(w *way) {
	f.s.log.Info("the direct path was lost", slog.String("path", w.path().String()))
	f.s.remove(w)
}

func (f *search) local() netip.AddrPort {
	if f.s.cfg.Direct.loopback {
		return netip.MustParseAddrPort("127.0.0.1:0")
	}
	return netip.AddrPort{}
}

type event int

const (
	ended event = iota
	wayLost
	networkChanged
	timeToRetry
)

// wait waits for whatever is a reason to act.
func (f *search) wait(ctx context.Context, lost <-chan struct{}, retry <-chan time.Time, changed <-chan struct{}) event {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	last := time.Now()
	for {
		select {
		case <-ctx.Done():
			return ended
		case <-lost:
			return wayLost
		case <-retry:
			return timeToRetry
		case <-changed:
			if !rest(ctx, changed) {
				return ended
			}
			f.s.log.Debug("the network has changed")
			return networkChanged
		case <-tick.C:
			now := time.Now()
			// The wall clock, too: the other one stands still in sleep.
			if now.Sub(last) > slept || now.Round(0).Sub(last.Round(0)) > slept {
				f.s.log.Debug("the machine has slept")
				return networkChanged
			}
			last = now
		}
	}
}

// rest waits until the network has come to rest: one change brings several messages.
// It reports false when ctx ends.
func rest(ctx context.Context, changed <-chan struct{}) bool {
	timer := time.NewTimer(settle)
	defer timer.Stop()
	for {
		select {
		case <-changed:
		case <-timer.C:
			return true
		case <-ctx.Done():
			return false
		}
	}
}

// recheck finds out which connections have survived a change.
func (f *search) recheck(ctx context.Context, w *way) {
	var work sync.WaitGroup
	work.Go(func() { f.s.control.check(ctx) })
	f.s.bulk.check()
	if w != nil {
		work.Go(func() {
			if !f.s.answers(ctx, w.control, w.moving) {
				w.lose()
			}
		})
	}
	work.Wait()
}

// observe asks the STUN servers.
func (f *search) observe(ctx context.Context) {
	servers := f.s.cfg.Direct.STUN
	if len(servers) == 0 {
		servers = f.s.relaySTUN()
	}
	nat, seen := observe(ctx, f.e, servers)
	f.mu.Lock()
	defer f.mu.Unlock()
	f.nat, f.seen = nat, seen
}

// relaySTUN returns where the relays that were tried answer STUN.
func (s *Session) relaySTUN() []string {
	var out []string
	for _, d := range s.paths() {
		if r, ok := d.(*relayDialer); ok {
			if at := r.stun.Load(); at != nil && *at != "" {
				out = append(out, *at)
			}
		}
	}
	return out
}

func observe(ctx context.Context, e *direct.Endpoint, names []string) (wire.NAT, []netip.AddrPort) {
	scope, err := direct.LocalScope()
	if err != nil {
		return wire.NATUnknown, nil
	}
	servers := resolve(ctx, names)
	got := e.Observe(ctx, servers)
	seen := make([]netip.AddrPort, len(got))
	for i, o := range got {
		seen[i] = o.At
	}
	return direct.Classify(len(servers), got, scope.Addresses()), seen
}

// resolve finds the addresses of "host:port" names, in the order of [inTurn].
func resolve(ctx context.Context, names []string) []netip.AddrPort {
	ctx, cancel := context.WithTimeout(ctx, resolveTime)
	defer cancel()
	var found [][]netip.AddrPort
	for _, name := range names {
		host, portText, err := net.SplitHostPort(name)
		if err != nil {
			continue
		}
		port, err := strconv.ParseUint(portText, 10, 16)
		if err != nil {
			continue
		}
		addrs, err := net.DefaultResolver.LookupNetIP(ctx, "ip", host)
		if err != nil {
			continue
		}
		var at []netip.AddrPort
		for _, a := range addrs {
			at = append(at, netip.AddrPortFrom(a.Unmap(), uint16(port)))
		}
		found = append(found, at)
	}
	return inTurn(found)
}

// inTurn puts first what matters most, as few servers are asked: of each name the first
// address of each family; then the others, since of several addresses one may be dead.
func inTurn(found [][]netip.AddrPort) []netip.AddrPort {
	var first, others []netip.AddrPort
	for _, addrs := range found {
		had := make(map[bool]bool) // by family
		for _, at := range addrs {
			if had[at.Addr().Is4()] {
				others = append(others, at)
				continue
			}
			had[at.Addr().Is4()] = true
			first = append(first, at)
		}
	}
	return append(first, others...)
}

func (f *search) scope() (direct.Scope, error) {
	scope, err := direct.LocalScope()
	scope.Loopback = f.s.cfg.Direct.loopback
	return scope, err
}

// find makes one search: an exchange with the builder, then all addresses at
// once. It returns nil when there is no way.
func (f *search) find(ctx context.Context) *way {
	w, err := f.tryFind(ctx)
	if w == nil && ctx.Err() == nil {
		f.s.log.Debug("no direct path", slog.Any("error", err))
	}
	f.note(err)
	return w
}

func (f *search) note(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.lastErr, f.tried = err, true
}

var errNoPacket = errors.New("no packet came through")

func (f *search) tryFind(ctx context.Context) (*way, error) {
	begin := time.Now()
	scope, err := f.scope()
	if err != nil {
		return nil, err
	}
	var token wire.PathToken
	if _, err := io.ReadFull(f.s.cfg.Direct.Rand, token[:]); err != nil {
		return nil, err
	}
	punch, err := f.e.Punch("", token, scope, nil)
	if err != nil {
		return nil, err
	}
	f.mu.Lock()
	nat, seen := f.nat, f.seen
	f.mu.Unlock()
	ctx, cancel := context.WithTimeout(ctx, searchTime+dialTimeout)
	defer cancel()
	answer, err := f.exchange(ctx, wire.PathRequest{
		Token: token, NAT: nat, Candidates: direct.Candidates(seen, scope.Addresses(), f.e.Port()),
	})
	if err != nil {
		punch.Cancel()
		return nil, err
	}
	f.mu.Lock()
	f.answer = &answer
	f.mu.Unlock()
	if answer.Disabled {
		punch.Cancel()
		return nil, errors.New("the builder takes no direct connections")
	}
	punch.Aim(answer.UDP)
	var work sync.WaitGroup
	looking, stop := context.WithTimeout(ctx, searchTime)
	defer work.Wait()
	defer stop()
	work.Go(func() { punch.Run(looking) })
	found := make(chan *way)
	work.Go(func() { f.viaTCP(looking, scope.Select(answer.TCP), found) })
	failed := make(chan error, 1)
	work.Go(func() { failed <- f.viaQUIC(looking, punch.Heard(), found) })
	w := f.first(looking, found)
	if w == nil {
		stop()
		if err := <-failed; err != nil {
			return nil, fmt.Errorf("packets come through, but no connection by QUIC: %w", err)
		}
		return nil, errNoPacket
	}
	if err := f.compare(ctx, w); err != nil {
		w.lose()
		return nil, err
	}
	f.s.log.Info("direct path", slog.String("path", w.path().String()), slog.Duration("took", time.Since(begin)), slog.Duration("round_trip", w.roundTrip()))
	f.s.add(w)
	return w, nil
}

// first waits for a way, and for one by TCP a little longer.
func (f *search) first(ctx context.Context, found <-chan *way) *way {
	var best *way // by QUIC
	var enough <-chan time.Time
	noTCP := false
	for {
		select {
		case w := <-found:
			switch {
			case w == nil && best != nil:
				return best
			case w == nil:
				noTCP = true
			case w.path().Kind == PathDirectTCP || best != nil:
				if best != nil {
					best.lose()
				}
				return w
			case noTCP:
				return w
			case f.s.cfg.Direct.patient:
				best = w
			default:
				best, enough = w, time.After(preferTCP)
			}
		case <-enough:
			return best
		case <-ctx.Done():
			return best
		}
	}
}

// compare measures the round trips of a new way and of the lanes. It has time of its
// own: a way may be found at the end of a search.
func (f *search) compare(ctx context.Context, w *way) error {
	ctx, cancel := context.WithTimeout(ctx, searchTime)
	defer cancel()
	if err := w.measure(ctx, f.s.cfg.Header); err != nil {
		return err
	}
	if f.s.control.isOpen() && !f.s.cfg.Direct.patient {
		_ = f.s.base.measure(ctx, f.s.cfg.Header)
	}
	return nil
}

// exchange tells the builder this end's addresses and learns its own.
func (f *search) exchange(ctx context.Context, r wire.PathRequest) (wire.PathAnswer, error) {
	body, err := json.Marshal(r)
	if err != nil {
		return wire.PathAnswer{}, err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, pathURL, bytes.NewReader(body))
	if err != nil {
		return wire.PathAnswer{}, err
	}
	maps.Copy(req.Header, f.s.cfg.Header)
	req.Header.Set("Content-Type", wire.TypeJSON)
	resp, err := f.s.control.RoundTrip(req)
	if err != nil {
		return wire.PathAnswer{}, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return wire.PathAnswer{}, wire.ReadError(resp)
	}
	text, err := io.ReadAll(io.LimitReader(resp.Body, wire.MaxPathDocument+1))
	if err != nil {
		return wire.PathAnswer{}, err
	}
	return wire.ParsePathAnswer(text)
}

// why tells why there is no direct path; "" when there is nothing to say.
func (f *search) why() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	a := f.answer
	switch {
	case f.off != "":
		return f.off
	case !f.tried:
		return ""
	case a == nil && f.lastErr != nil:
		return "no direct path: " + f.lastErr.Error()
	case a == nil:
		return ""
	case a.Disabled:
		return "the builder takes no direct connections"
	case f.nat == wire.NATBlocked && a.NAT == wire.NATBlocked:
		return "no direct path: no STUN server answers here or at the builder"
	case f.nat == wire.NATBlocked:
		return "no direct path: this network lets no UDP through"
	case a.NAT == wire.NATBlocked:
		return "no direct path: the builder's network lets no UDP through"
	case f.nat == wire.NATSymmetric && a.NAT == wire.NATSymmetric:
		return "no direct path: both networks translate every connection to another port"
	case f.nat == wire.NATSymmetric || a.NAT == wire.NATSymmetric:
		return "no direct path: a network on the way translates every connection to another port"
	case f.lastErr != nil:
		return "no direct path: " + f.lastErr.Error()
	}
	return ""
}
