//go:build e2e

package e2e

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/drv-thru/drv-thru/core/nix"
	"github.com/drv-thru/drv-thru/e2e/lab"
	"github.com/drv-thru/drv-thru/fusecache/helper"
)

// A signedPath is a store path that nobody has built, with its narinfo.
type signedPath struct {
	path    string
	hash    string // of the path
	narHash string
	nar     []byte
	info    nix.PathInfo
}

// newSignedPath makes a path with a file in it, signed by the keys.
func newSignedPath(t *testing.T, k int, contents string, keys ...nix.SecretKey) signedPath {
	t.Helper()
	p, err := nix.ParsePath(fmt.Sprintf("/nix/store/%032d-planted", k))
	if err != nil {
		t.Fatal(err)
	}
	nar := fileNar(contents)
	info := nix.PathInfo{Path: p, NarHash: nix.SumHash(nar), NarSize: uint64(len(nar))}
	for _, key := range keys {
		info.Sigs = append(info.Sigs, info.Sign(key))
	}
	return signedPath{string(p), p.Hash(), info.NarHash.Nix32(), nar, info}
}

func (p signedPath) text() string { return string(p.info.MarshalNarInfo()) }

// What a user could try on the import helper. Each is refused or fails, is logged
// with the user's ID, and leaves nothing.
func TestImportHelperAbuse(t *testing.T) {
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	lab.Programs(t)
	h := lab.NewHost(t, lab.Trixie, lab.WithBind(filepath.Dir(exe), "/opt/test"))
	listed, trusted, namesake := newSigningKey(t, "listed-1"), newSigningKey(t, "trusted-1"), newSigningKey(t, "listed-1")
	key := listed.ToPublicKey().String()
	// The daemon trusts a key that is not on the helper's list.
	h.StartDaemon("trusted-public-keys = " + trusted.ToPublicKey().String())
	p := startHelper(t, h, key+"\n", "--request-timeout", "3s", "--ready-timeout", "3s", "--stall-timeout", "6s",
		"--max-imports-per-user", "2")
	h.WriteSecret(lab.RootUser, "/root/secret", "StorePath: top secret\n")
	before := h.Paths()

	run := func(c abuseConfig) *lab.Process {
		text, err := json.Marshal(c)
		if err != nil {
			t.Fatal(err)
		}
		return h.StartCmd(h.Command(lab.Alice, "/opt/test/"+filepath.Base(exe)).AddEnv(helperEnv + "=" + string(text)))
	}
	logged := 0
	// try wants an answer, and something in the helper's log that is new.
	try := func(name string, c abuseConfig, answer, log string) {
		t.Helper()
		abuser := run(c)
		if answer != "" {
			abuser.WaitFor(answer, longest)
		}
		re := regexp.MustCompile(`(?m)^.*level=WARN msg=` + log)
		within(t, longest, name+" is logged", func() bool { return re.MatchString(p.Output()[logged:]) })
		if err := abuser.Wait(longest); err != nil && lab.ExitCode(err) > 0 {
			t.Errorf("%s: %v: %s", name, err, abuser.Output())
		}
		logged = len(p.Output())
	}
	importing := func(paths ...string) *helper.Request {
		return &helper.Request{Version: helper.Version, Op: helper.OpImport, Key: key, Paths: paths}
	}
	good := newSignedPath(t, 1, "good", listed)

	t.Run("requests", func(t *testing.T) {
		refused := func(name, code string, change func(*helper.Request)) {
			t.Helper()
			req := importing(good.path)
			change(req)
			try(name, abuseConfig{Request: req}, "^refused "+code, "refused uid=1000 .*code="+code)
		}
		for name, other := range map[string]string{
			"another key":            trusted.ToPublicKey().String(),
			"right name other bytes": namesake.ToPublicKey().String(),
			"two keys":               key + " " + trusted.ToPublicKey().String(),
		} {
			refused(name, "key", func(r *helper.Request) { r.Key = other })
		}
		for _, url := range []string{
			"http://127.0.0.1:" + fmt.Sprint(h.FreePort()), // nobody listens there
			"http://127.0.0.1:80?trusted=true", "http://localhost:80", "http://example.org", "file:///tmp/cache", "ssh-ng://root@localhost", "--help",
		} {
			refused(url, "url", func(r *helper.Request) { r.URL = url })
		}
		for _, path := range []string{
			"--option", good.path + " --no-check-sigs", good.path + "^out", "/nix/store/../../etc/passwd", "nixpkgs#hello", good.path + ".drv", "file://" + good.path,
		} {
			refused(path, "path", func(r *helper.Request) { r.Paths = []string{good.path, path} })
		}
		try("8,193 paths", abuseConfig{Request: importing(good.path), Repeat: helper.MaxPaths + 1}, "^refused paths", "refused uid=1000 .*code=paths")
		refused("no paths", "paths", func(r *helper.Request) { r.Paths = nil })
		refused("another version", "version", func(r *helper.Request) { r.Version = 2 })
		refused("another operation", "request", func(r *helper.Request) { r.Op = "build" })
		for name, raw := range map[string][]byte{
			"option":  helperFrame(map[string]any{"version": 1, "op": "import", "key": key, "paths": []string{good.path}, "options": []string{"--no-check-sigs"}}),
			"two":     append(binary.BigEndian.AppendUint32(nil, 4), "{}{}"...),
			"no JSON": append(binary.BigEndian.AppendUint32(nil, 4), "nope"...),
			"endless": {0xff, 0xff, 0xff, 0xff},
		} {
			try(name, abuseConfig{Raw: raw}, "^refused request", "refused uid=1000 .*code=request")
		}
		try("silence", abuseConfig{Silent: true}, "^refused request", "refused uid=1000 .*code=request")
	})

	t.Run("clients that leave or fall silent", func(t *testing.T) {
		infos := map[string][]string{good.hash: {good.text()}}
		for _, at := range []string{"device", "ready", "read"} {
			try("leaves at "+at, abuseConfig{Request: importing(good.path), LeaveAt: at, NarInfos: infos}, "", `(refused uid=1000 .*code=client|"import failed" uid=1000)`)
		}
		try("deaf at device", abuseConfig{Request: importing(good.path), Deaf: "device"}, "^(?s).*refused client", "refused uid=1000 .*code=client")
		// Two that hang are as many as one user may have, and both are cut off.
		ready := run(abuseConfig{Request: importing(good.path), Deaf: "ready"})
		ready.WaitFor("device", longest)
		read := run(abuseConfig{Request: importing(good.path), Deaf: "read", NarInfos: infos})
		read.WaitFor("asked", longest)
		busy := run(abuseConfig{Request: importing(good.path)})
		busy.WaitFor("(?m)^(refused busy|failed)", longest)
		for _, q := range []*lab.Process{ready, read} {
			q.WaitFor("(?m)^failed .*for too long", longest)
		}
		for _, q := range []*lab.Process{ready, read, busy} {
			if err := q.Wait(longest); err != nil {
				t.Error(err)
			}
		}
		eventually(t, "both are logged", func() bool {
			return len(regexp.MustCompile(`"import failed" uid=1000 .*for too long`).FindAllString(p.Output()[logged:], -1)) == 2
		})
		logged = len(p.Output())
	})

	t.Run("mounts that lie", func(t *testing.T) {
		lies := func(name string, path signedPath, infos []string, nars [][]byte) {
			t.Helper()
			try(name, abuseConfig{
				Request: importing(path.path), NarInfos: map[string][]string{path.hash: infos}, Nars: map[string][][]byte{path.narHash: nars},
			}, "(?m)^failed ", `"import failed" uid=1000`)
		}
		bad := func(k int) signedPath { return newSignedPath(t, k, "evil") }
		unsigned := bad(2)
		lies("unsigned", unsigned, []string{unsigned.text()}, [][]byte{unsigned.nar})
		other := newSignedPath(t, 3, "evil", trusted)
		lies("signed by a key that only the daemon trusts", other, []string{other.text()}, [][]byte{other.nar})
		forged := newSignedPath(t, 4, "evil", namesake)
		lies("signed by a key of the same name", forged, []string{forged.text()}, [][]byte{forged.nar})
		// The first answers are right, those that count are not.
		honest, swapped := newSignedPath(t, 5, "good", listed), bad(5)
		lies("another narinfo the second time", honest, []string{honest.text(), swapped.text()}, [][]byte{swapped.nar})
		evil := slices.Clone(honest.nar)
		copy(evil[bytes.Index(evil, []byte("good")):], "evil")
		lies("another NAR", honest, []string{honest.text()}, [][]byte{evil})
		lies("half a NAR", honest, []string{honest.text()}, [][]byte{honest.nar[:len(honest.nar)/2]})
		// A symbolic link leads nowhere, least of all to what root may read.
		try("links", abuseConfig{Request: importing(good.path), Link: "/root/secret", NarInfos: map[string][]string{good.hash: nil}}, "(?m)^failed ", `"import failed" uid=1000`)
		saysNot(t, p.Output(), "top secret")
		// Nor does the name of a NAR, which no signature covers.
		outside := newSignedPath(t, 6, "outside", listed)
		h.WriteSecret(lab.RootUser, "/root/"+outside.narHash+".nar", string(outside.nar))
		for _, to := range []string{"../../../../root/", "nar/../../../../../root/", "/root/", "file:///root/"} {
			text := strings.Replace(outside.text(), "URL: nar/", "URL: "+to, 1)
			try("a NAR in "+to, abuseConfig{Request: importing(outside.path), Plain: true, NarInfos: map[string][]string{outside.hash: {text}}},
				"(?m)^failed ", `"import failed" uid=1000`)
			try("a NAR in "+to+" over HTTP", abuseConfig{Request: importing(outside.path), HTTP: true, NarInfos: map[string][]string{outside.hash: {text}}},
				"(?m)^failed ", `"import failed" uid=1000`)
		}
	})

	if after := h.Paths(); !slices.Equal(after, before) {
		t.Errorf("the store has %q", after)
	}
	// It still does what it is for.
	fine := run(abuseConfig{Request: importing(good.path), NarInfos: map[string][]string{good.hash: {good.text()}}, Nars: map[string][][]byte{good.narHash: {good.nar}}})
	fine.WaitFor("(?m)^done", longest)
	if !h.Has(good.path) {
		t.Error("the good path was not imported")
	}
	h.Delete(good.path)
	stopHelper(t, h, p)
	if mounts := h.FuseMounts(); len(mounts) > 0 {
		t.Errorf("still mounted: %v", mounts)
	}
	whole(t, h, newSignedPath(t, 5, "good").path)

	t.Run("places", func(t *testing.T) {
		serve := func(args ...string) *lab.Cmd {
			return h.Command(lab.RootUser, append([]string{"drv-thru", "import-helper", "serve", "--trusted-public-key-file", helperKeys}, args...)...)
		}
		h.Shell(lab.RootUser, "ln -s /tmp/x "+helperSocket)
		says(t, fails(t, serve(), 1), "something else than a socket")
		h.Shell(lab.RootUser, "rm "+helperSocket+" && rmdir /run/drv-thru-import-helper && ln -s /tmp /run/drv-thru-import-helper")
		says(t, fails(t, serve(), 1), "is no directory")
		h.Shell(lab.RootUser, "rm /run/drv-thru-import-helper && mkdir -m 755 /run/drv-thru-import-helper")
		says(t, fails(t, serve(), 1), "is open to others")
		h.Shell(lab.RootUser, "rmdir /run/drv-thru-import-helper")
		says(t, fails(t, serve("--socket", "/tmp/helper.socket"), 1), "others than root can write")
		h.Shell(lab.RootUser, "chmod 666 "+helperKeys)
		says(t, fails(t, serve(), 1), "others can write")
	})
}
