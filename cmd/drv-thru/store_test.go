package main

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"maps"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/drv-thru/drv-thru/core/nix"
	"github.com/drv-thru/drv-thru/core/nix/daemon"
)

// fakeNix is a Nix daemon of protocol 1.34 that makes temporary roots and tells what of
// valid is asked for, on every connection until hangUp.
type fakeNix struct {
	valid []nix.Path
	conns []net.Conn
}

func (f *fakeNix) dial(context.Context) (io.ReadWriteCloser, error) {
	c, s := net.Pipe()
	f.conns = append(f.conns, s)
	go f.serve(s)
	return c, nil
}

func (f *fakeNix) hangUp() {
	for _, c := range f.conns {
		_ = c.Close()
	}
}

func (f *fakeNix) serve(c net.Conn) {
	defer c.Close()
	var failed error
	u64 := func() (n uint64) {
		if failed == nil {
			failed = binary.Read(c, binary.LittleEndian, &n)
		}
		return n
	}
	text := func() string {
		n := u64()
		b := make([]byte, (n+7)/8*8)
		if _, err := io.ReadFull(c, b); failed == nil {
			failed = err
		}
		return string(b[:n])
	}
	say := func(all ...any) {
		var out bytes.Buffer
		for _, x := range all {
			if s, ok := x.(string); ok {
				out.Write(binary.LittleEndian.AppendUint64(nil, uint64(len(s))))
				out.WriteString(s + strings.Repeat("\x00", -len(s)&7))
			} else {
				out.Write(binary.LittleEndian.AppendUint64(nil, uint64(x.(int))))
			}
		}
		if _, err := c.Write(out.Bytes()); failed == nil {
			failed = err
		}
	}
	const last = 0x616c7473
	u64()
	u64()
	say(0x6478696f, 1<<8|34)
	u64()
	u64()
	say("2.8.0", last)
	for failed == nil {
		switch u64() {
		case 11:
			text()
			say(last, 1)
		case 31:
			asked := make(map[string]bool)
			for range u64() {
				asked[text()] = true
			}
			u64()
			answer := []any{last, 0}
			for _, p := range f.valid {
				if asked[string(p)] {
					answer = append(answer, string(p))
				}
			}
			answer[1] = len(answer) - 2
			say(answer...)
		default:
			return
		}
	}
}

// What is valid is remembered for a short time, for one who asks, and on the connection
// that holds it.
func TestRecall(t *testing.T) {
	here := nix.Path("/nix/store/00000000000000000000000000000000-here")
	gone := nix.Path("/nix/store/11111111111111111111111111111111-gone")
	for name, c := range map[string]struct {
		then func(ctx context.Context, f *fakeNix, s *localStore)
		want map[nix.Path]bool
	}{
		"at once":     {func(context.Context, *fakeNix, *localStore) {}, map[nix.Path]bool{here: true, gone: false}},
		"the same":    {func(ctx context.Context, _ *fakeNix, s *localStore) { _ = s.reopen(ctx) }, map[nix.Path]bool{here: true, gone: false}},
		"another":     {func(ctx context.Context, f *fakeNix, s *localStore) { f.hangUp(); _ = s.reopen(ctx) }, nil},
		"once more":   {func(_ context.Context, _ *fakeNix, s *localStore) { s.recall() }, nil},
		"a while ago": {func(context.Context, *fakeNix, *localStore) { time.Sleep(knownFor + time.Second) }, nil},
	} {
		synctest.Test(t, func(t *testing.T) {
			f := &fakeNix{valid: []nix.Path{here}}
			defer f.hangUp()
			cfg := daemon.Config{Dial: f.dial}
			conn, err := daemon.Dial(t.Context(), cfg)
			if err != nil {
				t.Fatal(err)
			}
			s := &localStore{conn: conn, cfg: cfg}
			defer s.Close()
			if told, err := s.validity(t.Context(), []nix.Path{here, gone}); err != nil || len(told) != 2 || !told[here] || told[gone] {
				t.Errorf("%s: told %v, %v", name, told, err)
			}
			c.then(t.Context(), f, s)
			if got := s.recall(); !maps.Equal(got, c.want) {
				t.Errorf("%s: recalled %v, want %v", name, got, c.want)
			}
			if s.conn.Err() != nil {
				t.Errorf("%s: %v", name, s.conn.Err())
			}
		})
	}
}

// Where no daemon listens, one is run for the connection. A fixed-output derivation can
// have variables of the daemon's environment for its own (impureEnvVars).
func TestEnvironmentOfTheDaemonsCommand(t *testing.T) {
	dir := t.TempDir()
	seen := filepath.Join(dir, "env")
	script := fmt.Sprintf("#!/bin/sh\nenv > %s\nexit 1\n", seen)
	if err := os.WriteFile(filepath.Join(dir, "nix-daemon"), []byte(script), 0o700); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
	for name, value := range map[string]string{
		"NIX_REMOTE": "local", "HOME": dir, "https_proxy": "http://proxy.example",
		"DRV_THRU_TICKET": "a-ticket", "NIX_CONFIG": "access-tokens = a-token", "A_SECRET": "a-secret",
	} {
		t.Setenv(name, value)
	}
	a := &app{environ: os.Environ()}
	for name, c := range map[string]struct {
		dial    daemon.Dialer
		has, no []string
	}{
		"client": {a.storeDialer(), []string{"HOME=", "A_SECRET=", "NIX_CONFIG=", "https_proxy="}, []string{"DRV_THRU_"}},
		"serve":  {a.builderDialer(), []string{"HOME=", "NIX_REMOTE=", "https_proxy="}, []string{"DRV_THRU_", "A_SECRET=", "NIX_CONFIG="}},
	} {
		if _, err := daemon.Dial(t.Context(), daemon.Config{Dial: c.dial}); err == nil {
			t.Fatalf("%s: the command answered", name)
		}
		text, err := os.ReadFile(seen)
		if err != nil {
			t.Fatal(err)
		}
		for _, want := range c.has {
			if !strings.Contains("\n"+string(text), "\n"+want) {
				t.Errorf("%s: no %s in\n%s", name, want, text)
			}
		}
		for _, secret := range c.no {
			if strings.Contains("\n"+string(text), "\n"+secret) {
				t.Errorf("%s: %s in\n%s", name, secret, text)
			}
		}
	}
}

// One that is run because none listens may say anything, or nothing, of why it cannot.
func TestNoDaemonListens(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "nix-daemon"), []byte("#!/bin/sh\nexit 1\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
	socket, other := filepath.Join(dir, "socket"), filepath.Join(dir, "other")
	for remote, want := range map[string]string{
		"": socket + ":", "daemon": socket + ":", "unix://?max-connections=1": socket + ":",
		"unix://" + other: other + ":", "unix://" + other + "?max-connections=1": other + ":",
		"local": "NIX_REMOTE is local",
	} {
		a := &app{environ: append(os.Environ(), "NIX_DAEMON_SOCKET_PATH="+socket, "NIX_REMOTE="+remote)}
		if _, err := a.dialStore(t.Context()); !strings.Contains(hintOf(err), want) {
			t.Errorf("NIX_REMOTE=%s: %v, hint %q", remote, err, hintOf(err))
		}
	}
}
