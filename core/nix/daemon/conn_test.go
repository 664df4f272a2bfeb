package daemon

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"

	"github.com/drv-thru/drv-thru/core/nix"
)

func TestHandshake(t *testing.T) {
	for minor, want := range map[uint64]Info{
		34: {"2.99", Version{1, 34}, TrustUnknown},
		35: {"2.99", Version{1, 35}, NotTrusted},
		37: {"2.99", Version{1, 37}, NotTrusted},
		38: {"2.99", Version{1, 38}, NotTrusted},
		99: {"2.99", Version{1, 38}, NotTrusted},
	} {
		if got := dialFake(t, minor).Info(); got != want {
			t.Errorf("1.%d: got %+v, want %+v", minor, got, want)
		}
	}
}

func TestHandshakeRefusals(t *testing.T) {
	hello := u(0x6e697863) + u(1<<8|38)
	dial := func(steps ...step) error {
		_, err := Dial(t.Context(), Config{Dial: fake(t, steps...)})
		return err
	}
	var ve *VersionError
	if err := dial(step{hello, u(0x6478696f) + u(1<<8|33)}); !errors.As(err, &ve) || ve.Daemon != (Version{1, 33}) {
		t.Errorf("old: %v", err)
	}
	if err := dial(step{hello, u(0x6478696f) + u(2<<8|40)}); !errors.As(err, &ve) || ve.Daemon.Major != 2 {
		t.Errorf("other major: %v", err)
	}
	if err := dial(step{hello, u(0x6478696f) + u(1<<40|1<<8|38)}); !errors.As(err, &ve) {
		t.Errorf("absurd: %v", err)
	}
	if err := dial(step{hello, "error: y"}); !errors.Is(err, ErrProtocol) {
		t.Errorf("no daemon: %v", err)
	}
	// The daemon reports what keeps it from working at the end of the handshake.
	steps := greeting(34)
	steps[1].reply = s("2.8.0") + errorMsg("\x1b[31mdisk full\x1b[0m")
	var e *Error
	if err := dial(steps...); !errors.As(err, &e) || e.Error() != "disk full" {
		t.Errorf("startup error: %v", err)
	}
	refuse := func(context.Context) (io.ReadWriteCloser, error) {
		client, server := net.Pipe()
		go func() {
			_, _ = io.ReadFull(server, make([]byte, 16))
			_ = server.Close()
		}()
		return client, nil
	}
	if _, err := Dial(t.Context(), Config{Dial: refuse}); !errors.Is(err, io.ErrUnexpectedEOF) || !errors.Is(err, ErrRefused) {
		t.Errorf("refused user: %v", err)
	}
}

func TestDaemonErrorLeavesConnUsable(t *testing.T) {
	c := dialFake(t, 38,
		step{askValid, errorMsg("\x1b[35;1mno\x1b[0m substituter", "while this", "while that")}, validStep)
	err := isValid(t.Context(), c)
	var e *Error
	if !errors.As(err, &e) || e.Error() != "no substituter" || len(e.Traces) != 2 {
		t.Fatalf("got %#v", err)
	}
	if err := isValid(t.Context(), c); err != nil {
		t.Errorf("afterwards: %v", err)
	}
}

func TestPipelineStopsAtError(t *testing.T) {
	// Three operations under way, the first fails; the connection stays in step.
	ask := u(11) + s(pathA)
	c := dialFake(t, 34,
		step{ask + ask + ask, errorMsg("no") + last + u(1) + last + u(1)}, validStep)
	var e *Error
	if err := c.AddTempRoots(t.Context(), []nix.Path{pathA, pathA, pathA}); !errors.As(err, &e) {
		t.Fatalf("got %v", err)
	}
	if err := isValid(t.Context(), c); err != nil {
		t.Errorf("afterwards: %v", err)
	}
}

// TestPipelineLarge has a daemon that answers each question before it reads the
// next one, over a pipe without any buffer.
func TestPipelineLarge(t *testing.T) {
	const n = 20_000
	steps := make([]step, n)
	paths := make([]nix.Path, n)
	for i := range n {
		paths[i] = nix.Path(fmt.Sprintf("/nix/store/00000000000000000000000000000000-%d", i))
		steps[i] = step{u(26) + s(string(paths[i])), last + u(0)}
		if i%3 == 0 {
			steps[i].reply = last + u(1) + unkeyed()
		}
	}
	infos, err := dialFake(t, 34, steps...).QueryPathInfos(t.Context(), paths)
	if err != nil {
		t.Fatal(err)
	}
	for i, info := range infos {
		if (info != nil) != (i%3 == 0) || info != nil && info.Path != paths[i] {
			t.Fatalf("path %d: %+v", i, info)
		}
	}
}

