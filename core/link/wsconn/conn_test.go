//go:build !js

package wsconn

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/coder/websocket"

	"github.com/drv-thru/drv-thru/core/link/linktest"
)

const maxMessage = 1 << 20

// sockets returns the two ends of a WebSocket, client first, and what is
// underneath.
func sockets(t *testing.T) (client, server *Socket, l *linktest.Listener) {
	t.Helper()
	var network linktest.Network
	l = network.Listen("test:80")
	accepted := make(chan *Socket, 1)
	srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s, err := Accept(w, r, "test.1")
		if err != nil {
			t.Error(err)
		}
		accepted <- s
	})}
	go srv.Serve(l)
	client, _, err := Dial(t.Context(), "http://test:80", DialOptions{Protocols: []string{"test.1"}, DialContext: network.DialContext})
	if err != nil {
		t.Fatal(err)
	}
	server = <-accepted
	t.Cleanup(func() {
		_ = client.frames.Close()
		_ = client.CloseNow()
		_ = server.frames.Close()
		_ = server.CloseNow()
		_ = srv.Close()
	})
	if client.Subprotocol() != "test.1" {
		t.Fatalf("protocol %q", client.Subprotocol())
	}
	return client, server, l
}

func streams(t *testing.T) (client, server *Conn, l *linktest.Listener) {
	a, b, l := sockets(t)
	client, server = New(a, maxMessage), New(b, maxMessage)
	t.Cleanup(func() {
		// The second Close of an end that a test has closed cuts it short.
		_ = client.Close()
		_ = server.Close()
	})
	return client, server, l
}

// both runs a test with each end of a fresh pair as the subject: a client's
// frames are masked and a server's are not.
func both(t *testing.T, test func(t *testing.T, subject, peer *Conn, l *linktest.Listener)) {
	t.Run("client", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			client, server, l := streams(t)
			test(t, client, server, l)
			_ = client.Close()
			_ = server.Close()
		})
	})
	t.Run("server", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			client, server, l := streams(t)
			test(t, server, client, l)
			_ = client.Close()
			_ = server.Close()
		})
	})
}

func TestBytesArrive(t *testing.T) {
	both(t, func(t *testing.T, subject, peer *Conn, _ *linktest.Listener) {
		var wg sync.WaitGroup
		for _, dir := range [][2]*Conn{{subject, peer}, {peer, subject}} {
			sent, got := sha256.New(), sha256.New()
			wg.Go(func() {
				rng := rand.New(rand.NewPCG(1, 2))
				buf := make([]byte, 700<<10)
				for i := range buf {
					buf[i] = byte(rng.Uint32())
				}
				for range 60 {
					// Sizes around every boundary that the code knows.
					n := []int{1, 5, 4095, 4097, fullRecord, fullRecord + 22, readPiece, MessageSize, MessageSize + 1, len(buf)}[rng.IntN(10)]
					if _, err := dir[0].Write(buf[:n]); err != nil {
						t.Error(err)
						return
					}
					sent.Write(buf[:n])
				}
				if err := dir[0].SetWriteDeadline(time.Time{}); err != nil {
					t.Error(err)
				}
				_, _ = dir[0].Write([]byte("END"))
				sent.Write([]byte("END"))
			})
			wg.Go(func() {
				rng := rand.New(rand.NewPCG(3, 4))
				buf := make([]byte, 512<<10)
				tail := ""
				for tail != "END" {
					n, err := dir[1].Read(buf[:1+rng.IntN(len(buf))])
					if err != nil {
						t.Error(err)
						return
					}
					got.Write(buf[:n])
					tail += string(buf[max(0, n-3):n])
					tail = tail[max(0, len(tail)-3):]
				}
			})
			defer func() {
				if !bytes.Equal(sent.Sum(nil), got.Sum(nil)) {
					t.Error("other bytes arrived than were sent")
				}
			}()
		}
		wg.Wait()
	})
}

