package helper

import (
	"bytes"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/drv-thru/drv-thru/core/nix"
)

// Of a cache over HTTP, nix gets the narinfos of the paths that were asked for, as
// the helper writes them, and NARs by their hashes. It is led nowhere else.
func TestProxy(t *testing.T) {
	path, err := nix.ParsePath(goodPath)
	if err != nil {
		t.Fatal(err)
	}
	nar := bytes.Repeat([]byte("nar"), 100_000)
	info := nix.PathInfo{Path: path, NarHash: nix.SumHash(nar), NarSize: uint64(len(nar))}
	good, moved, cut := string(info.MarshalNarInfo()), nix.NarURL(nix.SumHash([]byte("moved"))), nix.NarURL(nix.SumHash([]byte("cut")))
	other := strings.Replace(goodPath, "000-hello", "001-other", 1)
	narInfo := "/" + path.Hash() + ".narinfo"
	var served string // the narinfo
	client := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case narInfo:
			io.WriteString(w, served)
		case "/" + nix.NarURL(info.NarHash):
			w.Write(nar)
		case "/" + moved:
			http.Redirect(w, r, "/"+nix.NarURL(info.NarHash), http.StatusFound)
		case "/" + cut:
			w.Write(nar)
			panic(http.ErrAbortHandler)
		default:
			t.Errorf("asked for %s", r.URL.Path)
			http.NotFound(w, r)
		}
	}))
	defer client.Close()
	p, err := startProxy(client.URL, []string{goodPath, other})
	if err != nil {
		t.Fatal(err)
	}
	defer p.close()
	get := func(url string) (int, string, error) {
		t.Helper()
		resp, err := http.Get(url)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		text, err := io.ReadAll(resp.Body)
		return resp.StatusCode, string(text), err
	}
	for text, want := range map[string]int{
		good: http.StatusOK,
		strings.Replace(good, "URL: nar/", "URL: file:///root/", 1):            http.StatusBadGateway,
		strings.Replace(good, "URL: nar/", "URL: http://169.254.169.254/", 1):  http.StatusBadGateway,
		strings.Replace(good, "URL: nar/", "URL: ../", 1):                      http.StatusBadGateway,
		strings.Replace(good, "-hello", "-other", 1):                           http.StatusBadGateway,
		strings.Replace(good, "Compression: none", "Compression: \nURL: x", 1): http.StatusBadGateway,
	} {
		served = text
		if code, got, err := get(p.url + narInfo); code != want || err != nil || code == http.StatusOK && got != good {
			t.Errorf("%q: %d, %q, %v", text, code, got, err)
		}
	}
	if code, got, err := get(p.url + "/" + nix.NarURL(info.NarHash)); code != http.StatusOK || got != string(nar) || err != nil {
		t.Errorf("the NAR: %d, %d bytes, %v", code, len(got), err)
	}
	if code, got, err := get(p.url + "/nix-cache-info"); code != http.StatusOK || got != "StoreDir: /nix/store\n" || err != nil {
		t.Errorf("%d, %q, %v", code, got, err)
	}
	if _, got, err := get(p.url + "/" + cut); err == nil {
		t.Errorf("a NAR that was cut off looks complete, with %d bytes", len(got))
	}
	for _, name := range []string{"/" + moved, "/" + strings.Repeat("1", 32) + ".narinfo", "/nar/x.nar", "/nar/" + info.NarHash.Hex() + ".nar", "/nar/" + info.NarHash.Nix32(), "/nar/" + path.Hash() + ".nar", "/log/x", "/"} {
		if code, _, err := get(p.url + name); code != http.StatusNotFound || err != nil {
			t.Errorf("%s: %d, %v", name, code, err)
		}
	}
	if code, _, _ := get(strings.TrimSuffix(p.url, p.url[len(p.url)-4:]) + "/nix-cache-info"); code != http.StatusNotFound {
		t.Errorf("without the whole path: %d", code)
	}
}