func TestCancelClosesConnection(t *testing.T) {
	c := dialFake(t, 34, step{u(46) + list(s(pathDrv+"!out")) + u(0), logLine(1, "started")})
	ctx, cancel := context.WithCancelCause(t.Context())
	why := errors.New("user pressed Ctrl-C")
	if err := c.SetSink(lineSink{line: func() { cancel(why) }}); err != nil {
		t.Fatal(err)
	}
	_, err := c.BuildPathsWithResults(ctx, []DerivedPath{{pathDrv, []string{"out"}}}, BuildNormal)
	if !errors.Is(err, why) || !errors.Is(c.Err(), why) {
		t.Errorf("got %v, connection %v", err, c.Err())
	}
	if err := isValid(t.Context(), c); !errors.Is(err, why) {
		t.Errorf("afterwards: %v", err)
	}
	// fake's end checks that the daemon saw the hang-up.
}

// lineSink calls a function at each line of a log.
type lineSink struct {
	Discard
	line func()
}

func (s lineSink) LogLine(uint64, ResultType, []byte, bool) { s.line() }

func TestCloseDuringOperation(t *testing.T) {
	c := dialFake(t, 34, step{askValid, logLine(1, "x")})
	_ = c.SetSink(lineSink{line: func() { _ = c.Close() }})
	if err := isValid(t.Context(), c); !errors.Is(err, ErrClosed) {
		t.Errorf("got %v", err)
	}
}

func TestOneOperationAtATime(t *testing.T) {
	c := dialFake(t, 34, step{askValid, logLine(1, "x") + validStep.reply})
	called := false
	_ = c.SetSink(lineSink{line: func() {
		called = true
		if err := isValid(t.Context(), c); !errors.Is(err, ErrBusy) {
			t.Errorf("another operation: %v", err)
		}
		if err := c.SetSink(nil); !errors.Is(err, ErrBusy) {
			t.Errorf("SetSink: %v", err)
		}
	}})
	if err := isValid(t.Context(), c); err != nil || !called {
		t.Errorf("got %v, the sink was called: %t", err, called)
	}
}

// TestSourceErrors checks that a NAR which is not what was announced never
// reaches the daemon whole, and what becomes of the connection.
func TestSourceErrors(t *testing.T) {
	veto := errors.New("hash differs")
	for name, tt := range map[string]struct {
		nar  io.Reader
		want error
		text string
	}{
		"short":  {strings.NewReader("1234567"), io.ErrUnexpectedEOF, "1 bytes early"},
		"long":   {strings.NewReader("123456789"), nil, "longer than 8"},
		"vetoed": {io.MultiReader(strings.NewReader("12345678"), failing{veto}), veto, "hash differs"},
		"broken": {failing{veto}, veto, pathA},
	} {
		t.Run(name, func(t *testing.T) {
			var got bytes.Buffer
			c := dialDrain(t, 34, &got)
			info := infoA("12345678")
			err := addOne(t.Context(), c, info, tt.nar)
			if err == nil || tt.want != nil && !errors.Is(err, tt.want) || !strings.Contains(err.Error(), tt.text) {
				t.Errorf("got %v", err)
			}
			if c.Err() == nil {
				t.Error("the connection is still in use")
			}
			<-c.rwc.(*drained).done
			if strings.Contains(got.String(), "12345678") {
				t.Error("the daemon got the whole NAR")
			}
		})
	}
}

func TestSourceEndsEarly(t *testing.T) {
	for _, minor := range []uint64{34, 38} {
		c := dialDrain(t, minor, io.Discard)
		err := c.AddMultipleToStore(t.Context(), 2, func() (nix.PathInfo, io.Reader, error) {
			return nix.PathInfo{}, nil, io.EOF
		})
		if !errors.Is(err, io.ErrUnexpectedEOF) || !strings.Contains(err.Error(), "0 paths of 2") {
			t.Errorf("1.%d: got %v", minor, err)
		}
	}
}

type failing struct{ err error }

func (f failing) Read([]byte) (int, error) { return 0, f.err }

type drained struct {
	net.Conn
	done chan struct{}
}

// dialDrain connects to a daemon that reads for ever and answers nothing.
func dialDrain(t *testing.T, minor uint64, to io.Writer) *Conn {
	t.Helper()
	c, err := Dial(t.Context(), Config{Dial: func(context.Context) (io.ReadWriteCloser, error) {
		client, server := net.Pipe()
		d := &drained{client, make(chan struct{})}
		go func() {
			defer close(d.done)
			for _, st := range greeting(minor) {
				_, _ = io.ReadFull(server, make([]byte, len(st.want)))
				_, _ = io.WriteString(server, st.reply)
			}
			_, _ = io.Copy(to, server)
		}()
		return d, nil
	}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}