func TestReadDeadlineLeavesTheConnection(t *testing.T) {
	both(t, func(t *testing.T, subject, peer *Conn, _ *linktest.Listener) {
		buf := make([]byte, 16)
		for range 3 {
			_ = subject.SetReadDeadline(time.Now().Add(time.Second))
			begin := time.Now()
			if _, err := subject.Read(buf); !errors.Is(err, os.ErrDeadlineExceeded) {
				t.Fatalf("want a timeout, got %v", err)
			}
			if waited := time.Since(begin); waited != time.Second {
				t.Errorf("waited %s", waited)
			}
			// Expired stays expired, and is a net.Error that says so.
			_, err := subject.Read(buf)
			var ne net.Error
			if !errors.As(err, &ne) || !ne.Timeout() {
				t.Errorf("%v is no timeout", err)
			}
			if _, err := peer.Write([]byte("hello")); err != nil {
				t.Fatal(err)
			}
			_ = subject.SetReadDeadline(time.Time{})
			if n, err := io.ReadFull(subject, buf[:5]); err != nil || string(buf[:n]) != "hello" {
				t.Fatalf("after the timeout: %q, %v", buf[:n], err)
			}
		}
		// What HTTP/1 servers do to end a background read: a deadline in the
		// past, set while somebody reads.
		done := make(chan error)
		go func() {
			_, err := subject.Read(buf[:1])
			done <- err
		}()
		synctest.Wait()
		_ = subject.SetReadDeadline(time.Unix(1, 0))
		if err := <-done; !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("want a timeout, got %v", err)
		}
		_ = subject.SetReadDeadline(time.Time{})
		_, _ = peer.Write([]byte("x"))
		if _, err := subject.Read(buf[:1]); err != nil {
			t.Error(err)
		}
	})
}

func TestWriteDeadlineLosesNothing(t *testing.T) {
	both(t, func(t *testing.T, subject, peer *Conn, _ *linktest.Listener) {
		_ = subject.SetWriteDeadline(time.Now().Add(time.Second))
		data := make([]byte, 8<<20)
		for i := range data {
			data[i] = byte(i >> 8)
		}
		n, err := subject.Write(data)
		if !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Fatalf("want a timeout, got %d, %v", n, err)
		}
		if n == 0 || n > (readAhead+3)*len(Buffer{}) {
			t.Errorf("%d bytes are kept for a peer that does not read", n)
		}
		_ = subject.SetWriteDeadline(time.Time{})
		go func() { _, _ = subject.Write(data[n:]) }()
		got := make([]byte, len(data))
		if _, err := io.ReadFull(peer, got); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got, data) {
			t.Error("other bytes arrived than were sent")
		}
	})
}

func TestHTTP1OnAStream(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client, server, _ := streams(t)
		conns := make(chan net.Conn, 1)
		conns <- server
		l := &chanListener{conns, make(chan struct{})}
		srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			body, _ := io.ReadAll(r.Body)
			_, _ = w.Write(body)
		})}
		go srv.Serve(l)
		defer srv.Close()
		tr := &http.Transport{DialContext: func(context.Context, string, string) (net.Conn, error) { return client, nil }}
		for i := range 5 {
			want := strings.Repeat("x", i*300_000)
			resp, err := (&http.Client{Transport: tr}).Post("http://x/", "", strings.NewReader(want))
			if err != nil {
				t.Fatal(err)
			}
			got, err := io.ReadAll(resp.Body)
			_ = resp.Body.Close()
			if err != nil || string(got) != want {
				t.Fatalf("request %d: %d bytes, %v", i, len(got), err)
			}
			<-time.After(time.Minute) // of the test's clock: the connection is idle
		}
		tr.CloseIdleConnections()
	})
}

type chanListener struct {
	conns chan net.Conn
	done  chan struct{}
}

func (l *chanListener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.done:
		return nil, net.ErrClosed
	}
}
func (l *chanListener) Close() error { close(l.done); return nil }
func (*chanListener) Addr() net.Addr { return linktest.Addr("chan") }

func TestCloseDeliversWhatWasWritten(t *testing.T) {
	both(t, func(t *testing.T, subject, peer *Conn, _ *linktest.Listener) {
		data := bytes.Repeat([]byte("drv-thru"), 60_000)
		go func() {
			_, _ = subject.Write(data)
			_ = subject.Close()
		}()
		got, err := io.ReadAll(peer)
		if err != nil || !bytes.Equal(got, data) {
			t.Errorf("got %d of %d bytes, %v", len(got), len(data), err)
		}
		if _, err := subject.Write([]byte("x")); !errors.Is(err, net.ErrClosed) {
			t.Errorf("write after close: %v", err)
		}
		if _, err := subject.Read(make([]byte, 1)); !errors.Is(err, net.ErrClosed) {
			t.Errorf("read after close: %v", err)
		}
	})
}

