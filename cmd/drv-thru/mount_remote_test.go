package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/drv-thru/drv-thru/core/client"
	"github.com/drv-thru/drv-thru/core/link"
	"github.com/drv-thru/drv-thru/core/nix"
	"github.com/drv-thru/drv-thru/core/wire"
	"github.com/drv-thru/drv-thru/fusecache"
)

// answer is a builder that says the same to everything.
type answer string

func (a answer) RoundTrip(*http.Request) (*http.Response, error) {
	return &http.Response{
		StatusCode: http.StatusOK, ContentLength: int64(len(a)), Header: http.Header{"Content-Type": {"application/json"}},
		Body: io.NopCloser(strings.NewReader(string(a))),
	}, nil
}

// A mount of a named builder takes no answers of one that signs with another key,
// and does not try on as with one that is away.
func TestMountChecksTheKey(t *testing.T) {
	for key, want := range map[string]bool{"": true, "home-1:AAAA": true, "home-2:AAAA": false} {
		r := &remote{
			cfg: &mountConfig{route: &route{signingKey: key}},
			api: &client.API{Control: answer(`{"version":1,"signing_key":"home-1:AAAA"}`), Base: link.BaseURL},
		}
		err := r.probe(t.Context())
		if want && err != nil {
			t.Errorf("%q: %v", key, err)
		}
		if !want && (!errors.As(err, new(*otherKeyError)) || !denied(err)) {
			t.Errorf("%q: %v", key, err)
		}
	}
}

// silent is a builder that never answers.
type silent struct{}

func (silent) RoundTrip(r *http.Request) (*http.Response, error) {
	<-r.Context().Done()
	return nil, r.Context().Err()
}

// A path that the builder does not tell about in the time that a read may take is
// missing: an error would end builds that do without it. Who is interrupted gets an error.
func TestMountLookupInTime(t *testing.T) {
	lookup := func(ctx context.Context) (*remote, error) {
		r := newRemote(&mountConfig{route: &route{}}, nil, slog.New(slog.DiscardHandler))
		r.up, r.api = true, &client.API{Control: silent{}, Base: link.BaseURL}
		_, err := r.lookup(ctx, strings.Repeat("0", 32))
		return r, err
	}
	ctx, cancel := context.WithDeadline(t.Context(), time.Unix(1, 0))
	defer cancel()
	if r, err := lookup(ctx); !errors.Is(err, fs.ErrNotExist) || r.up {
		t.Errorf("after its time: %v, up: %v", err, r.up)
	}
	ctx, cancel = context.WithCancel(t.Context())
	cancel()
	if r, err := lookup(ctx); !errors.Is(err, context.Canceled) || !r.up {
		t.Errorf("interrupted: %v, up: %v", err, r.up)
	}
}

// A NAR that is read while the builder is away, such as for the restart of a relay, comes
// when it is back within the time of a read; a path that is looked up is missing soon.
func TestMountReadsWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRemote(&mountConfig{route: &route{}, readTimeout: 30 * time.Second}, nil, slog.New(slog.DiscardHandler))
		r.up, r.api = true, &client.API{Bulk: answer("a NAR"), Base: link.BaseURL}
		r.failed(client.ErrConnection)
		time.Sleep(15 * time.Second)
		if _, err := r.lookup(t.Context(), strings.Repeat("0", 32)); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("lookup: %v", err)
		}
		read := make(chan error)
		go func() {
			req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, link.BaseURL, nil)
			if err == nil {
				_, err = r.RoundTrip(req)
			}
			read <- err
		}()
		synctest.Wait()
		r.set(nil)
		if err := <-read; err != nil {
			t.Error(err)
		}
		r.failed(client.ErrConnection)
		began := time.Now()
		if _, err := r.RoundTrip(httptest.NewRequest(http.MethodGet, link.BaseURL, nil)); !errors.Is(err, errOffline) || time.Since(began) != 30*time.Second {
			t.Errorf("after %s: %v", time.Since(began), err)
		}
	})
}

