//go:build e2e

package e2e

import (
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/drv-thru/drv-thru/core/link"
	"github.com/drv-thru/drv-thru/core/link/wsconn"
	"github.com/drv-thru/drv-thru/core/wire"
	"github.com/drv-thru/drv-thru/e2e/lab"
)

// Compressed bodies cost the builder no more than what they unpack to is allowed.
func TestHostileHolderBombs(t *testing.T) {
	s := newSiege(t, lab.Trixie)
	s.startHonest(t, lab.Trixie)
	in := with("bombed", addressed("bombed", fileNar("bombed")))
	// Its good frame may come into the store, or not, before the rest is refused.
	e := addressed("arrived", fileNar("arrived"))
	arrives := with("arrived", e)
	head := string(in.frames(0)[:wire.InputFrameHeader])
	const much = 64 << 20
	large := with("large", addressed("large", fileNar(strings.Repeat("x", 60<<20))))
	for name, c := range map[string]struct {
		inputs closure
		want   wire.Code
		body   []byte
	}{
		"zeros":      {in, wire.CodeInputUnasked, bomb(t, "\xff\xff\xff\xff", "\x00", much, "")},
		"nar":        {in, wire.CodeInputNar, bomb(t, head, "\x00", much, "")},
		"after":      {arrives, wire.CodeInputUnasked, bomb(t, string(arrives.frames(0)), string(arrives.frames(0)), much, "")},
		"large":      {large, wire.CodeInputSize, bomb(t, string(large.frames(0)[:wire.InputFrameHeader]), "\x00", much, "")},
		"large-name": {large, wire.CodeInputSize, bomb(t, string(large.frames(0)[:wire.InputFrameHeader+8]), "\xff", much, "")},
		"junk":       {in, wire.CodeBadRequest, []byte("junk")},
		"window":     {in, wire.CodeBadRequest, []byte{0x28, 0xb5, 0x2f, 0xfd, 0x00, 0xa8}},
		"cut-short":  {in, wire.CodeBadRequest, bomb(t, string(in.frames(0)[:20]), "x", 0, "")[:12]},
	} {
		t.Run(name, func(t *testing.T) {
			id := newBuildID(t)
			if _, a := s.attacker.putBuild(id, c.inputs.request()); a.code != "" {
				t.Fatal(a.text)
			}
			a := s.attacker.putInputs(id, bytes.NewReader(c.body), "Content-Encoding", "zstd")
			if a.code != c.want {
				t.Errorf("refused as %q (%s), want %q", a.code, a.text, c.want)
			}
			s.attacker.ask(http.MethodDelete, "/v1/builds/"+string(id), nil)
			s.attacker.alive(t)
		})
	}
	if len(s.host.Paths()) > len(s.before) {
		s.before = s.host.Paths() // "after" begins with a good frame
		if !s.host.Has(string(e.Path)) {
			t.Error("it is not the good frame that has come")
		}
	}
	s.finishHonest(t)
}

// Who sends slowly, or opens streams without end, keeps nobody else waiting.
func TestHostileHolderSlow(t *testing.T) {
	s := newSiege(t, lab.Trixie)
	s.startHonest(t, lab.Trixie)
	ctx, cancel := context.WithCancel(context.Background())
	var streams sync.WaitGroup
	defer streams.Wait()
	defer cancel()

	// Uploads that stop after a byte of their first NAR.
	in := with("slow", addressed("slow", fileNar(strings.Repeat("slow", 50_000))))
	var builds []wire.BuildID
	for range 30 {
		id := newBuildID(t)
		builds = append(builds, id)
		if _, a := s.attacker.putBuild(id, in.request()); a.code != "" {
			t.Fatal(a.text)
		}
		s.stall(ctx, &streams, s.attacker.session, "/v1/builds/"+string(id)+"/inputs", in.frames(0)[:13])
	}
	// A thousand event streams, and as many documents that go on for ever:
	// compressed, so that each is large at once.
	spaces := bomb(t, `{"roots":[],"closure":[`, " ", 1<<20, "")
	spaces = spaces[:len(spaces)-3]
	for range 5 {
		events, documents := s.attacker.dial(), s.attacker.dial()
		for i := range 200 {
			s.follow(ctx, &streams, events, builds[i%len(builds)])
			s.stall(ctx, &streams, documents, "/v1/builds/"+string(newBuildID(t)), spaces, "Content-Encoding", "zstd")
		}
	}
	// An upload of the same build on another connection takes the place of
	// the one that hangs.
	body := in.frames(0)
	body[len(body)-12] ^= 1
	if a := s.attacker.putInputs(builds[0], bytes.NewReader(body)); a.code != wire.CodeInputNar && a.code != wire.CodeInputHash {
		t.Errorf("the second upload: %q %s", a.code, a.text)
	}
	// Somebody else asks, plans and builds.
	s.victim.t = t
	began := time.Now()
	if a := s.victim.ask(http.MethodGet, wire.RouteInfo, nil); a.code != wire.CodeTicketUsed {
		t.Errorf("info: %d %q", a.status, a.code)
	}
	second := s.client.StartBuild(s.ticket(), "-L", "--no-link", "--print-out-paths", "--impure", "--expr", string(lab.Hello("meanwhile")))
	second.WaitFor(`place 1 |position 1|waiting|queue`, patience)
	s.gate.Open()
	if err := second.Wait(patience); err != nil {
		t.Fatalf("the build meanwhile: %v", err)
	}
	t.Logf("the others waited %v", time.Since(began))
	out := strings.TrimSpace(second.WaitFor(`/nix/store/[a-z0-9]{32}-hello\n`, patience)[0])
	_, come := difference(s.before, s.host.Paths())
	s.before = s.host.Paths()
	for _, p := range come {
		if p != out && !strings.HasSuffix(p, "-hello.drv") && !strings.HasSuffix(p, "-waiting") {
			t.Errorf("the builder's store gained %s", p)
		}
	}
	cancel()
	streams.Wait()
	s.finishHonest(t)
}

