package nix_test

import (
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/drv-thru/drv-thru/core/nix"
)

const h32 = "00bgd045z0d4icpbc2yyz4gx48ak44la"

func TestParsePath(t *testing.T) {
	long := strings.Repeat("n", nix.MaxNameLen)
	for _, good := range []string{
		"/nix/store/" + h32 + "-net-tools-1.60_p20170221182432",
		"/nix/store/" + h32 + "-a",
		"/nix/store/" + h32 + "-.hidden",
		"/nix/store/" + h32 + "-..x",
		"/nix/store/" + h32 + "-+-._?=azAZ09",
		"/nix/store/" + h32 + "-" + long,
	} {
		p, err := nix.ParsePath(good)
		if err != nil || p.String() != good || p.Hash() != h32 || "/nix/store/"+h32+"-"+p.Name() != good {
			t.Errorf("%s: %q, %v", good, p, err)
		}
		if q, err := nix.ParseBase(p.Base()); err != nil || q != p {
			t.Errorf("base of %s: %q, %v", good, q, err)
		}
	}
	for _, bad := range []string{
		"", "/", "/nix/store", "/nix/store/", "nix/store/" + h32 + "-a", h32 + "-a",
		"/nix/store/" + h32, "/nix/store/" + h32 + "-", "/nix/store/" + h32 + "_a", "/nix/store/" + h32 + "xa",
		"/nix/store/" + h32 + "-a/b", "/nix/store/" + h32 + "-a/", "/nix/store//" + h32 + "-a", "/nix/store/../store/" + h32 + "-a",
		"/gnu/store/" + h32 + "-a", "/nix/stor3/" + h32 + "-a", "/nix/store-" + h32 + "-a",
		"/nix/store/" + strings.Replace(h32, "b", "e", 1) + "-a", "/nix/store/" + strings.ToUpper(h32) + "-a",
		"/nix/store/" + h32[1:] + "-ab",
		"/nix/store/" + h32 + "-.", "/nix/store/" + h32 + "-..", "/nix/store/" + h32 + "-.-x", "/nix/store/" + h32 + "-..-x",
		"/nix/store/" + h32 + "-a b", "/nix/store/" + h32 + "-a\n", "/nix/store/" + h32 + "-a\x00", "/nix/store/" + h32 + "-é",
		"/nix/store/" + h32 + "-" + long + "n",
	} {
		if p, err := nix.ParsePath(bad); !errors.Is(err, nix.ErrBadPath) || p != "" {
			t.Errorf("%q: %q, %v", bad, p, err)
		}
	}
}

func TestPathJSON(t *testing.T) {
	var v struct{ P nix.Path }
	if err := json.Unmarshal([]byte(`{"P":"/nix/store/`+h32+`-x.drv"}`), &v); err != nil || !v.P.IsDrv() {
		t.Error(v, err)
	}
	var m map[nix.Path]int
	if err := json.Unmarshal([]byte(`{"/nix/store/`+h32+`-x":1}`), &m); err != nil || len(m) != 1 {
		t.Error(m, err)
	}
	for _, bad := range []string{`{"P":""}`, `{"P":"x"}`, `{"P":"/nix/store/` + h32 + `-x/.."}`} {
		if err := json.Unmarshal([]byte(bad), &v); !errors.Is(err, nix.ErrBadPath) {
			t.Errorf("%s: %v", bad, err)
		}
	}
	if err := json.Unmarshal([]byte(`{"../x":1}`), &m); !errors.Is(err, nix.ErrBadPath) {
		t.Errorf("map key: %v", err)
	}
}

func TestSortedPaths(t *testing.T) {
	in := []nix.Path{"c", "a", "b", "a"}
	if got := nix.SortedPaths(in); !slices.Equal(got, []nix.Path{"a", "b", "c"}) || in[0] != "c" {
		t.Error(got, in)
	}
}

func TestParseHash(t *testing.T) {
	want := nix.SumHash([]byte("hello"))
	for _, text := range []string{want.String(), "sha256:" + want.Hex(), "sha256:" + strings.ToUpper(want.Hex()), want.SRI(),
		"sha256:" + strings.TrimPrefix(want.SRI(), "sha256-")} {
		if got, err := nix.ParseHash(text); err != nil || got != want {
			t.Errorf("%s: %v, %v", text, got, err)
		}
	}
	if got, err := nix.ParseHashHex(want.Hex()); err != nil || got != want {
		t.Error(got, err)
	}
	n := want.Nix32()
	for _, bad := range []string{"", want.Hex(), n, "sha256:", "sha256:" + n[1:], "sha256:" + n + "0", "sha256:z" + n[1:],
		"sha256:" + strings.Replace(n, n[5:6], "e", 1), "md5:" + n, "sha512:" + n, "sha256-" + n, "sha256-" + want.Hex(),
		want.SRI() + "=", strings.TrimSuffix(want.SRI(), "="), "sha256:\n" + want.SRI()[8:],
		"sha256-" + strings.Repeat("A", 42) + "==", "sha256-" + strings.Repeat("A", 42) + "B="} {
		if got, err := nix.ParseHash(bad); !errors.Is(err, nix.ErrBadHash) {
			t.Errorf("%q: %v, %v", bad, got, err)
		}
	}
	if _, err := nix.ParseHashHex(n); !errors.Is(err, nix.ErrBadHash) {
		t.Error(err)
	}
	var h nix.Hash
	text, _ := want.MarshalText()
	if err := h.UnmarshalText(text); err != nil || h != want || h.IsZero() {
		t.Error(h, err)
	}
}
