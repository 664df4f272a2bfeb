package nixstore

import (
	"context"
	"encoding/binary"
	"io"
	"net"
	"sync"
	"testing"
	"testing/synctest"

	"github.com/drv-thru/drv-thru/core/nix"
	"github.com/drv-thru/drv-thru/core/nix/daemon"
)

// Numbers of the worker protocol, 1.34.
const (
	magicDaemon     = 0x6478696f
	last            = 0x616c7473
	queryValidPaths = 31
	queryMissing    = 40
)

// stuckDaemon answers that no path is valid, and never what is missing.
type stuckDaemon struct {
	asked chan struct{} // what is missing
}

func (s stuckDaemon) dial(context.Context) (io.ReadWriteCloser, error) {
	ours, its := net.Pipe()
	go s.serve(its)
	return ours, nil
}

func (s stuckDaemon) serve(conn net.Conn) {
	defer conn.Close()
	read := func(n int) []byte {
		b := make([]byte, 8*n)
		if _, err := io.ReadFull(conn, b); err != nil {
			return nil
		}
		return b
	}
	write := func(words ...uint64) {
		var b []byte
		for _, w := range words {
			b = binary.LittleEndian.AppendUint64(b, w)
		}
		_, _ = conn.Write(b) // the test is over if this fails
	}
	read(2)
	write(magicDaemon, 1<<8|34)
	read(2)
	write(1, '2', last) // its version
	for {
		op := read(1)
		switch {
		case op == nil:
			return
		case op[0] == queryValidPaths:
			read(2) // no paths, do not substitute
			write(last, 0)
		case op[0] == queryMissing:
			read(1)
			s.asked <- struct{}{}
		default:
			write(last, 1)
		}
	}
}

// The daemon asks the substituters what is missing, for minutes if there is much:
// no other question waits for that.
func TestMissingKeepsNobodyWaiting(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := stuckDaemon{make(chan struct{})}
		s := New(Config{Dial: daemon.Config{Dial: d.dial}})
		ctx, cancel := context.WithCancel(t.Context())
		var stuck sync.WaitGroup
		for range askers {
			stuck.Go(func() {
				if _, err := s.Missing(ctx, nil); err == nil {
					t.Error("an answer")
				}
			})
			<-d.asked
		}
		if _, err := s.ValidPaths(t.Context(), []nix.Path{}, false); err != nil {
			t.Error(err)
		}
		cancel()
		stuck.Wait()
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
}
