package key

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// vectors is testdata/vectors.json: seeds with what must come of them. They
// are frozen: a change breaks every key and ticket that is out there.
type vectors []struct {
	Seed   string // 32 times this byte, hex
	ID     string
	Secret string
	// Message is signed; ed25519 is deterministic (RFC 8032).
	Message   string
	Signature string // hex
}

func loadVectors(t *testing.T) vectors {
	t.Helper()
	data, err := os.ReadFile("testdata/vectors.json")
	if err != nil {
		t.Fatal(err)
	}
	var v vectors
	if err := json.Unmarshal(data, &v); err != nil {
		t.Fatal(err)
	}
	if len(v) == 0 {
		t.Fatal("no vectors")
	}
	return v
}

func secretOf(t testing.TB, b byte) Secret {
	t.Helper()
	s, err := NewSecret(bytes.NewReader(bytes.Repeat([]byte{b}, 32)))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestVectors(t *testing.T) {
	for _, v := range loadVectors(t) {
		var b byte
		if _, err := fmt.Sscanf(v.Seed, "%02x", &b); err != nil {
			t.Fatal(err)
		}
		s := secretOf(t, b)
		if got := s.ID().String(); got != v.ID {
			t.Errorf("seed %s: ID %s, want %s", v.Seed, got, v.ID)
		}
		if got := s.Text(); got != v.Secret {
			t.Errorf("seed %s: secret text %s, want %s", v.Seed, got, v.Secret)
		}
		if got := fmt.Sprintf("%x", s.Sign([]byte(v.Message))); got != v.Signature {
			t.Errorf("seed %s: signature %s, want %s", v.Seed, got, v.Signature)
		}
		back, err := ParseSecret(" " + v.Secret + "\n")
		if err != nil || back.ID() != s.ID() {
			t.Errorf("seed %s: parsed secret gives %v, %v", v.Seed, back, err)
		}
		id, err := ParseID(v.ID)
		if err != nil || !Verify(id, []byte(v.Message), s.Sign([]byte(v.Message))) {
			t.Errorf("seed %s: own signature does not verify: %v", v.Seed, err)
		}
		if Verify(id, []byte(v.Message+"x"), s.Sign([]byte(v.Message))) || Verify(id, nil, nil) {
			t.Errorf("seed %s: a wrong signature verifies", v.Seed)
		}
	}
}

func TestParseIDRefuses(t *testing.T) {
	good := secretOf(t, 1).ID().String()
	for name, text := range map[string]string{
		"empty":         "",
		"short":         good[:51],
		"long":          good + "a",
		"upper case":    strings.ToUpper(good),
		"outside":       "1" + good[1:],
		"non-canonical": good[:51] + "b",
		"line break":    good[:51] + "\n",
	} {
		if id, err := ParseID(text); !errors.Is(err, ErrBadID) {
			t.Errorf("%s: got %v, %v", name, id, err)
		}
	}
}

func TestParseSecretRefuses(t *testing.T) {
	good := secretOf(t, 1).Text()
	for name, text := range map[string]string{
		"empty": "", "ID": secretOf(t, 1).ID().String(), "short": good[:len(good)-8], "long": good + "aaaaaaaa",
		"non-canonical": good[:len(good)-1] + "7", "line break": good[:30] + "\n" + good[30:],
	} {
		if s, err := ParseSecret(text); err == nil {
			t.Errorf("%s: it is that of %s", name, s.ID())
		}
	}
}

func FuzzParseID(f *testing.F) {
	f.Add(secretOf(f, 1).ID().String())
	f.Add("")
	f.Fuzz(func(t *testing.T, text string) {
		id, err := ParseID(text)
		if err == nil && id.String() != text {
			t.Fatalf("%q parses but prints as %q", text, id)
		}
	})
}

func FuzzParseSecret(f *testing.F) {
	f.Add(secretOf(f, 1).Text())
	f.Add(secretPrefix)
	f.Fuzz(func(t *testing.T, text string) {
		s, err := ParseSecret(text)
		if err == nil && s.Text() != strings.TrimSpace(text) {
			t.Fatal("a secret parses but prints differently")
		}
	})
}

func TestSecretNeverPrints(t *testing.T) {
	s := secretOf(t, 7)
	body := strings.TrimPrefix(s.Text(), secretPrefix)
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q"} {
		if out := fmt.Sprintf(verb, s); strings.Contains(out, body) {
			t.Errorf("%s prints the secret", verb)
		}
	}
}

