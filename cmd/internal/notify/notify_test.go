//go:build linux

package notify

import (
	"context"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"testing"
	"time"
)

// manager is a service manager's socket.
func manager(t *testing.T) *net.UnixConn {
	t.Helper()
	addr := &net.UnixAddr{Name: filepath.Join(t.TempDir(), "notify"), Net: "unixgram"}
	c, err := net.ListenUnixgram("unixgram", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	t.Setenv("NOTIFY_SOCKET", addr.Name)
	return c
}

func heard(t *testing.T, c *net.UnixConn) string {
	t.Helper()
	buf := make([]byte, 4096)
	if err := c.SetReadDeadline(time.Now().Add(30 * time.Second)); err != nil {
		t.Fatal(err)
	}
	n, err := c.Read(buf)
	if err != nil {
		t.Fatal(err)
	}
	return string(buf[:n])
}

func TestStates(t *testing.T) {
	c := manager(t)
	for _, tt := range []struct {
		tell func()
		want string
	}{
		{Ready, `^READY=1$`},
		{Reloading, `^RELOADING=1\nMONOTONIC_USEC=[0-9]+\n?$`},
		{Stopping, `^STOPPING=1$`},
		{func() { Status("looking for a relay") }, `^STATUS=looking for a relay$`},
	} {
		tt.tell()
		if got := heard(t, c); !regexp.MustCompile(tt.want).MatchString(got) {
			t.Errorf("the manager hears %q, want %s", got, tt.want)
		}
	}
}

// The watchdog is fed after each look, and not while a look hangs.
func TestWatchdog(t *testing.T) {
	c := manager(t)
	t.Setenv("WATCHDOG_USEC", "30000")
	t.Setenv("WATCHDOG_PID", strconv.Itoa(os.Getpid()))
	ctx, cancel := context.WithCancel(t.Context())
	looks, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		Watchdog(ctx, func() { <-looks })
	}()
	for range 3 {
		looks <- struct{}{}
		if got := heard(t, c); got != "WATCHDOG=1" {
			t.Fatalf("the manager hears %q", got)
		}
	}
	cancel()
	close(looks)
	<-done
}

// Without a manager nothing happens.
func TestNobodyListens(t *testing.T) {
	t.Setenv("NOTIFY_SOCKET", "")
	t.Setenv("WATCHDOG_USEC", "")
	Ready()
	Watchdog(t.Context(), func() { t.Error("somebody is looked for") })
}
