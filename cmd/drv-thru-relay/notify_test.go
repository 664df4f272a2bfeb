package main

import (
	"context"
	"io"
	"net"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// A service manager hears when the relay is ready, reads its files again, and stops.
func TestNotifies(t *testing.T) {
	addr := &net.UnixAddr{Name: filepath.Join(t.TempDir(), "notify"), Net: "unixgram"}
	manager, err := net.ListenUnixgram("unixgram", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer manager.Close()
	t.Setenv("NOTIFY_SOCKET", addr.Name)
	hears := func(want string) {
		t.Helper()
		buf := make([]byte, 4096)
		if err := manager.SetReadDeadline(time.Now().Add(time.Minute)); err != nil {
			t.Fatal(err)
		}
		n, err := manager.Read(buf)
		if got, _, _ := strings.Cut(string(buf[:n]), "\n"); err != nil || got != want {
			t.Fatalf("the service manager hears %q, %v, want %q", got, err, want)
		}
	}

	var f flags
	if err := f.set().Parse([]string{"--listen", "127.0.0.1:0", "--stun-listen", "off", "--drain-timeout", "10m"}); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	ended := make(chan error, 1)
	go func() { ended <- serve(ctx, f, io.Discard, io.Discard) }()
	hears("READY=1")
	if err := syscall.Kill(syscall.Getpid(), syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	hears("RELOADING=1")
	hears("READY=1")
	cancel()
	hears("STOPPING=1")
	hears("EXTEND_TIMEOUT_USEC=610000000")
	if err := <-ended; err != nil {
		t.Error(err)
	}
}