// Without the builder, a narinfo that is damaged on disk is one that is missing: an
// error would end builds that do without it.
func TestMountKeptNarInfoDamaged(t *testing.T) {
	dir := t.TempDir()
	nar := []byte("what the NAR is does not matter")
	hash, other := strings.Repeat("0", 32), strings.Repeat("1", 32)
	info := nix.PathInfo{Path: nix.Path("/nix/store/" + hash + "-x"), NarHash: nix.SumHash(nar), NarSize: uint64(len(nar))}
	text := string(info.MarshalNarInfo())
	for name, content := range map[string]string{
		"info/" + hash + ".narinfo":            text,
		"info/" + other + ".narinfo":           text, // of another path
		"info/" + other[:31] + "2.narinfo":     text[:len(text)/2],
		"info/" + other[:31] + "3.narinfo":     strings.Repeat("\x00", len(text)),
		"nar/" + info.NarHash.Nix32() + ".nar": string(nar),
	} {
		if err := os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	disk, err := fusecache.OpenDisk(dir, 1<<20, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer disk.Close()
	r := newRemote(&mountConfig{route: &route{}}, disk, slog.New(slog.DiscardHandler))
	if got, err := r.kept(hash); err != nil || got != text {
		t.Errorf("%q, %v", got, err)
	}
	for _, h := range []string{other, other[:31] + "2", other[:31] + "3"} {
		if got, err := r.kept(h); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s: %q, %v", h, got, err)
		}
	}
}

// What bounds the chunk store does not bound what a mount keeps of whole paths.
func TestMountCacheSizeIsNotOfChunks(t *testing.T) {
	t.Setenv(cacheSizeEnv, "0")
	c := newMountCommand(&app{})
	if err := c.Parse([]string{"dir"}); err != nil {
		t.Fatal(err)
	}
	if got := c.FlagSet.Lookup("cache-size").Value.String(); got != "4G" {
		t.Errorf("--cache-size is %s", got)
	}
}

// What is no narinfo of the path is as good as none: an error would end builds that do
// without it. It is not remembered, and the builder is there.
func TestMountNarInfoMalformed(t *testing.T) {
	hash, other := strings.Repeat("0", 32), narInfoOf(strings.Repeat("1", 32))
	dir := t.TempDir()
	for name, text := range map[string]string{
		"nothing": "", "no narinfo": "StorePath: nonsense\n", "of another": string(other.MarshalNarInfo()),
	} {
		disk, err := fusecache.OpenDisk(dir, 1<<20, nil)
		if err != nil {
			t.Fatal(err)
		}
		r := newRemote(&mountConfig{route: &route{}}, disk, slog.New(slog.DiscardHandler))
		r.up, r.api = true, &client.API{Control: answer(text), Base: link.BaseURL}
		for range 2 {
			if got, err := r.lookup(t.Context(), hash); !errors.Is(err, fs.ErrNotExist) || !r.up {
				t.Errorf("%s: %q, %v, up: %v", name, got, err, r.up)
			}
		}
		if text, ok := disk.NarInfo(hash); ok {
			t.Errorf("%s: it is kept: %q", name, text)
		}
		r.close()
		disk.Close()
	}
}

// describing is a builder that has all paths.
type describing struct{}

func narInfoOf(hash string) nix.PathInfo {
	return nix.PathInfo{Path: nix.Path("/nix/store/" + hash + "-x"), NarHash: nix.SumHash([]byte(hash)), NarSize: 1}
}

func (describing) RoundTrip(r *http.Request) (*http.Response, error) {
	return &http.Response{
		StatusCode: http.StatusOK, ContentLength: -1, Header: http.Header{"Content-Type": {wire.TypeNarInfo}},
		Body: io.NopCloser(bytes.NewReader(narInfoOf(path.Base(r.URL.Path)).MarshalNarInfo())),
	}, nil
}

// A narinfo that is used all the time is not the first to make room: its NAR would be
// here for nothing.
func TestMountKeepsNarInfosInUse(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		disk, err := fusecache.OpenDisk(dir, 64<<10, nil)
		if err != nil {
			t.Fatal(err)
		}
		defer disk.Close()
		r := newRemote(&mountConfig{route: &route{}}, disk, slog.New(slog.DiscardHandler))
		defer r.close()
		r.up, r.api = true, &client.API{Control: describing{}, Base: link.BaseURL}
		lookup := func(k int) (hash string) {
			hash = fmt.Sprintf("%032d", k)
			want := string(narInfoOf(hash).MarshalNarInfo())
			if text, err := r.lookup(t.Context(), hash); err != nil || text != want {
				t.Fatalf("%q, %v", text, err)
			}
			time.Sleep(2 * infoTime)
			return hash
		}
		for k := range 100 {
			lookup(0)
			lookup(1 + k)
		}
		if text, ok := disk.NarInfo(fmt.Sprintf("%032d", 0)); !ok {
			t.Errorf("what is in use is gone: %q", text)
		}
		if text, ok := disk.NarInfo(fmt.Sprintf("%032d", 1)); ok {
			t.Errorf("what was used long ago is there: %q", text)
		}
	})
}
