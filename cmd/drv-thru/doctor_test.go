package main

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/drv-thru/drv-thru/core/client"
	"github.com/drv-thru/drv-thru/core/link"
	"github.com/drv-thru/drv-thru/core/ticket"
	"github.com/drv-thru/drv-thru/core/wire"
	"github.com/drv-thru/drv-thru/relay"
)

func TestFlaws(t *testing.T) {
	for version, want := range map[string]int{
		"2.8.0": 1, "2.18.1": 1, "2.18.2": 0, "2.19.3": 1, "2.19.4": 0, "2.20.4": 1, "2.24.5": 1, "2.24.6": 0, "2.24.0pre1": 1,
		"2.26.3": 0, "2.34.8": 0, "2.25pre20240910": 0, "3.0": 0,
	} {
		if got := flawsOf(version); len(got) != want {
			t.Errorf("%s: %v", version, got)
		}
	}
}

func TestDoctorOutput(t *testing.T) {
	var out bytes.Buffer
	e := &examination{app: &app{stdout: &out}, flags: &doctorFlags{}}
	e.add("nix", fine, "", "Nix %s", "2.34.8")
	e.add("relay", broken, "turn it on", "off\x1b[31m")
	if err := e.print(); err != nil {
		t.Fatal(err)
	}
	const want = "ok      nix            Nix 2.34.8\nbroken  relay          off\x1b[31m\x1b[0m\n                       → turn it on\n"
	if got := out.String(); got != want {
		t.Errorf("got\n%s", got)
	}
	out.Reset()
	e.flags.json = true
	if err := e.print(); err != nil {
		t.Fatal(err)
	}
	var doc struct {
		OK       bool
		Findings []finding
	}
	if err := json.Unmarshal(out.Bytes(), &doc); err != nil || doc.OK || len(doc.Findings) != 2 || doc.Findings[1].Fix != "turn it on" {
		t.Errorf("got %s, %v", out.String(), err)
	}
}

// A doctor that finds nothing to work with says so and ends with 1.
func TestDoctorWithoutNix(t *testing.T) {
	var out, errs bytes.Buffer
	a := &app{stdin: strings.NewReader(""), stdout: &out, stderr: &errs, environ: []string{"NIX_DAEMON_SOCKET_PATH=/nonexistent/socket", "PATH=/nonexistent"}}
	e := &examination{app: a, flags: &doctorFlags{}}
	e.nix(context.Background())
	if len(e.findings) != 1 || e.findings[0].Verdict != broken || e.findings[0].Fix == "" {
		t.Errorf("found %+v", e.findings)
	}
}

// The daemon may be well and the command be missing, fail, or have another store.
func TestDoctorNixCommand(t *testing.T) {
	for script, want := range map[string]string{
		"": "executable file not found",
		"echo 'error: syntax error in configuration line' >&2; exit 1": "syntax error in configuration line",
		"echo store = daemon":                       "",
		"echo 'store = unix:///run/nix?priority=1'": "",
		"echo 'store = local://?state=/var/nix'":    "",
		"echo 'store = local?root=/mnt'":            "local?root=/mnt",
		"echo 'store = local:///mnt'":               "local:///mnt",
		"echo store = ssh-ng://elsewhere":           "ssh-ng://elsewhere",
	} {
		dir := t.TempDir()
		t.Setenv("PATH", dir)
		if script != "" {
			if err := os.WriteFile(filepath.Join(dir, "nix"), []byte("#!/bin/sh\n"+script+"\n"), 0o700); err != nil {
				t.Fatal(err)
			}
		}
		e := &examination{app: &app{environ: os.Environ()}}
		e.nixCommand(t.Context())
		switch {
		case want == "" && len(e.findings) > 0:
			t.Errorf("%q: found %+v", script, e.findings)
		case want != "" && (len(e.findings) != 1 || e.findings[0].Verdict != broken || e.findings[0].Fix == "" || !strings.Contains(e.findings[0].Text, want)):
			t.Errorf("%q: found %+v, want %q", script, e.findings, want)
		}
	}
}