func TestCloseDoesNotHangOnAPeerThatDoesNotRead(t *testing.T) {
	both(t, func(t *testing.T, subject, peer *Conn, l *linktest.Listener) {
		_ = subject.SetWriteDeadline(time.Now().Add(time.Second))
		_, _ = subject.Write(make([]byte, 8<<20))
		begin := time.Now()
		_ = subject.Close()
		if took := time.Since(begin); took > linger {
			t.Errorf("took %s", took)
		}
	})
}

// A peer that begins a message and does not end it has no more time for its
// goodbye than another.
func TestGoodbyeInsideAMessage(t *testing.T) {
	for name, begun := range map[string][]byte{
		"client": {0x82, 0x7e, 0xff, 0xff},
		"server": {0x82, 0xfe, 0xff, 0xff, 0, 0, 0, 0},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				client, server, _ := sockets(t)
				subject, peer := client, server
				if name == "server" {
					subject, peer = server, client
				}
				if _, err := peer.frames.Write(begun); err != nil {
					t.Fatal(err)
				}
				begin := time.Now()
				time.AfterFunc(time.Hour, func() { _ = peer.frames.Close() })
				_ = subject.Close(websocket.StatusNormalClosure, "")
				if took := time.Since(begin); took > goodbye {
					t.Errorf("it takes %s", took)
				}
			})
		})
	}
}

func TestLossIsNotAnEnd(t *testing.T) {
	both(t, func(t *testing.T, subject, peer *Conn, l *linktest.Listener) {
		_, _ = peer.Write([]byte("begun"))
		buf := make([]byte, 100)
		if _, err := io.ReadFull(subject, buf[:5]); err != nil {
			t.Fatal(err)
		}
		l.Cut()
		if n, err := subject.Read(buf); err == nil || err == io.EOF || n > 0 {
			t.Errorf("read after the loss: %d, %v", n, err)
		}
		_, _ = subject.Write(buf)
		synctest.Wait()
		if _, err := subject.Write(buf); err == nil {
			t.Error("write after the loss succeeds")
		}
	})
}

func TestPeersThatBreakTheRules(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for name, c := range map[string]struct {
			send func(*Socket)
			want func(error) bool
			code websocket.StatusCode
		}{
			"text": {
				func(s *Socket) { _ = s.Write(context.Background(), websocket.MessageText, []byte("{}")) },
				func(err error) bool {
					var te *TextError
					return errors.As(err, &te) && string(te.Text) == "{}"
				},
				websocket.StatusUnsupportedData,
			},
			"oversize": {
				func(s *Socket) {
					_ = s.Write(context.Background(), websocket.MessageBinary, make([]byte, maxMessage+1))
				},
				func(err error) bool { return errors.Is(err, websocket.ErrMessageTooBig) },
				websocket.StatusMessageTooBig,
			},
			"close code": {
				func(s *Socket) { _ = s.Close(4003, "lost") },
				func(err error) bool {
					var ce *CloseError
					return errors.As(err, &ce) && ce.Code == 4003 && ce.Reason == "lost"
				},
				4003,
			},
		} {
			client, server, _ := sockets(t)
			stream := New(server, maxMessage)
			go c.send(client)
			told := make(chan error, 1)
			go func() {
				_, _, err := client.Reader(context.Background())
				told <- err
			}()
			_, err := io.Copy(io.Discard, stream)
			if !c.want(err) {
				t.Errorf("%s: %v", name, err)
			}
			if err := <-told; name != "close code" && websocket.CloseStatus(err) != c.code {
				t.Errorf("%s: the peer is told %v", name, err)
			}
			_ = stream.Close()
			_ = client.CloseNow()
		}
	})
}

