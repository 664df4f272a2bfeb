//go:build !js && !wasip1

package link

import (
	"cmp"
	"context"
	"net/http"
	"net/netip"
	"sync"
	"time"

	"github.com/quic-go/quic-go"
	"github.com/quic-go/quic-go/http3"
)

// quicTimeout bounds a QUIC handshake.
const quicTimeout = 3 * time.Second

// known tries the addresses that the session was given, at first and while nothing else
// leads to the builder: without an exchange, so only where nothing has to be punched.
func (f *search) known(ctx context.Context) *way {
	if len(f.s.cfg.Addresses) == 0 {
		return nil
	}
	looking, stop := context.WithTimeout(ctx, searchTime)
	var work sync.WaitGroup
	defer work.Wait()
	defer stop()
	found := make(chan *way)
	work.Go(func() { f.viaTCP(looking, f.s.cfg.Addresses, found) })
	for _, at := range f.s.cfg.Addresses {
		work.Go(func() {
			if w, err := f.dialQUIC(looking, at); err == nil {
				offer(looking, w, found)
			}
		})
	}
	w := f.first(looking, found)
	if w == nil {
		return nil
	}
	if f.compare(ctx, w) != nil {
		w.lose()
		return nil
	}
	f.s.add(w)
	return w
}

// offer hands a way over, or closes it when nobody waits any more.
func offer(ctx context.Context, w *way, to chan<- *way) {
	select {
	case to <- w:
	case <-ctx.Done():
		if w != nil {
			w.lose()
		}
	}
}

// viaTCP connects to all addresses at once and offers the first that works, or
// nil when none does.
func (f *search) viaTCP(ctx context.Context, addrs []netip.AddrPort, found chan<- *way) {
	if f.s.cfg.Direct.quicOnly {
		addrs = nil
	}
	trying, stop := context.WithCancel(ctx)
	defer stop()
	var once sync.Once
	offered := false
	var work sync.WaitGroup
	for _, at := range addrs {
		work.Go(func() {
			w, err := f.dialTCP(trying, at)
			if err != nil {
				return
			}
			taken := false
			once.Do(func() { taken = true; stop() })
			if !taken {
				w.lose()
				return
			}
			offered = true
			offer(ctx, w, found)
		})
	}
	work.Wait()
	if !offered {
		offer(ctx, nil, found)
	}
}

// dialTCP opens a way by TCP: a connection for small requests, and those for bulk
// as they are needed.
func (f *search) dialTCP(ctx context.Context, at netip.AddrPort) (*way, error) {
	d := tcpDialer{at}
	control, err := f.s.openTCP(ctx, d, protoControl)
	if err != nil {
		return nil, err
	}
	w := &way{control: control.cc, path: d.path, direct: true, done: make(chan struct{})}
	bulk := &pool{
		s:    f.s,
		open: func(ctx context.Context) (*opened, error) { return f.s.openTCP(ctx, d, protoBulk) },
		alive: func(ctx context.Context, _ Path, _ time.Time) (bool, error) {
			ctx, cancel := context.WithTimeout(ctx, stallAfter)
			defer cancel()
			return true, ping(ctx, control.cc, f.s.cfg.Header)
		},
		lost: w.lose,
	}
	w.bulk = bulk
	w.ready = func() bool { return !w.dead() }
	w.broken = func() bool { return !usable(control.cc) }
	w.moving = func() func() bool { return f.s.moving(control.circuit) }
	var once sync.Once
	w.close = func() {
		once.Do(func() {
			close(w.done)
			go control.cc.Close()
			go bulk.close()
		})
	}
	// Small requests' connection hears of a dead line within seven seconds,
	// also while only bulk moves: all go together.
	control.cc.SetStateHook(func(cc *http.ClientConn) {
		if cc.Err() != nil {
			w.close()
		}
	})
	return w, nil
}

// openTCP opens a connection to an address.
func (s *Session) openTCP(ctx context.Context, d tcpDialer, proto string) (*opened, error) {
	conn, err := attempt(ctx, s.cfg.Identity, s.cfg.Peer, proto, d)
	if err != nil {
		return nil, err
	}
	cc, err := clientConn(ctx, conn, proto)
	if err != nil {
		return nil, lost(d.path(), err)
	}
	o := &opened{cc, circuitBelow(conn)}
	s.watch(o, proto)
	return o, nil
}

// viaQUIC connects to the addresses from which packets came, one after another,
// and offers the first that works. It returns what was wrong with the first that did
// not, when ctx has ended.
func (f *search) viaQUIC(ctx context.Context, heard <-chan netip.AddrPort, found chan<- *way) (failed error) {
	for {
		select {
		case <-ctx.Done():
			return failed
		case at := <-heard:
			w, err := f.dialQUIC(ctx, at)
			if err != nil {
				failed = cmp.Or(failed, err)
				continue
			}
			offer(ctx, w, found)
			return nil
		}
	}
}

// dialQUIC opens a way by QUIC; the builder proves itself in the handshake.
func (f *search) dialQUIC(ctx context.Context, at netip.AddrPort) (*way, error) {
	cfg, err := f.s.cfg.Identity.ClientTLS(f.s.cfg.Peer)
	if err != nil {
		return nil, err
	}
	cfg.NextProtos = []string{http3.NextProtoH3}
	dctx, cancel := context.WithTimeout(ctx, quicTimeout)
	defer cancel()
	conn, err := f.e.Dial(dctx, at, cfg)
	if err != nil {
		return nil, err
	}
	return quicWay(conn, Path{Kind: PathDirectQUIC, Via: at.String()}), nil
}

func quicWay(conn *quic.Conn, path Path) *way {
	tr := &http3.Transport{DisableCompression: true}
	cc := tr.NewClientConn(conn)
	w := &way{
		control: cc, bulk: uploader{cc}, path: func() Path { return path }, direct: true, done: make(chan struct{}),
		close: func() { _ = conn.CloseWithError(quic.ApplicationErrorCode(http3.ErrCodeNoError), "") },
	}
	w.ready = func() bool { return !w.dead() }
	w.broken = func() bool { return conn.Context().Err() != nil }
	w.moving = func() func() bool {
		before := conn.ConnectionStats().BytesReceived
		return func() bool { return conn.ConnectionStats().BytesReceived > before }
	}
	context.AfterFunc(conn.Context(), func() { close(w.done) })
	return w
}