// A proxy that the environment names is not one that relays are reached through: nothing
// heeds ALL_PROXY.
func TestDoctorProxy(t *testing.T) {
	for env, want := range map[string]string{
		"all_proxy=socks5://proxy:1080": "ALL_PROXY set, but no relay is reached through it",
		"NO_PROXY=example.org":          "",
	} {
		e := &examination{app: &app{environ: []string{env}}, flags: &doctorFlags{}, route: &route{relays: []string{"https://127.0.0.1:7411"}}}
		e.proxies()
		got := ""
		for _, f := range e.findings {
			got += f.Text
		}
		if got != want {
			t.Errorf("%s: found %+v", env, e.findings)
		}
	}
}

// One server, such as that of the only relay, does not tell what translates addresses.
func TestDoctorOneSTUNServer(t *testing.T) {
	t.Parallel() // it waits for a router that does not answer
	packets, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer packets.Close()
	go func() { _ = relay.New(relay.Config{}).ServeSTUN(packets.(*net.UDPConn)) }()
	e := &examination{flags: &doctorFlags{}, stun: []string{packets.LocalAddr().String()}}
	e.network(t.Context())
	if f := e.findings[0]; f.Verdict != known || !strings.HasPrefix(f.Text, "not known: ") {
		t.Errorf("found %+v", f)
	}
}

// What the command line names is looked at whoever the builder is.
func TestDoctorRelays(t *testing.T) {
	a, b := "https://a.example", "https://b.example"
	for name, c := range map[string]struct {
		route *route
		want  []string
	}{
		"nobody":           {nil, []string{b}},
		"a named builder":  {&route{relays: []string{a}}, []string{a, b}},
		"a ticket, with b": {&route{relays: []string{a, b}}, []string{a, b}},
	} {
		e := &examination{route: c.route, flags: &doctorFlags{routeFlags: routeFlags{relays: []string{b}}}}
		if got := e.relayURLs(); !slices.Equal(got, c.want) {
			t.Errorf("%s: %q", name, got)
		}
	}
}

// A ticket expires by its builder's clock, also for who is told no more than that.
func TestDoctorBuildersClock(t *testing.T) {
	for ahead, want := range map[time.Duration]finding{
		time.Minute: {"clock", fine, "agrees with the builder's", ""},
		-time.Hour:  {"clock", broken, "this machine's clock differs from the builder's by 1h0m0s", "set the clock that is wrong: timedatectl set-ntp true"},
	} {
		reader := &clockReader{RoundTripper: dated(func(*http.Request) *http.Response {
			return &http.Response{StatusCode: http.StatusUnauthorized, Body: http.NoBody, Header: http.Header{"Date": {time.Now().Add(ahead).UTC().Format(http.TimeFormat)}}}
		})}
		if _, err := (&client.API{Control: reader, Base: "https://builder/"}).Info(t.Context(), ""); err == nil || !reader.known {
			t.Fatalf("%v, known: %t", err, reader.known)
		}
		e := &examination{}
		e.clock("builder", reader.skew.Round(time.Minute))
		if !slices.Equal(e.findings, []finding{want}) {
			t.Errorf("found %+v, want %+v", e.findings, want)
		}
	}
}

type dated func(*http.Request) *http.Response

func (d dated) RoundTrip(req *http.Request) (*http.Response, error) { return d(req), nil }

// saying is a Unix socket at which everybody is told the same.
func saying(t *testing.T, name string, text []byte) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				_, _ = c.Write(text)
				_, _ = io.Copy(io.Discard, c)
			}()
		}
	}()
	return path
}