// handshake runs TLS between the two configurations and returns what each side
// saw of the other.
func handshake(t *testing.T, server, client *tls.Config) (atServer, atClient ID, serverErr, clientErr error) {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	b, err := net.Dial("tcp", listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	a, err := listener.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	srv, cli := tls.Server(a, server), tls.Client(b, client)
	done := make(chan error, 1)
	go func() {
		// The byte tells the client that it was accepted: in TLS 1.3 a client's
		// handshake ends before the server has looked at its certificate.
		_, err := srv.Write([]byte{1})
		a.Close()
		done <- err
	}()
	_, clientErr = cli.Read(make([]byte, 1))
	b.Close()
	serverErr = <-done
	if serverErr == nil {
		atServer, serverErr = PeerID(srv.ConnectionState())
	}
	if clientErr == nil {
		atClient, clientErr = PeerID(cli.ConnectionState())
	}
	return atServer, atClient, serverErr, clientErr
}

func TestTLSPinsBothEnds(t *testing.T) {
	builder, client, other := secretOf(t, 1), secretOf(t, 2), secretOf(t, 3)
	server, err := builder.ServerTLS()
	if err != nil {
		t.Fatal(err)
	}
	right, err := client.ClientTLS(builder.ID())
	if err != nil {
		t.Fatal(err)
	}
	atServer, atClient, serverErr, clientErr := handshake(t, server, right)
	if serverErr != nil || clientErr != nil {
		t.Fatalf("handshake: %v, %v", serverErr, clientErr)
	}
	if atServer != client.ID() || atClient != builder.ID() {
		t.Errorf("identities: server saw %s, client saw %s", atServer, atClient)
	}

	wrong, err := client.ClientTLS(other.ID())
	if err != nil {
		t.Fatal(err)
	}
	if _, _, _, err := handshake(t, server, wrong); !errors.Is(err, ErrWrongPeer) {
		t.Errorf("client accepted another builder: %v", err)
	}

	anonymous := right.Clone()
	anonymous.Certificates = nil
	if _, _, err, _ := handshake(t, server, anonymous); err == nil {
		t.Error("server accepted a client without a certificate")
	}
	if _, err := PeerID(tls.ConnectionState{}); err == nil {
		t.Error("nobody has an identity")
	}

	// A key of another kind is no identity.
	signer, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: certSerial, NotBefore: certNotBefore, NotAfter: certNotAfter}
	der, err := x509.CreateCertificate(rand.Reader, template, template, signer.Public(), signer)
	if err != nil {
		t.Fatal(err)
	}
	foreign := right.Clone()
	foreign.Certificates = []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: signer}}
	if _, _, _, err := handshake(t, server, foreign); err == nil {
		t.Error("server accepted another kind of key")
	}

	for name, ends := range map[string]struct{ server, client *tls.Config }{
		"client": {server, right.Clone()}, "server": {server.Clone(), right},
	} {
		old := ends.client
		if name == "server" {
			old = ends.server
		}
		old.MinVersion, old.MaxVersion = tls.VersionTLS12, tls.VersionTLS12
		if _, _, _, err := handshake(t, ends.server, ends.client); err == nil {
			t.Errorf("TLS 1.2 is enough if the %s wants no more", name)
		}
	}
}

// meanwhile does something when it is first read from.
type meanwhile func()

func (m meanwhile) Read(p []byte) (int, error) {
	m()
	return rand.Read(p)
}

// Of two who make a key at once, both have the same.
func TestFileMadeMeanwhile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "secret.key")
	first := secretOf(t, 1)
	got, err := LoadOrCreateFile(path, meanwhile(func() {
		if err := WriteFile(path, []byte(first.Text())); err != nil {
			t.Error(err)
		}
	}))
	if err != nil || got.ID() != first.ID() {
		t.Errorf("%v, %v", got, err)
	}
}

func TestFiles(t *testing.T) {
	path := filepath.Join(t.TempDir(), "secret.key")
	if _, err := LoadFile(path); !errors.Is(err, fs.ErrNotExist) {
		t.Fatalf("missing file: %v", err)
	}
	made, err := LoadOrCreateFile(path, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	again, err := LoadOrCreateFile(path, rand.Reader)
	if err != nil || again.ID() != made.ID() {
		t.Fatalf("second load: %v, %v", again, err)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	if err := WriteFile(path, []byte("x")); !errors.Is(err, fs.ErrExist) {
		t.Errorf("existing key was replaced: %v", err)
	}
	for _, mode := range []fs.FileMode{0o640, 0o604, 0o660, 0o601} {
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
		_, err := LoadFile(path)
		var hint interface{ Hint() string }
		if !errors.Is(err, ErrOpenPermissions) || !errors.As(err, &hint) || hint.Hint() != "chmod 600 "+path {
			t.Errorf("mode %04o: %v", mode, err)
		}
	}
	if err := os.Chmod(path, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, bytes.Repeat([]byte("x"), maxFileSize+1), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := LoadFile(path); err == nil || !strings.Contains(err.Error(), "larger than") {
		t.Errorf("huge file: %v", err)
	}
	entries, err := os.ReadDir(filepath.Dir(path))
	if err != nil || len(entries) != 1 {
		t.Errorf("left behind: %v, %v", entries, err)
	}
}
