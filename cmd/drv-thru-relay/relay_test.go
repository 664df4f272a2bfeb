package main

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/drv-thru/drv-thru/core/key"
	"github.com/drv-thru/drv-thru/core/link"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"drv-thru-relay": main})
}

// TestScripts runs the scripts of testdata against the real main.
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir: "testdata",
		Setup: func(env *testscript.Env) error {
			env.Values[processKey{}] = &process{}
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"start":     cmdStart,
			"end":       cmdEnd,
			"get":       cmdGet,
			"makecert":  cmdMakeCert,
			"session":   cmdSession,
			"reload":    cmdReload,
			"metrics":   cmdMetrics,
			"cert":      cmdCert,
			"writeid":   cmdWriteID,
			"halfopen":  cmdHalfOpen,
			"stunflood": cmdSTUNFlood,
		},
	})
}

// processKey is where a script keeps its running relay.
type processKey struct{}

type process struct {
	cmd  *exec.Cmd
	rest chan string
	log  *output
}

// output is what a process has written so far.
type output struct {
	mu   sync.Mutex
	text strings.Builder
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.String()
}

// eventually polls until ok, which returns what is still wrong.
func eventually(ts *testscript.TestScript, ok func() string) {
	deadline := time.Now().Add(time.Minute)
	for {
		wrong := ok()
		if wrong == "" {
			return
		}
		if time.Now().After(deadline) {
			ts.Fatalf("%s\n%s", wrong, ts.Value(processKey{}).(*process).log)
		}
		<-time.After(5 * time.Millisecond)
	}
}

// reload TEXT sends SIGHUP and waits for a text in the log.
func cmdReload(ts *testscript.TestScript, neg bool, args []string) {
	p := ts.Value(processKey{}).(*process)
	before := len(p.log.String())
	ts.Check(p.cmd.Process.Signal(syscall.SIGHUP))
	eventually(ts, func() string {
		if strings.Contains(p.log.String()[before:], args[0]) {
			return ""
		}
		return "the log does not say " + args[0]
	})
}

// metrics TEXT… looks for lines of the metrics.
func cmdMetrics(ts *testscript.TestScript, neg bool, args []string) {
	askMetrics(ts, "/readyz")
	body := askMetrics(ts, "/metrics")
	for _, want := range args {
		if !strings.Contains("\n"+body, "\n"+want+"\n") {
			ts.Fatalf("no %q in\n%s", want, body)
		}
	}
}

// askMetrics returns a page of the running relay's --metrics.
func askMetrics(ts *testscript.TestScript, path string) string {
	log := ts.Value(processKey{}).(*process).log
	_, rest, ok := strings.Cut(log.String(), "msg=metrics address=")
	if !ok {
		ts.Fatalf("no metrics:\n%s", log)
	}
	address, _, _ := strings.Cut(rest, "\n")
	resp, err := http.Get("http://" + address + path)
	ts.Check(err)
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	ts.Check(err)
	if resp.StatusCode != http.StatusOK {
		ts.Fatalf("%s: %s", path, resp.Status)
	}
	return string(body)
}

// cert NAME waits until the relay shows a certificate for a name.
func cmdCert(ts *testscript.TestScript, neg bool, args []string) {
	eventually(ts, func() string {
		_, address, _ := strings.Cut(ts.Getenv("URL"), "://")
		c, err := tls.Dial("tcp", address, insecure())
		if err != nil {
			return err.Error()
		}
		defer c.Close()
		if names := c.ConnectionState().PeerCertificates[0].DNSNames; !slices.Equal(names, args) {
			return fmt.Sprintf("the certificate is for %q", names)
		}
		return ""
	})
}

// identity is the builder and the client of every session.
func identity() key.Secret {
	s, err := key.NewSecret(strings.NewReader(strings.Repeat("7", 32)))
	if err != nil {
		panic(err)
	}
	return s
}

// writeid FILE writes the ID of whoever registers in session.
func cmdWriteID(ts *testscript.TestScript, neg bool, args []string) {
	ts.Check(os.WriteFile(ts.MkAbs(args[0]), []byte("# builders\n"+identity().ID().String()+" mine\n"), 0o644))
}