// What the import helper takes is not broken because Nix would not take it.
func TestDoctorSigningKeyOfHelper(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root can be the helper")
	}
	bin := t.TempDir()
	if err := os.WriteFile(filepath.Join(bin, "nix"), []byte("#!/bin/sh\necho require-sigs = true\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", bin+":"+os.Getenv("PATH"))
	// A daemon of protocol 1.35 that does not trust the user (core/nix/daemon).
	var greeting []byte
	for _, n := range []uint64{0x6478696f, 0x123, 0, 2, 0x616c7473} { // the version's text is empty
		greeting = binary.LittleEndian.AppendUint64(greeting, n)
	}
	const accepted = `{"type":"accepted"}`
	a := &app{environ: []string{
		"NIX_DAEMON_SOCKET_PATH=" + saying(t, "daemon", greeting),
		importHelperEnv + "=" + saying(t, "helper", append([]byte{0, 0, 0, byte(len(accepted))}, accepted...)),
		"PATH=" + os.Getenv("PATH"),
	}}
	e := &examination{app: a, flags: &doctorFlags{}}
	e.signingKey(t.Context(), "builder-1:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=")
	if len(e.findings) != 1 || e.findings[0].Verdict != fine || !strings.Contains(e.findings[0].Text, "by the import helper") {
		t.Errorf("found %+v", e.findings)
	}
}

// Root of a container opens /dev/fuse, and may not mount.
func TestDoctorFuseInContainer(t *testing.T) {
	const inside = "DRV_THRU_TEST_CONTAINED"
	if os.Getenv(inside) != "" {
		e := &examination{}
		e.fuse()
		if f := e.findings[0]; f.Verdict != slow || f.Fix == "" {
			t.Errorf("found %+v", f)
		}
		return
	}
	setpriv, err := exec.LookPath("setpriv")
	if err != nil || os.Geteuid() != 0 {
		t.Skip("it takes root and setpriv to be root without capabilities")
	}
	cmd := exec.Command(setpriv, "--bounding-set", "-sys_admin", os.Args[0], "-test.run=^TestDoctorFuseInContainer$")
	cmd.Env = append(os.Environ(), inside+"=1")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}

// That no router translates an address is no word on firewalls.
func TestNATTextPromisesNothing(t *testing.T) {
	if text := natText(wire.NATNone); strings.Contains(text, "reachable") || !strings.Contains(text, "firewall") {
		t.Errorf("%q", text)
	}
}

// Whoever is refused is told what to do about that, and not that builds work by the relay.
func TestDoctorOfTheRefused(t *testing.T) {
	e, identity := embedRelay(t), newSecret(t)
	circuits := listenAt(t, e, identity, (&reloader{embedded: e}).token)
	codes := make(chan wire.Code, 1)
	srv, err := link.NewServer(identity, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		code := <-codes
		codes <- code
		wire.WriteError(w, &wire.Error{Code: code})
	}), nil)
	if err != nil {
		t.Fatal(err)
	}
	go srv.ServeTLS(circuits, "", "")
	defer srv.Close()
	if err := circuits.Registered(t.Context()); err != nil {
		t.Fatal(err)
	}
	for code, check := range map[wire.Code]string{
		wire.CodeTicketUnknown: "ticket", wire.CodeTicketRevoked: "ticket", wire.CodeTicketExpired: "ticket", wire.CodeTicketUsed: "ticket",
		wire.CodeTicketBound: "ticket", wire.CodeInternal: "builder",
	} {
		codes <- code
		x := &examination{route: &route{builder: identity.ID(), relays: e.urls(), identity: newSecret(t), ticket: new(ticket.Secret)}}
		x.builder(t.Context())
		<-codes
		if len(x.findings) != 2 || x.findings[0].Check != "clock" || x.findings[0].Verdict != fine {
			t.Fatalf("%s: %+v", code, x.findings)
		}
		if f := x.findings[1]; f.Check != check || f.Verdict != broken || check == "ticket" && f.Fix == "" {
			t.Errorf("%s: %+v", code, f)
		}
	}
}