// stall begins a PUT whose body never ends, and returns once the beginning
// is sent or the builder has refused it.
func (s *siege) stall(ctx context.Context, streams *sync.WaitGroup, session *link.Session, path string, begin []byte, headers ...string) {
	r, w := io.Pipe()
	req := s.attacker.request(ctx, http.MethodPut, path, r, headers...)
	stop := context.AfterFunc(ctx, func() { w.CloseWithError(context.Canceled) })
	streams.Go(func() {
		defer stop()
		// As a stream of HTTP/2, of which a connection has many.
		if resp, err := session.Control().RoundTrip(req); err == nil {
			resp.Body.Close()
		}
		r.Close()
	})
	// An error means that the builder wanted no more of it.
	_, _ = w.Write(begin)
}

// follow opens an event stream and reads its first event.
func (s *siege) follow(ctx context.Context, streams *sync.WaitGroup, session *link.Session, id wire.BuildID) {
	resp, err := session.Control().RoundTrip(s.attacker.request(ctx, http.MethodGet, "/v1/builds/"+string(id)+"/events?from=1", nil))
	if err != nil {
		s.attacker.t.Fatal(err)
	}
	if resp.StatusCode != http.StatusOK {
		s.attacker.t.Fatalf("events: %v", s.attacker.read(resp))
	}
	r := bufio.NewReader(resp.Body)
	if _, err := r.ReadBytes('\n'); err != nil {
		s.attacker.t.Fatalf("events: %v", err)
	}
	streams.Go(func() {
		defer resp.Body.Close()
		io.Copy(io.Discard, r)
	})
}

// Peers that abuse HTTP/2 lose their connection and disturb no other.
func TestHostileHolderFrames(t *testing.T) {
	s := newSiege(t, lab.Trixie)
	s.startHonest(t, lab.Trixie)
	id := string(s.victimBuild)
	// What these do is allowed, or ignored, as long as the peer goes on to
	// answer pings.
	patient := map[string]bool{"settings without end": true, "pings without end": true, "reset at once": true, "more streams than allowed": true}
	for name, abuse := range map[string]func(framer){
		"garbage": func(f framer) {
			junk := make([]byte, 1<<20)
			rand.Read(junk)
			f.Write(junk)
		},
		"HTTP 1": func(f framer) {
			io.WriteString(f, "GET /v1/info HTTP/1.1\r\nHost: builder\r\n\r\n")
		},
		"frame too large": func(f framer) {
			f.begin()
			f.frame(frameData, 0, 1, make([]byte, 1<<20))
		},
		"unknown streams": func(f framer) {
			f.begin()
			f.flood(func(int) error { return f.frame(frameData, 0, 99, []byte("data")) })
		},
		"window overflow": func(f framer) {
			f.begin()
			f.flood(func(int) error { return f.frame(frameWindow, 0, 0, []byte{0x7f, 0xff, 0xff, 0xff}) })
		},
		"settings without end": func(f framer) {
			f.begin()
			f.flood(func(int) error { return f.frame(frameSettings, 0, 0, []byte{0, 4, 0, 0, 0, 1}) })
		},
		"pings without end": func(f framer) {
			f.begin()
			f.flood(func(int) error { return f.frame(framePing, 0, 0, make([]byte, 8)) })
		},
		"headers without end": func(f framer) {
			f.begin()
			block := headerBlock("GET", "/v1/info", "x-filler", strings.Repeat("x", 4096))
			f.frame(frameHeaders, 0, 1, block)
			f.flood(func(int) error { return f.frame(frameContinuation, 0, 1, bytes.Repeat(block, 3)) })
		},
		"reset at once": func(f framer) {
			f.begin()
			block := headerBlock("GET", "/v1/builds/"+id+"/events")
			f.flood(func(i int) error {
				return errors.Join(f.frame(frameHeaders, endHeaders|endStream, 2*i+1, block), f.frame(frameReset, 0, 2*i+1, []byte{0, 0, 0, 8}))
			})
		},
		"more streams than allowed": func(f framer) {
			f.begin()
			block := headerBlock("PUT", "/v1/builds/"+id)
			f.flood(func(i int) error { return f.frame(frameHeaders, endHeaders, 2*i+1, block) })
		},
	} {
		t.Run(name, func(t *testing.T) {
			conn := s.attacker.raw(t)
			if err := conn.SetWriteDeadline(time.Now().Add(10 * time.Second)); err != nil {
				t.Fatal(err)
			}
			abuse(framer{conn})
			if err := conn.SetReadDeadline(time.Now().Add(patience)); err != nil {
				t.Fatal(err)
			}
			if patient[name] {
				conn.Close()
			} else if _, err := io.Copy(io.Discard, conn); isTimeout(err) {
				t.Error("the connection stays")
			}
			s.attacker.alive(t)
		})
	}
	t.Run("no identity", func(t *testing.T) {
		conn := s.attacker.circuit(t)
		c := tls.Client(conn, &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"h2"}})
		if err := c.Handshake(); err == nil {
			// TLS 1.3 tells the client only with its first read.
			if _, err = c.Read(make([]byte, 1)); err == nil {
				t.Error("a client without a key is served")
			}
		}
	})
	t.Run("large headers", func(t *testing.T) {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		session := s.attacker.dial()
		resp, err := session.Control().RoundTrip(s.attacker.request(ctx, http.MethodGet, wire.RouteInfo, nil, "X-Filler", strings.Repeat("x", 8<<20)))
		if err == nil {
			defer resp.Body.Close()
			if resp.StatusCode < 400 {
				t.Errorf("8 MiB of headers: %s", resp.Status)
			}
		}
	})
	s.finishHonest(t)
}