// TestFullFrameIsOneMessageAndOneWrite pins what the speed rests on: the
// records of one 256 KiB HTTP/2 frame leave as one message, in one system call.
func TestFullFrameIsOneMessageAndOneWrite(t *testing.T) {
	for _, side := range []string{"client", "server"} {
		synctest.Test(t, func(t *testing.T) {
			a, b, l := sockets(t)
			if side == "server" {
				a, b = b, a
			}
			b.SetReadLimit(maxMessage)
			subject := New(a, maxMessage)
			writes := func() (n int64) {
				for _, c := range l.Conns() {
					n += c.Writes()
				}
				return n
			}
			before := writes()
			go func() {
				left := 256<<10 + 9
				for left > 0 {
					n := min(left, 16<<10)
					_, _ = subject.Write(make([]byte, n+22))
					left -= n
				}
			}()
			_, p, err := b.Read(context.Background())
			if err != nil {
				t.Fatal(err)
			}
			if want := 256<<10 + 9 + 17*22; len(p) != want {
				t.Errorf("%s: the message has %d bytes, want %d", side, len(p), want)
			}
			// In memory there is no writev, so a server's header goes by itself.
			if n := writes() - before; n > 2 || (side == "client" && n != 1) {
				t.Errorf("%s: %d writes", side, n)
			}
			_ = subject.Close()
		})
	}
}

// TestFullRecordsDoNotWaitForever: a write that is a multiple of a record.
func TestFullRecordsDoNotWaitForever(t *testing.T) {
	both(t, func(t *testing.T, subject, peer *Conn, _ *linktest.Listener) {
		go func() { _, _ = subject.Write(make([]byte, fullRecord)) }()
		begin := time.Now()
		if _, err := io.ReadFull(peer, make([]byte, fullRecord)); err != nil {
			t.Fatal(err)
		}
		if waited := time.Since(begin); waited > gatherFor {
			t.Errorf("waited %s", waited)
		}
	})
}

func TestIdleStreamHoldsNoBuffers(t *testing.T) {
	both(t, func(t *testing.T, subject, peer *Conn, _ *linktest.Listener) {
		go func() { _, _ = peer.Write(make([]byte, 3<<20)) }()
		go func() { _, _ = subject.Write(make([]byte, 3<<20)) }()
		go func() { _, _ = io.ReadFull(peer, make([]byte, 3<<20)) }()
		if _, err := io.ReadFull(subject, make([]byte, 3<<20)); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		for _, c := range []*Conn{subject, peer} {
			c.mu.Lock()
			if len(c.in) != 0 || c.out.buf != nil {
				t.Errorf("holds %d read buffers, write buffer %t", len(c.in), c.out.buf != nil)
			}
			c.mu.Unlock()
		}
	})
}

// A message may end after all of it has been read. Its buffer is others' then.
func TestMessageThatEndsAfterItWasRead(t *testing.T) {
	both(t, func(t *testing.T, subject, peer *Conn, _ *linktest.Listener) {
		frame := func(head byte, payload string) {
			f := []byte{head, byte(len(payload))}
			if peer.sock.frames.masks {
				f[1] |= maskBit
				f = append(f, make([]byte, keySize)...)
			}
			if _, err := peer.sock.frames.Write(append(f, payload...)); err != nil {
				t.Fatal(err)
			}
		}
		const begin, end = 0x02, 0x80 // a binary message's first frame and last (RFC 6455 §5.2)
		for range 3 {
			frame(begin, "hello")
			if p, err := io.ReadAll(io.LimitReader(subject, 5)); err != nil || string(p) != "hello" {
				t.Fatalf("read %q, %v", p, err)
			}
			frame(end, "")
			synctest.Wait()
			subject.mu.Lock()
			if len(subject.in) != 0 {
				t.Error("the buffer is kept")
			}
			subject.mu.Unlock()
		}
	})
}

func TestDialSaysWhatTheServerSaid(t *testing.T) {
	var network linktest.Network
	l := network.Listen("test:80")
	srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(http.StatusNotFound)
		_, _ = fmt.Fprint(w, "no builder")
	})}
	go srv.Serve(l)
	defer srv.Close()
	_, resp, err := Dial(t.Context(), "ws://test", DialOptions{DialContext: network.DialContext})
	if err == nil || resp == nil || resp.StatusCode != http.StatusNotFound {
		t.Fatalf("got %v, %v", resp, err)
	}
	if body, _ := io.ReadAll(resp.Body); string(body) != "no builder" {
		t.Errorf("body %q", body)
	}
	if _, _, err := Dial(t.Context(), "ws://elsewhere", DialOptions{DialContext: network.DialContext}); !errors.Is(err, linktest.ErrRefused) {
		t.Errorf("got %v", err)
	}
}
