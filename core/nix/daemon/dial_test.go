//go:build !js && !wasip1

package daemon

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// helper makes the test's own program serve as the command of CommandDialer.
const helper = "DRV_THRU_TEST_DAEMON"

func TestMain(m *testing.M) {
	switch os.Getenv(helper) {
	case "":
		os.Exit(m.Run())
	case "serve":
		for _, st := range append(greeting(34), validStep) {
			_, _ = io.ReadFull(os.Stdin, make([]byte, len(st.want)))
			_, _ = io.WriteString(os.Stdout, st.reply)
		}
		_, _ = io.Copy(io.Discard, os.Stdin)
	case "fail":
		_, _ = io.WriteString(os.Stderr, strings.Repeat("noise\n", 10_000)+"\x1b[31merror:\x1b[0m no such store\n")
		os.Exit(1)
	}
}

func TestCommandDialer(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	t.Setenv(helper, "serve")
	ctx, cancel := context.WithCancel(t.Context())
	c, err := Dial(ctx, Config{Dial: CommandDialer([]string{self}, os.Environ())})
	if err != nil {
		t.Fatal(err)
	}
	cancel() // of dialling: the connection goes on
	if err := isValid(t.Context(), c); err != nil {
		t.Error(err)
	}
	// Close returns when the command has exited.
	if _ = c.Close(); c.rwc.(*process).wait() != nil && !errors.Is(c.rwc.(*process).wait(), context.Canceled) {
		t.Errorf("the command ended with %v", c.rwc.(*process).wait())
	}

	t.Setenv(helper, "fail")
	_, err = Dial(t.Context(), Config{Dial: CommandDialer([]string{self}, os.Environ())})
	if err == nil || !strings.Contains(err.Error(), "error: no such store") || len(err.Error()) > 2*tailSize {
		t.Errorf("failing command: %.300v", err)
	}
	if _, err := Dial(t.Context(), Config{Dial: CommandDialer([]string{filepath.Join(t.TempDir(), "none")}, nil)}); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("missing command: %v", err)
	}
	if _, err := Dial(t.Context(), Config{Dial: CommandDialer(nil, nil)}); err == nil {
		t.Error("no command: no error")
	}
}

func TestUnixDialer(t *testing.T) {
	sock := filepath.Join(t.TempDir(), "socket")
	l, err := net.Listen("unix", sock)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		defer conn.Close()
		for _, st := range append(greeting(38), validStep) {
			_, _ = io.ReadFull(conn, make([]byte, len(st.want)))
			_, _ = io.WriteString(conn, st.reply)
		}
	}()
	c, err := Dial(t.Context(), Config{Dial: UnixDialer(sock)})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := isValid(t.Context(), c); err != nil {
		t.Error(err)
	}
	if _, err := Dial(t.Context(), Config{Dial: UnixDialer(sock + "-none")}); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("no socket: %v", err)
	}
}

// A daemon closes the socket of a user whom it does not allow before it has read
// anything, so that the client's write fails, or its read.
func TestRefusedUser(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "socket")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	for name, unread := range map[string]func(net.Conn){
		"before it was written to": func(net.Conn) {},
		"with what was written":    func(c net.Conn) { _, _ = c.Read(make([]byte, 1)) },
	} {
		dialed, closed := make(chan struct{}), make(chan struct{})
		go func() {
			defer close(closed)
			c, err := l.Accept()
			if err != nil {
				return
			}
			<-dialed
			unread(c)
			_ = c.Close()
		}()
		dial := func(ctx context.Context) (io.ReadWriteCloser, error) {
			c, err := UnixDialer(socket)(ctx)
			close(dialed)
			if name == "before it was written to" {
				<-closed
			}
			return c, err
		}
		if _, err := Dial(t.Context(), Config{Dial: dial}); !errors.Is(err, ErrRefused) {
			t.Errorf("closed %s: %v", name, err)
		}
	}
}
