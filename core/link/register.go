package link

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"time"

	"github.com/coder/websocket"

	"github.com/drv-thru/drv-thru/core/link/wsconn"
	"github.com/drv-thru/drv-thru/core/wire"
)

const (
	// Reconnects wait from minBackoff to maxBackoff, doubled each time.
	minBackoff = 100 * time.Millisecond
	maxBackoff = 10 * time.Second
	// tellEvery is how often it is said of a relay that it is still not there.
	tellEvery = time.Hour
	// pongTimeout is how long an answer to the relay may take to write.
	pongTimeout = 5 * time.Second
)

// registrar keeps a builder registered at one relay.
type registrar struct {
	l      *Listener
	url    string
	ctx    context.Context
	cancel context.CancelFunc
	// Under Listener.mu:
	status RelayStatus
	ws     *wsconn.Socket // while it is registered
	coming int            // circuits between "incoming" and Accept
}

func (r *registrar) run() {
	defer r.cancel()
	backoff := minBackoff
	var told time.Time
	var why wire.Code
	for {
		lasted, err := r.serve()
		if r.ctx.Err() != nil {
			r.set(func(s *RelayStatus) { s.Connected, s.Err = false, ErrClosed })
			return
		}
		if lasted >= maxBackoff {
			// One that ended sooner is as good as none.
			backoff = minBackoff
		}
		if wire.CodeOf(err) == wire.CodeRelayReplaced {
			// Two processes with one key would push each other out for ever.
			backoff = maxBackoff
		}
		r.set(func(s *RelayStatus) {
			if s.Connected {
				s.Connected, s.Since, s.Attempts = false, time.Now(), 0
			}
			s.Err = err
			s.Attempts++
			r.ws = nil
		})
		wait := time.Duration(float64(backoff) * (0.5 + r.l.cfg.Jitter()/2))
		level := slog.LevelDebug
		if code := wire.CodeOf(err); lasted > 0 || code != why || time.Since(told) >= tellEvery {
			level, why, told = slog.LevelWarn, code, time.Now()
		}
		r.l.log.Log(r.ctx, level, "not registered at relay", slog.String("relay", r.url), slog.Any("error", err), slog.Duration("retry_in", wait))
		timer := time.NewTimer(wait)
		select {
		case <-timer.C:
		case <-r.ctx.Done():
			timer.Stop()
		}
		backoff = min(2*backoff, maxBackoff)
	}
}

func (r *registrar) set(change func(*RelayStatus)) {
	r.l.mu.Lock()
	defer r.l.mu.Unlock()
	change(&r.status)
	r.l.changedLocked()
}

// serve registers and stays until the relay is lost. It returns how long that was.
func (r *registrar) serve() (lasted time.Duration, err error) {
	ctx, cancel := context.WithTimeoutCause(r.ctx, wire.RelayHandshakeTimeout+pongTimeout, errors.New("no answer in time"))
	defer cancel()
	token := ""
	if r.l.cfg.Token != nil {
		token = r.l.cfg.Token(r.url)
	}
	ws, says, err := r.l.cfg.Network.open(ctx, r.url, wire.RouteRelayListen, token)
	if err != nil {
		return 0, err
	}
	defer ws.CloseNow()
	ws.SetReadLimit(wire.RelayMaxControl)
	if err := r.register(ctx, ws); err != nil {
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		return 0, &RelayError{r.url, fmt.Errorf("register: %w", err)}
	}
	cancel()
	since := time.Now()
	r.set(func(s *RelayStatus) {
		r.ws = ws
		*s = RelayStatus{URL: r.url, Connected: true, STUN: says.stun, Since: since}
	})
	r.l.log.Info("registered at relay", slog.String("relay", r.url))
	leave := context.AfterFunc(r.ctx, func() { _ = ws.Close(websocket.StatusNormalClosure, "") })
	defer leave()
	err = r.follow(ws)
	return time.Since(since), &RelayError{r.url, err}
}

// register proves the builder's identity.
func (r *registrar) register(ctx context.Context, ws *wsconn.Socket) error {
	m, err := receive(ctx, ws, wire.RelayChallenge)
	if err != nil {
		return err
	}
	u, err := url.Parse(r.url)
	if err != nil {
		return err
	}
	id, host := r.l.cfg.Identity.ID(), wire.RelayHost(u.Host)
	err = send(ctx, ws, wire.RelayMessage{
		Type:      wire.RelayRegister,
		Endpoint:  id,
		Host:      host,
		Signature: r.l.cfg.Identity.Sign(wire.RelayProof(host, m.Nonce, id)),
	})
	if err != nil {
		return err
	}
	_, err = receive(ctx, ws, wire.RelayRegistered)
	return err
}

// follow answers the relay until it is lost or silent.
func (r *registrar) follow(ws *wsconn.Socket) error {
	for {
		ctx, cancel := context.WithTimeoutCause(context.Background(), wire.RelayDeadAfter, errSilent)
		m, err := receive(ctx, ws, "")
		if err != nil && ctx.Err() != nil {
			err = errSilent
		}
		cancel()
		if err != nil {
			return err
		}
		reply := wire.RelayMessage{}
		switch m.Type {
		case wire.RelayPing:
			reply.Type = wire.RelayPong
		case wire.RelayIncoming:
			if r.l.room(r) {
				go r.l.accept(r, m.Circuit)
				continue
			}
			reply = wire.RelayMessage{Type: wire.RelayRefuse, Circuit: m.Circuit, Code: wire.CodeRelayRefused}
		default:
			continue
		}
		ctx, cancel = context.WithTimeout(context.Background(), pongTimeout)
		err = send(ctx, ws, reply)
		cancel()
		if err != nil {
			return err
		}
	}
}

var errSilent = fmt.Errorf("nothing heard for %s", wire.RelayDeadAfter)

// receive reads the next message, of the given type if it is not "".
func receive(ctx context.Context, ws *wsconn.Socket, want wire.RelayMessageType) (wire.RelayMessage, error) {
	for {
		typ, data, err := ws.Read(ctx)
		if err != nil {
			return wire.RelayMessage{}, relayCause(wsconn.CloseCause(err))
		}
		if typ != websocket.MessageText {
			return wire.RelayMessage{}, fmt.Errorf("%w: it is binary", wire.ErrRelayMessage)
		}
		m, err := wire.ParseRelayMessage(data)
		if err != nil {
			return m, err
		}
		if code, ok := wire.RelayCode(string(m.Code)); ok && m.Type == wire.RelayRefused {
			return m, code.Err()
		}
		if want == "" || m.Type == want {
			return m, nil
		}
	}
}

func send(ctx context.Context, ws *wsconn.Socket, m wire.RelayMessage) error {
	return ws.Write(ctx, websocket.MessageText, m.Encode())
}
