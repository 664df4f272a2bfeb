//go:build !js && !wasip1

package daemon

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strings"
	"sync"
	"time"
)

// DefaultSocket is where a multi-user Nix listens.
const DefaultSocket = "/nix/var/nix/daemon-socket/socket"

// UnixDialer connects to a daemon's socket, DefaultSocket if path is empty. It
// looks at no environment variable.
func UnixDialer(path string) Dialer {
	if path == "" {
		path = DefaultSocket
	}
	return func(ctx context.Context) (io.ReadWriteCloser, error) {
		var d net.Dialer
		return d.DialContext(ctx, "unix", path)
	}
}

// stopDelay is how long a command may take to exit after its standard input was
// closed, before it is killed: time enough for a daemon to kill its builders.
const stopDelay = 10 * time.Second

// CommandDialer runs a command that speaks the protocol on its standard input
// and output: {"nix-daemon", "--stdio"} for an installation without a daemon.
// env is all of its environment, which what it builds may get to see.
// Closing the connection closes its input, drops its further output and waits
// for it to exit. What it wrote last to its standard error becomes part of the
// connection's error.
func CommandDialer(argv, env []string) Dialer {
	return func(ctx context.Context) (io.ReadWriteCloser, error) {
		if len(argv) == 0 {
			return nil, errors.New("no command")
		}
		// The command outlives the context of dialling.
		run, cancel := context.WithCancel(context.WithoutCancel(ctx))
		p := &process{cancel: cancel}
		cmd := exec.CommandContext(run, argv[0], argv[1:]...) //nolint:gosec // the caller's own command
		cmd.Env = append([]string{}, env...)                  // nil would be the process's own
		cmd.Stderr = &p.stderr
		cmd.WaitDelay = stopDelay
		var err error
		if p.in, err = cmd.StdinPipe(); err != nil {
			cancel()
			return nil, err
		}
		var out *os.File
		if p.out, out, err = os.Pipe(); err != nil {
			cancel()
			_ = p.in.Close()
			return nil, err
		}
		cmd.Stdout = out
		// Cancelling the context asks politely; after WaitDelay it is killed.
		cmd.Cancel = p.in.Close
		err = cmd.Start()
		_ = out.Close()
		if err != nil {
			cancel()
			_ = p.out.Close()
			return nil, err
		}
		p.wait = sync.OnceValue(cmd.Wait)
		return p, nil
	}
}

// process is the stream of a running command.
type process struct {
	cancel context.CancelFunc
	wait   func() error
	in     io.WriteCloser
	out    *os.File
	stderr tail

	reading sync.Mutex // held while out is read
	closing sync.Once
}

func (p *process) Read(b []byte) (int, error) {
	p.reading.Lock()
	defer p.reading.Unlock()
	n, err := p.out.Read(b)
	if n == 0 && errors.Is(err, io.EOF) {
		p.cancel()
		_ = p.wait() // so that all it said is here
		if said := p.stderr.String(); said != "" {
			err = fmt.Errorf("%w; it said: %s", io.ErrUnexpectedEOF, said)
		}
	}
	return n, err
}

func (p *process) Write(b []byte) (int, error) { return p.in.Write(b) }

// Close lets the command end by itself. Its output is read until then, so that
// it never fails to write while it stops its builders: Nix 2.8.0 with its output
// closed under it left one running once, in a few dozen tries.
func (p *process) Close() error {
	p.closing.Do(func() {
		p.cancel()
		_ = p.out.SetReadDeadline(time.Unix(1, 0)) // ends a Read in progress
		p.reading.Lock()
		defer p.reading.Unlock()
		_ = p.out.SetReadDeadline(time.Time{})
		drained := make(chan struct{})
		go func() {
			defer close(drained)
			_, _ = io.Copy(io.Discard, p.out)
		}()
		_ = p.wait()
		// A builder that survived may hold the output open.
		_ = p.out.SetReadDeadline(time.Unix(1, 0))
		<-drained
		_ = p.out.Close()
	})
	return nil
}

// tail keeps the end of what is written to it.
type tail struct {
	mu  sync.Mutex
	buf []byte
}

const tailSize = 4 << 10

func (t *tail) Write(b []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.buf = append(t.buf, b[max(0, len(b)-tailSize):]...)
	t.buf = t.buf[max(0, len(t.buf)-tailSize):]
	return len(b), nil
}

func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return strings.TrimSpace(StripANSI(string(t.buf)))
}
