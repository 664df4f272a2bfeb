package daemon

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"sync/atomic"
	"syscall"
)

// Dialer opens a byte stream to a daemon. Closing the stream must make blocked
// reads and writes on it return.
type Dialer func(ctx context.Context) (io.ReadWriteCloser, error)

// Config says how to connect.
type Config struct {
	// Dial opens the stream: UnixDialer, CommandDialer or a test's pipe.
	Dial Dialer
	// Options, if not nil, are set on every new connection.
	Options *Options
}

// Conn is a connection to a daemon. Its operations may be called from any
// goroutine, one at a time (ErrBusy otherwise); Close may be called at any time.
type Conn struct {
	rwc  io.ReadWriteCloser
	dec  *decoder
	enc  *encoder
	info Info

	busy sync.Mutex // held by the operation in progress
	sink Sink       // guarded by busy
	// private says that the daemon's side holds state of one user (options,
	// temporary roots), so that a Pool must not pass the connection on.
	private atomic.Bool
	// erred says that the daemon reported an error. After some (bad arguments)
	// it hangs up, so a Pool does not pass the connection on either.
	erred atomic.Bool

	mu   sync.Mutex
	dead error // why the connection is closed; the first reason stays
}

// Dial connects and shakes hands.
func Dial(ctx context.Context, cfg Config) (*Conn, error) {
	rwc, err := cfg.Dial(ctx)
	if err != nil {
		return nil, fmt.Errorf("connect to the Nix daemon: %w", err)
	}
	c := &Conn{rwc: rwc, dec: newDecoder(rwc), enc: newEncoder(rwc), sink: Discard{}}
	o, err := c.begin(ctx)
	if err != nil {
		c.kill(err)
		return nil, err
	}
	// An error here is fatal even where the daemon sent it in due form.
	if err = o.end(c.handshake()); err != nil {
		c.kill(err)
		return nil, fmt.Errorf("connect to the Nix daemon: %w", err)
	}
	if cfg.Options != nil {
		if err := c.setOptions(ctx, *cfg.Options); err != nil {
			c.kill(err)
			return nil, err
		}
	}
	return c, nil
}

// handshake follows Nix libstore/worker-protocol-connection.cc, handshake and
// postHandshake.
func (c *Conn) handshake() error {
	c.enc.u64(magicClient)
	c.enc.u64(MaxVersion.wire())
	if err := c.enc.flush(); err != nil {
		return refused(err)
	}
	magic := c.dec.u64()
	if err := c.dec.err; err != nil {
		return refused(err)
	}
	if magic != magicDaemon {
		return fmt.Errorf("%w: not a Nix daemon, it begins with %#x", ErrProtocol, magic)
	}
	n := c.dec.u64()
	v := Version{uint8(n >> 8), uint8(n)}
	if c.dec.err != nil {
		return c.dec.err
	}
	if n > 0xffff || v.Major != MinVersion.Major || !v.AtLeast(MinVersion) {
		return &VersionError{v}
	}
	if v.AtLeast(MaxVersion) {
		v = MaxVersion
	}
	c.info.Protocol = v
	if v.AtLeast(versionFeatures) {
		c.enc.u64(0) // no features
		if err := c.enc.flush(); err != nil {
			return err
		}
		c.dec.strings(maxFeatures, maxName, "feature")
	}
	c.enc.u64(0) // no CPU affinity
	c.enc.u64(0) // no reserved space
	if err := c.enc.flush(); err != nil {
		return err
	}
	c.info.NixVersion = c.dec.string(maxName, "version")
	if v.AtLeast(versionTrust) {
		if t := c.dec.u64(); t <= uint64(NotTrusted) {
			c.info.Trust = Trust(t)
		} else {
			c.dec.malformed("trust flag %d", t)
		}
	}
	return c.dec.stderr(c.sink)
}

// ErrRefused is wrapped by the error of a daemon that hangs up before it has greeted:
// it does not allow this user (allowed-users in nix.conf), and does not say so.
var ErrRefused = errors.New("it hung up without a greeting")

// refused tells a daemon that hangs up by what became of the socket: as it has not read
// what was sent, the next write or read fails.
func refused(err error) error {
	if errors.Is(err, errHungUp) || errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE) {
		return fmt.Errorf("%w: %w", ErrRefused, err)
	}
	return err
}

// Info returns what the daemon said of itself.
func (c *Conn) Info() Info { return c.info }

// SetSink directs what the daemon says during the following operations. A nil
// Sink discards it, which is the default. It fails while an operation runs.
func (c *Conn) SetSink(s Sink) error {
	if !c.busy.TryLock() {
		return ErrBusy
	}
	defer c.busy.Unlock()
	if s == nil {
		s = Discard{}
	}
	c.sink = s
	return nil
}

// Err returns why the connection is dead, nil while it is not known to be.
func (c *Conn) Err() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.dead
}

// Close closes the connection. An operation in progress fails with ErrClosed,
// and the daemon cancels it.
func (c *Conn) Close() error {
	c.kill(ErrClosed)
	return nil
}

// kill closes the connection for a reason and returns the first reason.
func (c *Conn) kill(why error) error {
	c.mu.Lock()
	first := c.dead == nil
	if first {
		c.dead = why
	}
	why = c.dead
	c.mu.Unlock()
	if first {
		_ = c.rwc.Close() // may wait for a command to exit
	}
	return why
}

// operation is the right to use the connection, from begin to end.
type operation struct {
	c    *Conn
	ctx  context.Context //nolint:containedctx // lives for one call
	stop func() bool
}

func (c *Conn) begin(ctx context.Context) (*operation, error) {
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	if !c.busy.TryLock() {
		return nil, ErrBusy
	}
	if err := c.Err(); err != nil {
		c.busy.Unlock()
		return nil, err
	}
	return &operation{c, ctx, context.AfterFunc(ctx, func() { c.kill(context.Cause(ctx)) })}, nil
}

// end gives the connection back. Every error but the daemon's own leaves the
// stream in an unknown place, hence closes it.
func (o *operation) end(err error) error {
	defer o.c.busy.Unlock()
	if !o.stop() {
		return o.c.kill(context.Cause(o.ctx))
	}
	switch {
	case err == nil:
	case isRemote(err):
		o.c.erred.Store(true)
	default:
		var src *sourceError
		if why := o.c.kill(err); !errors.As(err, &src) {
			return why
		}
	}
	return err
}

func isRemote(err error) bool {
	var e *Error
	return errors.As(err, &e)
}

// call runs an operation whose arguments the daemon reads before it works.
// recv, which may be nil, reads what follows the log channel.
func (c *Conn) call(ctx context.Context, send func(e *encoder), recv func(d *decoder)) error {
	o, err := c.begin(ctx)
	if err != nil {
		return err
	}
	return o.end(c.exchange(send, recv))
}

func (c *Conn) exchange(send func(e *encoder), recv func(d *decoder)) error {
	send(c.enc)
	if err := c.enc.flush(); err != nil {
		return c.lastWords(err)
	}
	if err := c.dec.stderr(c.sink); err != nil {
		return err
	}
	if recv != nil {
		recv(c.dec)
	}
	return c.dec.err
}

// lastWords replaces the error of a failed write by what the daemon said before
// it hung up, if anything.
func (c *Conn) lastWords(err error) error {
	said := c.dec.stderr(c.sink)
	c.kill(err)
	if isRemote(said) {
		return said
	}
	return err
}

// ping makes a round trip without effect.
func (c *Conn) ping(ctx context.Context) error {
	return c.call(ctx, func(e *encoder) { e.u64(opSyncWithGC) }, func(d *decoder) { d.u64() })
}
