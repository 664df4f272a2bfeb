package helper

import (
	"errors"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

func TestParseKeys(t *testing.T) {
	keys, err := parseKeys("# comment\n\n  " + listedKey + "  \r\nother-1:BAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=")
	if err != nil || !slices.Equal(keys, []string{listedKey, "other-1:BAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="}) {
		t.Errorf("%q, %v", keys, err)
	}
	for _, text := range []string{"builder-1", "builder-1:AA==", listedKey + " " + listedKey, listedKey[:20] + "\r" + listedKey[20:], ":AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=", "trusted-public-keys = " + listedKey} {
		if keys, err := parseKeys(text); err == nil {
			t.Errorf("%q gives %q", text, keys)
		}
	}
}

func TestReadKeys(t *testing.T) {
	file := filepath.Join(t.TempDir(), "keys")
	if err := os.WriteFile(file, []byte(listedKey), 0o600); err != nil {
		t.Fatal(err)
	}
	if keys, err := readKeys([]string{file}); err != nil || len(keys) != 1 {
		t.Errorf("%q, %v", keys, err)
	}
	refused := []string{file + ".missing", filepath.Dir(file)}
	bad := func(name string, text string, change func(file string) error) {
		name = filepath.Join(filepath.Dir(file), name)
		err := os.WriteFile(name, []byte(text), 0o600)
		if err == nil {
			err = change(name)
		}
		if err != nil {
			t.Fatal(err)
		}
		refused = append(refused, name)
	}
	bad("group", listedKey, func(file string) error { return os.Chmod(file, 0o620) })
	bad("others", listedKey, func(file string) error { return os.Chmod(file, 0o602) })
	bad("long", listedKey+strings.Repeat("\n", maxKeyFile), func(string) error { return nil })
	if os.Geteuid() == 0 {
		bad("user", listedKey, func(file string) error { return os.Chown(file, 1000, 0) })
	}
	for _, name := range refused {
		if keys, err := readKeys([]string{name}); err == nil {
			t.Errorf("%s gives %q", name, keys)
		}
	}
}

func TestMakeDir(t *testing.T) {
	dir := t.TempDir()
	for range 2 {
		if err := makeDir(dir + "/new"); err != nil {
			t.Error(err)
		}
	}
	if err := os.Symlink("new", dir+"/link"); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(dir+"/file", nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(dir+"/open", 0o755); err != nil {
		t.Fatal(err)
	}
	names := []string{"link", "file", "open", "none/new"}
	if os.Geteuid() == 0 {
		if err := errors.Join(os.Mkdir(dir+"/user", 0o700), os.Chown(dir+"/user", 1000, 0)); err != nil {
			t.Fatal(err)
		}
		names = append(names, "user")
	}
	for _, name := range names {
		if err := makeDir(dir + "/" + name); err == nil {
			t.Errorf("%s was taken", name)
		}
	}
}

// A second helper leaves the imports of the first alone; one that comes after it
// clears what it has left.
func TestTwoHelpers(t *testing.T) {
	dir := t.TempDir()
	keys := filepath.Join(dir, "keys")
	if err := os.WriteFile(keys, []byte(listedKey), 0o600); err != nil {
		t.Fatal(err)
	}
	cfg := Config{KeyFiles: []string{keys}, Dir: filepath.Join(dir, "helper"), Nix: "/bin/true"}
	first, err := NewServer(cfg)
	if err != nil {
		t.Fatal(err)
	}
	at := filepath.Join(cfg.Dir, "import-1", "cache")
	if err := os.MkdirAll(at, 0o700); err != nil {
		t.Fatal(err)
	}
	if second, err := NewServer(cfg); err == nil {
		t.Error("there are two")
		second.Close()
	}
	if _, err := os.Stat(at); err != nil {
		t.Error(err)
	}
	first.Close()
	third, err := NewServer(cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer third.Close()
	if left, err := os.ReadDir(cfg.Dir); err != nil || len(left) > 0 {
		t.Errorf("left: %v, %v", left, err)
	}
}

// acceptor tells when a server waits for connections, and when it has stopped to.
type acceptor struct {
	net.Listener
	accepts chan struct{}
	ended   atomic.Bool
}

func (a *acceptor) Accept() (net.Conn, error) {
	close(a.accepts)
	c, err := a.Listener.Accept()
	a.ended.Store(err != nil)
	return c, err
}

// Nobody is let in while the last import ends, whose directory is then unlocked.
func TestCloseEndsServe(t *testing.T) {
	dir := t.TempDir()
	s, err := NewServer(Config{Dir: filepath.Join(dir, "helper"), Nix: "/bin/true"})
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("unix", filepath.Join(dir, "socket"))
	if err != nil {
		t.Fatal(err)
	}
	a := &acceptor{Listener: l, accepts: make(chan struct{})}
	served := make(chan error, 1)
	go func() { served <- s.Serve(a) }()
	<-a.accepts
	s.Close()
	if !a.ended.Load() {
		t.Error("connections are still taken")
	}
	if err := <-served; err != nil {
		t.Error(err)
	}
}

func TestServerNeedsThePathOfNix(t *testing.T) {
	if _, err := NewServer(Config{Nix: "nix", Dir: t.TempDir() + "/new"}); err == nil {
		t.Error("nix is whatever PATH says")
	}
}

// Every import would fail with another.
func TestServerNeedsAProgram(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "nix")
	if err := os.WriteFile(file, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	for _, named := range []string{file, dir, file + "-none"} {
		if _, err := NewServer(Config{Nix: named, Dir: filepath.Join(dir, "new")}); !errors.Is(err, ErrNoNix) {
			t.Errorf("%s: %v", named, err)
		}
	}
	if got, err := findNix("", "/nowhere:"+dir); !errors.Is(err, ErrNoNix) {
		t.Errorf("%s, %v", got, err)
	}
	if err := os.Chmod(file, 0o755); err != nil {
		t.Fatal(err)
	}
	if got, err := findNix("", "/nowhere:"+dir); err != nil || got != file {
		t.Errorf("%s, %v", got, err)
	}
}

// One user's share is not another's, and there is an end to all together.
func TestTake(t *testing.T) {
	s, counts := &Server{}, make(map[uint32]int)
	var release []func()
	for i, c := range []struct {
		uid  uint32
		want bool
	}{{1, true}, {1, true}, {1, false}, {2, true}, {3, false}} {
		done := s.take(counts, c.uid, 3, 2)
		if (done != nil) != c.want {
			t.Errorf("%d: user %d is let in: %t", i, c.uid, done != nil)
		}
		if done != nil {
			release = append(release, done)
		}
	}
	for _, done := range release {
		done()
	}
	if len(counts) > 0 {
		t.Errorf("%v are still counted", counts)
	}
}

// Whatever a user sends, the command line has the options first and the paths
// behind "--".
func TestArgs(t *testing.T) {
	c := &copier{key: listedKey, from: "file:///run/x", stall: 90 * time.Second}
	args := c.args([]string{goodPath})
	text := strings.Join(args, "|")
	for _, want := range []string{
		"--option|require-sigs|true", "--option|trusted-public-keys|" + listedKey, "--option|secret-key-files||", "--option|substituters||",
		"--option|trusted-substituters||", "--option|builders||", "--option|post-build-hook||",
		"--option|netrc-file|/dev/null", "--option|narinfo-cache-positive-ttl|60", "copy|--no-recursive|--from|file:///run/x|--to|daemon|--|" + goodPath,
	} {
		if !strings.Contains(text, want) {
			t.Errorf("%q is not in %s", want, text)
		}
	}
	if strings.Count(text, "trusted-public-keys") != 1 {
		t.Error(text)
	}
	for _, kv := range c.env() {
		name, _, _ := strings.Cut(kv, "=")
		if !slices.Contains([]string{"PATH", "HOME", "TMPDIR", "LANG", "NO_COLOR", "NIX_REMOTE", "NIX_USER_CONF_FILES"}, name) {
			t.Errorf("%s is handed on", kv)
		}
	}
}

func TestTail(t *testing.T) {
	const said = "@nix {\"action\":\"start\",\"id\":7,\"type\":103,\"fields\":[]}\n" +
		"@nix {\"action\":\"result\",\"id\":7,\"type\":105,\"fields\":[5,10,0,0]}\n" +
		"@nix {\"action\":\"result\",\"id\":8,\"type\":105,\"fields\":[99,100,0,0]}\n" +
		"@nix {\"action\":\"msg\",\"level\":3,\"msg\":\"copying\"}\n" +
		"@nix {\"action\":\"msg\",\"level\":0,\"msg\":\"error: no\"}\n" +
		"@nix broken\nplain\n"
	var tl tail
	var done, expected uint64
	signs := 0
	tl.read(strings.NewReader(said+strings.Repeat("x", 3*maxLine)+"\nend"), func(d, e uint64) { done, expected, signs = d, e, signs+1 })
	if text := tl.text(); !strings.HasSuffix(text, "\nend") || len(text) > MaxText {
		t.Errorf("%q", text[max(0, len(text)-100):])
	}
	if done != 5 || expected != 10 || signs != 9 {
		t.Errorf("%d of %d, %d signs of life", done, expected, signs)
	}
	tl = tail{}
	tl.read(strings.NewReader(said), func(uint64, uint64) {})
	if text := tl.text(); text != "error: no\nplain" {
		t.Errorf("%q", text)
	}
}

func FuzzTail(f *testing.F) {
	f.Add("@nix {\"action\":\"result\",\"id\":7,\"type\":105,\"fields\":[5,10,0,0]}\n")
	f.Fuzz(func(t *testing.T, said string) {
		var tl tail
		tl.read(strings.NewReader(said), func(uint64, uint64) {})
		if len(tl.text()) > MaxText {
			t.Error("too much is kept")
		}
	})
}

func TestListensThere(t *testing.T) {
	const table = `  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000  1000        0 1 1
   1: 0100007F:1F91 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 2 1
   2: 0100007F:1F92 0100007F:1F90 01 00000000:00000000 00:00000000 00000000  1000        0 3 1
   3: 00000000:1F93 00000000:0000 0A 00000000:00000000 00:00000000 00000000  1000        0 4 1
broken
`
	for at, ok := range map[string]bool{
		"127.0.0.1:8080": true, "127.0.0.1:8081": false, "127.0.0.1:8082": false, "127.0.0.1:8083": false, "127.0.0.1:8084": false, "[::1]:8080": false,
	} {
		if err := listensThere(table, netip.MustParseAddrPort(at), 1000); (err == nil) != ok {
			t.Errorf("%s: %v", at, err)
		}
	}
	const six = `   0: 00000000000000000000000001000000:1F90 00000000000000000000000000000000:0000 0A 00000000:00000000 00:00000000 00000000  1000        0 1 1
`
	if err := listensThere(six, netip.MustParseAddrPort("[::1]:8080"), 1000); err != nil {
		t.Error(err)
	}
}

// FuzzListensThere: two users never listen at one address.
func FuzzListensThere(f *testing.F) {
	f.Add("0: 0100007F:1F90 0:0 0A 0 0 0 1000", uint32(1000))
	f.Add("0: 0100007F:1F90 0:0 0A 0 0 0 1000\n1: 0100007F:1F90 0:0 0A 0 0 0 0\n", uint32(0))
	f.Add("0: 0100007f:1f90 0:0 0A 0 0 0 01000\n1: 0100007F:1F91 0:0 0A 0 0 0 0\n", uint32(1000))
	f.Fuzz(func(t *testing.T, table string, uid uint32) {
		at := netip.MustParseAddrPort("127.0.0.1:8080")
		if listensThere(table, at, uid) == nil && listensThere(table, at, uid+1) == nil {
			t.Errorf("both %d and the next listen", uid)
		}
	})
}