// circuit opens a raw circuit to the builder.
func (p *peer) circuit(t *testing.T) net.Conn {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	ws, _, err := wsconn.Dial(ctx, p.ticket.Relays[0]+"/v1/dial/"+p.ticket.Builder.String(), wsconn.DialOptions{Protocols: []string{wire.RelayProtocol}})
	if err != nil {
		t.Fatal(err)
	}
	conn := wsconn.New(ws, wire.RelayMaxMessage)
	t.Cleanup(func() { conn.Close() })
	return conn
}

// raw opens a circuit with TLS on it, and nothing above.
func (p *peer) raw(t *testing.T) net.Conn {
	t.Helper()
	cfg, err := p.id.ClientTLS(p.ticket.Builder)
	if err != nil {
		t.Fatal(err)
	}
	cfg.NextProtos = []string{"h2"}
	conn := tls.Client(p.circuit(t), cfg)
	if err := conn.Handshake(); err != nil {
		t.Fatal(err)
	}
	return conn
}

// HTTP/2 frame types and flags (RFC 9113 §6).
const (
	frameData         = 0
	frameHeaders      = 1
	frameReset        = 3
	frameSettings     = 4
	framePing         = 6
	frameWindow       = 8
	frameContinuation = 9

	endStream  = 1
	endHeaders = 4
)

// A framer writes HTTP/2 frames, allowed or not.
type framer struct{ io.Writer }

func (f framer) frame(kind, flags byte, stream int, payload []byte) error {
	n := len(payload)
	b := []byte{byte(n >> 16), byte(n >> 8), byte(n), kind, flags}
	_, err := f.Write(append(binary.BigEndian.AppendUint32(b, uint32(stream)), payload...))
	return err
}

// begin sends what a connection begins with.
func (f framer) begin() {
	io.WriteString(f, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
	f.frame(frameSettings, 0, 0, nil)
}

// flood writes until the peer has had enough, or a lot is written.
func (f framer) flood(write func(int) error) {
	for i := range 20_000 {
		if write(i) != nil {
			return
		}
	}
}

// headerBlock is the fields of a request, each as a literal (RFC 7541 §6.2.2).
func headerBlock(method, path string, fields ...string) []byte {
	var b []byte
	fields = append([]string{":method", method, ":scheme", "https", ":authority", "builder", ":path", path, "drv-thru-version", strconv.Itoa(wire.Version)}, fields...)
	for i, text := range fields {
		if i%2 == 0 {
			b = append(b, 0)
		}
		if n := len(text); n < 127 {
			b = append(b, byte(n))
		} else {
			b = binary.AppendUvarint(append(b, 127), uint64(n-127))
		}
		b = append(b, text...)
	}
	return b
}

func isTimeout(err error) bool {
	var ne net.Error
	return errors.As(err, &ne) && ne.Timeout()
}
