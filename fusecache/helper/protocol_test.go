package helper

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"strings"
	"testing"
)

const (
	listedKey = "builder-1:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="
	goodPath  = "/nix/store/00000000000000000000000000000000-hello"
)

func TestCheck(t *testing.T) {
	good := Request{Version: Version, Op: OpImport, Key: listedKey, Paths: []string{goodPath}}
	many := make([]string, MaxPaths+1)
	for i := range many {
		many[i] = goodPath
	}
	for name, c := range map[string]struct {
		change func(*Request)
		want   Code
	}{
		"good":                  {func(r *Request) {}, ""},
		"as many as may be":     {func(r *Request) { r.Paths = many[1:] }, ""},
		"too many":              {func(r *Request) { r.Paths = many }, CodePaths},
		"no paths":              {func(r *Request) { r.Paths = nil }, CodePaths},
		"check":                 {func(r *Request) { r.Op, r.Paths = OpCheck, nil }, ""},
		"check with paths":      {func(r *Request) { r.Op = OpCheck }, CodeRequest},
		"check with a URL":      {func(r *Request) { r.Op, r.Paths, r.URL = OpCheck, nil, "http://127.0.0.1:8080" }, CodeRequest},
		"check of another key":  {func(r *Request) { r.Op, r.Paths, r.Key = OpCheck, nil, "x:y" }, CodeKey},
		"no operation":          {func(r *Request) { r.Op = "" }, CodeRequest},
		"version":               {func(r *Request) { r.Version = 0 }, CodeVersion},
		"other bytes":           {func(r *Request) { r.Key = strings.Replace(listedKey, "AA=", "BA=", 1) }, CodeKey},
		"other name":            {func(r *Request) { r.Key = "b" + listedKey }, CodeKey},
		"two keys":              {func(r *Request) { r.Key = listedKey + " " + listedKey }, CodeKey},
		"upper case":            {func(r *Request) { r.Key = strings.ToUpper(listedKey) }, CodeKey},
		"no key":                {func(r *Request) { r.Key = "" }, CodeKey},
		"option":                {func(r *Request) { r.Paths[0] = "--option" }, CodePath},
		"derivation":            {func(r *Request) { r.Paths[0] += ".drv" }, CodePath},
		"output of derivation":  {func(r *Request) { r.Paths[0] += "^out" }, CodePath},
		"old output":            {func(r *Request) { r.Paths[0] += "!out" }, CodePath},
		"file in path":          {func(r *Request) { r.Paths[0] += "/bin" }, CodePath},
		"not in the store":      {func(r *Request) { r.Paths[0] = "/etc/passwd" }, CodePath},
		"newline":               {func(r *Request) { r.Paths[0] += "\n" }, CodePath},
		"unclean":               {func(r *Request) { r.Paths[0] = "/nix//store/" + goodPath[11:] }, CodePath},
		"last of several":       {func(r *Request) { r.Paths = append(r.Paths, goodPath, "") }, CodePath},
		"loopback":              {func(r *Request) { r.URL = "http://127.0.0.1:8080/0123456789abcdef" }, ""},
		"loopback, version six": {func(r *Request) { r.URL = "http://[::1]:1" }, ""},
		"parameters":            {func(r *Request) { r.URL = "http://127.0.0.1:8080?trusted=true" }, CodeURL},
		"file":                  {func(r *Request) { r.URL = "file:///tmp" }, CodeURL},
	} {
		r := good
		r.Paths = append([]string(nil), good.Paths...)
		c.change(&r)
		err := r.check([]string{"other-1:x", listedKey})
		var got Code
		if err != nil {
			got = err.Code
			if len(err.Error()) > 1000 {
				t.Errorf("%s: a text of %d bytes", name, len(err.Error()))
			}
		}
		if got != c.want {
			t.Errorf("%s: %q, want %q: %v", name, got, c.want, err)
		}
	}
}

func TestMessages(t *testing.T) {
	want := Request{Version: 1, Op: OpImport, Key: listedKey, Paths: []string{goodPath}}
	msg, err := encodeMessage(&want)
	if err != nil {
		t.Fatal(err)
	}
	var got Request
	if err := readMessage(bytes.NewReader(msg), len(msg)-4, &got); err != nil || fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("%v, %v", got, err)
	}
	for name, c := range map[string]struct {
		text string
		want error
	}{
		"nothing":       {"", io.EOF},
		"half a length": {"\x00\x00", io.ErrUnexpectedEOF},
		"half":          {"\x00\x00\x00\x10{", io.ErrUnexpectedEOF},
		"too long":      {"\xff\xff\xff\xff{}", errLong},
		"unknown field": {"\x00\x00\x00\x0e{\"shell\":true}", nil},
		"no object":     {"\x00\x00\x00\x02[]", nil},
		"two":           {"\x00\x00\x00\x04{}{}", nil},
	} {
		err := readMessage(strings.NewReader(c.text), MaxRequest, &got)
		if err == nil || c.want != nil && !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", name, err, c.want)
		}
	}
}

func TestParseURL(t *testing.T) {
	for text, want := range map[string]string{
		"http://127.0.0.1:80": "127.0.0.1:80", "http://[::1]:65535/abc": "[::1]:65535",
		"http://127.0.0.1:0": "", "http://127.0.0.1:65536": "", "http://127.0.0.1:080": "", "http://127.0.0.1:80/": "", "http://127.0.0.1:80/a/b": "",
		"http://127.0.0.1:80#x": "", "HTTP://127.0.0.1:80": "", "http://127.0.0.1:80\n": "", "http://127.1:80": "", "http://[::ffff:127.0.0.1]:80": "",
	} {
		got, err := parseURL(text)
		if want == "" && err == nil || want != "" && (err != nil || got != netip.MustParseAddrPort(want)) {
			t.Errorf("%q: %v, %v", text, got, err)
		}
	}
}

func TestClip(t *testing.T) {
	if got := clip("abcdef", 3); got != "…def" {
		t.Errorf("%q", got)
	}
	if got := clip("ab\xff", 3); got != "ab�" {
		t.Errorf("%q", got)
	}
}

func FuzzRequest(f *testing.F) {
	f.Add([]byte("\x00\x00\x00\x02{}"))
	msg, err := encodeMessage(&Request{Version: 1, Op: OpImport, Key: listedKey, Paths: []string{goodPath}, URL: "http://127.0.0.1:1"})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(msg)
	f.Fuzz(func(t *testing.T, msg []byte) {
		var r Request
		if readMessage(bytes.NewReader(msg), 1<<16, &r) != nil || r.check([]string{listedKey}) != nil {
			return
		}
		for _, arg := range append([]string{r.Key}, r.Paths...) {
			if strings.HasPrefix(arg, "-") || strings.ContainsAny(arg, " \n\x00^!") {
				t.Errorf("%q reaches a command line", arg)
			}
		}
	})
}