// start ARGS… runs drv-thru-relay and sets $URL to what it prints.
func cmdStart(ts *testscript.TestScript, neg bool, args []string) {
	path, err := exec.LookPath("drv-thru-relay")
	ts.Check(err)
	p := ts.Value(processKey{}).(*process)
	*p = process{cmd: exec.Command(path, args...), rest: make(chan string, 1), log: &output{}}
	p.cmd.Dir = ts.Getenv("WORK")
	p.cmd.Stderr = p.log
	out, err := p.cmd.StdoutPipe()
	ts.Check(err)
	ts.Check(p.cmd.Start())
	cmd := p.cmd
	ts.Defer(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	r := bufio.NewReader(out)
	line, err := r.ReadString('\n')
	url, ok := strings.CutPrefix(strings.TrimSpace(line), "relay ready at ")
	if err != nil || !ok {
		ts.Fatalf("it prints %q, %v\n%s", line, err, p.log)
	}
	more := p.rest
	go func() {
		rest, _ := io.ReadAll(r)
		more <- string(rest)
	}()
	ts.Setenv("URL", url)
}

// end SIGNAL TEXT… ends it and looks for texts in its log.
func cmdEnd(ts *testscript.TestScript, neg bool, args []string) {
	running := ts.Value(processKey{}).(*process)
	sig := map[string]os.Signal{"TERM": syscall.SIGTERM, "INT": os.Interrupt}[args[0]]
	ts.Check(running.cmd.Process.Signal(sig))
	if rest := <-running.rest; rest != "" {
		ts.Fatalf("more output: %q", rest)
	}
	err := running.cmd.Wait()
	if (err != nil) != neg {
		ts.Fatalf("it ends with %v\n%s", err, running.log)
	}
	ts.Logf("%s", running.log)
	for _, want := range args[1:] {
		if !strings.Contains(running.log.String(), want) {
			ts.Fatalf("the log has no %q:\n%s", want, running.log)
		}
	}
}

func insecure() *tls.Config { return &tls.Config{InsecureSkipVerify: true} }

// get PATH STATUS BODY asks the relay.
func cmdGet(ts *testscript.TestScript, neg bool, args []string) {
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: insecure(), DisableKeepAlives: true}}
	resp, err := client.Get(ts.Getenv("URL") + args[0])
	ts.Check(err)
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	ts.Check(err)
	if strconv.Itoa(resp.StatusCode) != args[1] || !strings.Contains(string(body), args[2]) {
		ts.Fatalf("%s: %q", resp.Status, body)
	}
}

// session [HOST] registers a builder and opens a session with it, by another
// name of the relay if given.
func cmdSession(ts *testscript.TestScript, neg bool, args []string) {
	address := ts.Getenv("URL")
	network := link.Network{TLS: insecure()}
	if len(args) > 0 {
		scheme, target, _ := strings.Cut(address, "://")
		address = scheme + "://" + args[0]
		network.DialContext = func(ctx context.Context, n, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, n, target)
		}
	}
	err := trySession(address, ts.Getenv("TOKEN"), network)
	if (err != nil) != neg {
		ts.Fatalf("session: %v", err)
	}
}

func trySession(address, token string, network link.Network) error {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	builder := identity()
	l, err := link.Listen(link.ListenConfig{
		Identity: builder, Relays: []string{address}, Network: network,
		Token: func(string) string { return token },
	})
	if err != nil {
		return err
	}
	defer l.Close()
	srv, err := link.NewServer(builder, http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}), nil)
	if err != nil {
		return err
	}
	go srv.ServeTLS(l, "", "")
	defer srv.Close()
	for {
		changed := l.Changed()
		st := l.Status()[0]
		if st.Connected {
			break
		}
		if st.Err != nil {
			return st.Err
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	s, err := link.Dial(ctx, link.Config{Identity: builder, Peer: builder.ID(), Relays: []string{address}, Network: network})
	if err != nil {
		return err
	}
	defer s.Close()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, link.BaseURL, nil)
	if err != nil {
		return err
	}
	resp, err := s.Control().RoundTrip(req)
	if err != nil {
		return err
	}
	_ = resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return errors.New(resp.Status)
	}
	return nil
}

// makecert NAME… writes cert.pem and key.pem.
func cmdMakeCert(ts *testscript.TestScript, neg bool, args []string) {
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	ts.Check(err)
	template := &x509.Certificate{SerialNumber: big.NewInt(1), DNSNames: args, NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &k.PublicKey, k)
	ts.Check(err)
	keyDER, err := x509.MarshalPKCS8PrivateKey(k)
	ts.Check(err)
	write := func(name, typ string, der []byte) {
		ts.Check(os.WriteFile(ts.MkAbs(name), pem.EncodeToMemory(&pem.Block{Type: typ, Bytes: der}), 0o600))
	}
	write("cert.pem", "CERTIFICATE", der)
	write("key.pem", "PRIVATE KEY", keyDER)
}
