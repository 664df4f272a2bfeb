package daemon

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"

	"github.com/drv-thru/drv-thru/core/nix"
)

// The protocol's primitives again, written apart from the code under test.

func u(n uint64) string { return string(binary.LittleEndian.AppendUint64(nil, n)) }

func s(text string) string {
	return u(uint64(len(text))) + text + strings.Repeat("\x00", (8-len(text)%8)%8)
}

func list(elems ...string) string { return u(uint64(len(elems))) + strings.Join(elems, "") }

const (
	partA   = "00000000000000000000000000000000"
	pathA   = "/nix/store/" + partA + "-a"
	pathB   = "/nix/store/11111111111111111111111111111111-b"
	pathDrv = "/nix/store/22222222222222222222222222222222-c.drv"
	zeroHex = "0000000000000000000000000000000000000000000000000000000000000000"
	someHex = "0000000000000000000000000000000000000000000000000000000000000001"
)

var (
	last     = u(0x616c7473)
	errorMsg = func(text string, traces ...string) string {
		m := u(0x63787470) + s("Error") + u(0) + s("Error") + s(text) + u(0) + u(uint64(len(traces)))
		for _, t := range traces {
			m += u(0) + s(t)
		}
		return m
	}
	logLine = func(act uint64, line string) string {
		return u(0x52534c54) + u(act) + u(101) + u(1) + u(1) + s(line)
	}
)

// isValid asks the daemon a short question, validStep.
func isValid(ctx context.Context, c *Conn) error {
	valid, err := c.QueryValidPaths(ctx, []nix.Path{pathA}, false)
	if err == nil && len(valid) != 1 {
		err = fmt.Errorf("valid: %q", valid)
	}
	return err
}

var (
	askValid  = u(31) + list(s(pathA)) + u(0)
	validStep = step{askValid, last + list(s(pathA))}
)

// step is an exchange: the daemon reads want and writes reply.
type step struct{ want, reply string }

// greeting is the handshake with a daemon of this protocol version.
func greeting(minor uint64) []step {
	steps := []step{{u(0x6e697863) + u(1<<8|38), u(0x6478696f) + u(1<<8|minor)}}
	if minor >= 38 {
		steps = append(steps, step{u(0), list(s("some-feature"))})
	}
	reply := s("2.99")
	if minor >= 35 {
		reply += u(2)
	}
	return append(steps, step{u(0) + u(0), reply + last})
}

// fake runs a daemon that follows the steps to the letter and then waits for the
// client to hang up. It returns its address.
func fake(t *testing.T, steps ...step) Dialer {
	t.Helper()
	return func(context.Context) (io.ReadWriteCloser, error) {
		client, server := net.Pipe()
		done := make(chan struct{})
		go func() {
			defer close(done)
			defer server.Close()
			for i, st := range steps {
				got := make([]byte, len(st.want))
				n, err := io.ReadFull(server, got)
				if got = got[:n]; string(got) != st.want {
					t.Errorf("step %d: the daemon got (%v)\n%q, want\n%q", i, err, got, st.want)
					return
				}
				if _, err := io.WriteString(server, st.reply); err != nil {
					if st.reply != "" && i < len(steps)-1 {
						t.Errorf("step %d: %v", i, err)
					}
					return
				}
			}
			if rest, _ := io.ReadAll(server); len(rest) > 0 {
				t.Errorf("after the last step the daemon got %q", rest)
			}
		}()
		t.Cleanup(func() { <-done })
		return client, nil
	}
}

// dialFake connects to a fake of protocol 1.minor.
func dialFake(t *testing.T, minor uint64, steps ...step) *Conn {
	t.Helper()
	c, err := Dial(t.Context(), Config{Dial: fake(t, append(greeting(minor), steps...)...)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

// record is a Sink that remembers, whole strings again.
type record struct {
	messages []string
	lines    []string
	started  []Activity
	stopped  []uint64
	results  []Field
	pieces   int
	widest   int
	partial  bytes.Buffer
}

func (r *record) piece(p []byte, more bool, to *[]string) {
	r.pieces++
	r.widest = max(r.widest, len(p))
	r.partial.Write(p)
	if !more {
		*to = append(*to, r.partial.String())
		r.partial.Reset()
	}
}

func (r *record) Message(p []byte, more bool) { r.piece(p, more, &r.messages) }
func (r *record) StartActivity(a Activity)    { r.started = append(r.started, a) }
func (r *record) StopActivity(id uint64)      { r.stopped = append(r.stopped, id) }
func (r *record) LogLine(_ uint64, _ ResultType, p []byte, more bool) {
	r.piece(p, more, &r.lines)
}

func (r *record) Result(_ uint64, _ ResultType, fs []Field) { r.results = append(r.results, fs...) }

func infoA(nar string) nix.PathInfo {
	return nix.PathInfo{
		Path: pathA, NarHash: nix.Hash{31: 1}, NarSize: uint64(len(nar)),
		References: []nix.Path{pathB, pathA}, Sigs: []string{"k:sig"}, CA: "text:sha256:x", Deriver: pathDrv,
		Ultimate: true, RegistrationTime: 77,
	}
}

// wireInfoA is what is sent of infoA: sorted references, no time, not ultimate.
func wireInfoA(nar string) string {
	return s(pathA) + s(pathDrv) + s(someHex) + list(s(pathA), s(pathB)) + u(0) +
		u(uint64(len(nar))) + u(0) + list(s("k:sig")) + s("text:sha256:x")
}
