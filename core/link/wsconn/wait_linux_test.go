package wsconn

import (
	"bytes"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/coder/websocket"
)

// tcpSockets is sockets over TCP, where the shortcuts for short texts are taken.
func tcpSockets(t *testing.T) (client, server *Socket) {
	t.Helper()
	accepted := make(chan *Socket, 1)
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s, err := Accept(w, r, "test.1")
		if err != nil {
			t.Error(err)
		}
		accepted <- s
	}))
	t.Cleanup(srv.Close)
	client, _, err := Dial(t.Context(), srv.URL, DialOptions{Protocols: []string{"test.1"}})
	if err != nil {
		t.Fatal(err)
	}
	server = <-accepted
	t.Cleanup(func() {
		_ = client.CloseNow()
		_ = server.CloseNow()
	})
	return client, server
}

func TestSkip(t *testing.T) {
	const pong = `{"type":"pong"}`
	ctx := t.Context()
	client, server := tcpSockets(t)
	write := func(typ websocket.MessageType, text string) {
		t.Helper()
		if err := client.Write(ctx, typ, []byte(text)); err != nil {
			t.Fatal(err)
		}
	}
	for range 3 {
		write(websocket.MessageText, pong)
		server.Wait()
		if !server.Skip(pong) {
			t.Fatal("the text is not skipped")
		}
		if server.Skip(pong) {
			t.Fatal("it is skipped twice")
		}
	}
	for _, other := range []struct {
		typ  websocket.MessageType
		text string
	}{
		{websocket.MessageBinary, pong},
		{websocket.MessageText, `{"type":"pang"}`},
		{websocket.MessageText, `{"type":"pong"} `},
		{websocket.MessageText, `{"type":"pong`},
		{websocket.MessageText, ""},
		{websocket.MessageText, string(bytes.Repeat([]byte("x"), 1000))},
	} {
		write(other.typ, other.text)
		server.Wait()
		if server.Skip(pong) {
			t.Fatalf("%q (%v) is skipped", other.text, other.typ)
		}
		typ, got, err := server.Read(ctx)
		if err != nil || typ != other.typ || string(got) != other.text {
			t.Fatalf("read %v %q, %v", typ, got, err)
		}
	}
	// The library may have read ahead; nothing is lost by that.
	write(websocket.MessageText, "first")
	write(websocket.MessageText, pong)
	write(websocket.MessageText, "last")
	if _, got, err := server.Read(ctx); err != nil || string(got) != "first" {
		t.Fatalf("read %q, %v", got, err)
	}
	for {
		server.Wait()
		if server.Skip(pong) {
			continue
		}
		_, got, err := server.Read(ctx)
		if err != nil {
			t.Fatal(err)
		}
		if string(got) == "last" {
			break
		}
		if string(got) != pong {
			t.Fatalf("read %q", got)
		}
	}
}

func TestTry(t *testing.T) {
	client, server := tcpSockets(t)
	frame := TextFrame("ping")
	if !server.Try(frame) {
		t.Fatal("not sent")
	}
	typ, got, err := client.Read(t.Context())
	if err != nil || typ != websocket.MessageText || string(got) != "ping" {
		t.Fatalf("read %v %q, %v", typ, got, err)
	}

	server.frames.mu.Lock() // somebody is sending
	if server.Try(frame) {
		t.Error("sent into another frame")
	}
	server.frames.mu.Unlock()

	server.frames.ended.Store(true)
	if server.Try(frame) {
		t.Error("sent after the goodbye")
	}
}
