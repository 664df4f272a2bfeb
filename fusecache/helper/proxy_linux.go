package helper

import (
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/drv-thru/drv-thru/core/nix"
)

// proxy stands between nix and a cache that a user serves over HTTP. Nix follows
// redirects, and over HTTP the name of a NAR may be any URL, such as file:///root/…:
// it gets the helper's copies of narinfos, NARs by their hashes, and nothing else.
type proxy struct {
	url    string
	server *http.Server
	done   chan struct{}
}

// startProxy serves what the cache at a URL has of the paths.
func startProxy(from string, paths []string) (*proxy, error) {
	h := &proxyHandler{from: from, paths: make(map[string]nix.Path, len(paths))}
	for _, path := range paths {
		p, err := nix.ParsePath(path)
		if err != nil {
			return nil, err
		}
		h.paths[p.Hash()] = p
	}
	h.client = &http.Client{
		// Without a proxy of the environment's.
		Transport:     &http.Transport{DisableCompression: true},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	// Others can reach the port, but not guess the path.
	var secret [16]byte
	if _, err := rand.Read(secret[:]); err != nil {
		return nil, err
	}
	prefix := "/" + hex.EncodeToString(secret[:])
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	p := &proxy{
		url:    "http://" + l.Addr().String() + prefix,
		server: &http.Server{Handler: http.StripPrefix(prefix+"/", h), ReadHeaderTimeout: 10 * time.Second},
		done:   make(chan struct{}),
	}
	go func() {
		defer close(p.done)
		defer h.client.CloseIdleConnections()
		p.server.Serve(l)
	}()
	return p, nil
}

func (p *proxy) close() {
	p.server.Close()
	<-p.done
}

type proxyHandler struct {
	from   string
	paths  map[string]nix.Path // by hash part
	client *http.Client
}

// ServeHTTP implements [http.Handler].
func (h *proxyHandler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	name := r.URL.Path
	if name == "nix-cache-info" {
		io.WriteString(w, cacheInfo)
		return
	}
	if hash, ok := strings.CutSuffix(name, ".narinfo"); ok {
		if p, ok := h.paths[hash]; ok {
			h.narInfo(w, r, p)
			return
		}
	}
	if base, ok := strings.CutPrefix(name, "nar/"); ok {
		hash, err := nix.ParseHash("sha256:" + strings.TrimSuffix(base, ".nar"))
		if err == nil && nix.NarURL(hash) == name {
			h.nar(w, r, name)
			return
		}
	}
	http.NotFound(w, r)
}

func (h *proxyHandler) narInfo(w http.ResponseWriter, r *http.Request, p nix.Path) {
	body, _, err := h.get(r, p.Hash()+".narinfo")
	if err != nil {
		http.NotFound(w, r)
		return
	}
	defer body.Close()
	text, err := io.ReadAll(io.LimitReader(body, nix.MaxNarInfo+1))
	if err == nil {
		text, err = copyNarInfo(text, p)
	}
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadGateway)
		return
	}
	w.Header().Set("Content-Type", "text/x-nix-narinfo")
	w.Write(text)
}

func (h *proxyHandler) nar(w http.ResponseWriter, r *http.Request, name string) {
	body, size, err := h.get(r, name)
	if err != nil {
		http.NotFound(w, r)
		return
	}
	defer body.Close()
	w.Header().Set("Content-Type", "application/x-nix-nar")
	if size >= 0 {
		w.Header().Set("Content-Length", strconv.FormatInt(size, 10))
	}
	if _, err := io.CopyBuffer(w, body, make([]byte, 256<<10)); err != nil {
		// Not even a chunked answer may look complete.
		panic(http.ErrAbortHandler)
	}
}

// get asks the user's cache for a file.
func (h *proxyHandler) get(r *http.Request, name string) (body io.ReadCloser, size int64, err error) {
	req, err := http.NewRequestWithContext(r.Context(), http.MethodGet, h.from+"/"+name, nil)
	if err != nil {
		return nil, 0, err
	}
	resp, err := h.client.Do(req)
	if err != nil {
		return nil, 0, err
	}
	if resp.StatusCode != http.StatusOK {
		resp.Body.Close()
		return nil, 0, fmt.Errorf("the client answers %s", resp.Status)
	}
	return resp.Body, resp.ContentLength, nil
}
