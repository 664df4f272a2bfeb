//go:build e2e

// Package linkwasm runs core/link as WebAssembly in Node against a real relay
// and a real builder: the WebSocket there is the browser's, of which no unit
// test has a server.
package linkwasm

import (
	"context"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/drv-thru/drv-thru/core/key"
	"github.com/drv-thru/drv-thru/core/link"
	"github.com/drv-thru/drv-thru/relay"
)

func TestSessionFromWebAssembly(t *testing.T) {
	goRoot, err := exec.Command("go", "env", "GOROOT").Output()
	if err != nil {
		t.Fatal(err)
	}
	binary := filepath.Join(t.TempDir(), "link.wasm")
	build := exec.Command("go", "test", "-c", "-tags", "e2e", "-o", binary, "../../core/link")
	build.Env = append(os.Environ(), "GOOS=js", "GOARCH=wasm")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build: %v\n%s", err, out)
	}

	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := relay.New(relay.Config{})
	go server.Serve(listener)
	defer func() {
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		_ = server.Shutdown(ctx)
	}()
	relayURL := "http://" + listener.Addr().String()

	builder, err := key.NewSecret(strings.NewReader(strings.Repeat("b", 32)))
	if err != nil {
		t.Fatal(err)
	}
	circuits, err := link.Listen(link.ListenConfig{Identity: builder, Relays: []string{relayURL}})
	if err != nil {
		t.Fatal(err)
	}
	defer circuits.Close()
	var srv *http.Server
	srv, err = link.NewServer(builder, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/cut" {
			hijackAndCut(r)
			return
		}
		body, err := io.ReadAll(r.Body)
		if err != nil {
			panic(http.ErrAbortHandler)
		}
		_, _ = w.Write(body)
	}), nil)
	if err != nil {
		t.Fatal(err)
	}
	connContext := srv.ConnContext
	srv.ConnContext = func(ctx context.Context, c net.Conn) context.Context {
		return context.WithValue(connContext(ctx, c), connKey{}, c)
	}
	go srv.ServeTLS(circuits, "", "")
	defer srv.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	if err := circuits.Registered(ctx); err != nil {
		t.Fatal(err)
	}

	// Node 20 has the browser's WebSocket behind a flag, later ones without.
	node := exec.CommandContext(ctx, "node", "--experimental-websocket", "--stack-size=8192",
		filepath.Join(strings.TrimSpace(string(goRoot)), "lib", "wasm", "wasm_exec_node.js"),
		binary, "-test.run", "^TestBrowser$", "-test.v")
	node.Env = append(os.Environ(), "DRV_THRU_TEST_RELAY="+relayURL, "DRV_THRU_TEST_BUILDER="+builder.ID().String())
	out, err := node.CombinedOutput()
	t.Logf("%s", out)
	if err != nil || !strings.Contains(string(out), "--- PASS: TestBrowser") {
		t.Errorf("in Node: %v", err)
	}
}

type connKey struct{}

// hijackAndCut breaks the circuit that a request came by.
func hijackAndCut(r *http.Request) {
	c := r.Context().Value(connKey{}).(interface{ NetConn() net.Conn })
	_ = c.NetConn().Close()
}
