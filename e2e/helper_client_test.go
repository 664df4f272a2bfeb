//go:build e2e

package e2e

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"strings"
	"time"

	fusefs "github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"github.com/drv-thru/drv-thru/core/cache"
	"github.com/drv-thru/drv-thru/fusecache"
	"github.com/drv-thru/drv-thru/fusecache/helper"
)

// helperEnv makes the test binary a client of the import helper, of any kind.
const helperEnv = "DRV_THRU_TEST_HELPER"

func init() {
	if text := os.Getenv(helperEnv); text != "" {
		if err := abuse(text); err != nil {
			fmt.Println("error:", err)
			os.Exit(1)
		}
		os.Exit(0)
	}
}

// abuseConfig says what a client of the helper does.
type abuseConfig struct {
	// Raw is sent as it is; else Request is.
	Raw     []byte
	Request *helper.Request
	// Repeat is how often the request names its path.
	Repeat int
	// Silent: nothing is sent at all.
	Silent bool
	// LeaveAt ends the process: "device", "ready", "read".
	LeaveAt string
	// Deaf keeps the descriptor and says nothing ("device"), says that it is
	// ready but serves nothing ("ready"), or serves and falls silent at the first
	// file ("read").
	Deaf string
	// Link, if set, is what every narinfo is a symbolic link to. Plain shows the
	// first narinfos as they are, whatever they say, and no NARs.
	Link  string
	Plain bool
	// HTTP serves the first narinfos as they are over loopback HTTP.
	HTTP bool
	// NarInfos are the answers about a path, by hash part, one after the other;
	// the last one stays. Nars likewise, by NAR hash.
	NarInfos map[string][]string
	Nars     map[string][][]byte
}

// abuse prints what the helper says.
func abuse(text string) error {
	var c abuseConfig
	if err := json.Unmarshal([]byte(text), &c); err != nil {
		return err
	}
	conn, err := net.Dial("unix", helperSocket)
	if err != nil {
		return err
	}
	u := conn.(*net.UnixConn)
	if c.HTTP {
		if c.Request.URL, err = c.serveHTTP(); err != nil {
			return err
		}
	}
	msg := c.Raw
	if msg == nil && c.Request != nil {
		for range c.Repeat - 1 {
			c.Request.Paths = append(c.Request.Paths, c.Request.Paths[0])
		}
		msg = helperFrame(c.Request)
	}
	if !c.Silent {
		// It may be refused before all is read.
		_, _ = u.Write(msg)
	}
	for {
		e, fd, err := readEvent(u)
		if errors.Is(err, io.EOF) || errors.Is(err, unix.ECONNRESET) {
			fmt.Println("closed")
			return nil
		}
		if err != nil {
			return err
		}
		if e.Type != helper.TypeProgress {
			fmt.Printf("%s %s %s\n", e.Type, e.Code, e.Text)
		}
		if e.Type != helper.TypeDevice {
			continue
		}
		if c.LeaveAt == "device" {
			return nil
		}
		if c.Deaf == "device" {
			continue
		}
		if c.Deaf != "ready" {
			if err := c.serve(fd); err != nil {
				return err
			}
		}
		if _, err := u.Write(helperFrame(&helper.Ready{Ready: true})); err != nil {
			return err
		}
		if c.LeaveAt == "ready" {
			return nil
		}
	}
}

// serve serves what the configuration says on the descriptor.
func (c *abuseConfig) serve(fd int) error {
	if c.Link != "" || c.Plain {
		root := &linkTree{target: c.Link, hashes: c.NarInfos}
		server, err := fuse.NewServer(fusefs.NewNodeFS(root, &fusefs.Options{}), fmt.Sprintf("/dev/fd/%d", fd), &fuse.MountOptions{})
		if err != nil {
			return err
		}
		go server.Serve()
		return nil
	}
	view, err := cache.NewView(nil, cache.ViewConfig{Lookup: c.lookup, Fetcher: &fickle{nars: c.Nars}, ReadTimeout: time.Hour})
	if err != nil {
		return err
	}
	_, err = fusecache.ServeDevice(view, fd, fusecache.Options{Live: true})
	return err
}

// serveHTTP serves the narinfos, and nothing of NARs, and returns the URL.
func (c *abuseConfig) serveHTTP() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	go http.Serve(l, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		name := strings.TrimPrefix(r.URL.Path, "/")
		texts := c.NarInfos[strings.TrimSuffix(name, ".narinfo")]
		switch {
		case name == "nix-cache-info":
			io.WriteString(w, "StoreDir: /nix/store\n")
		case len(texts) > 0:
			io.WriteString(w, texts[0])
		default:
			http.NotFound(w, r)
		}
	}))
	return "http://" + l.Addr().String(), nil
}

func (c *abuseConfig) lookup(ctx context.Context, hash string) (string, error) {
	if c.Deaf == "read" {
		fmt.Println("asked")
		<-ctx.Done()
		return "", ctx.Err()
	}
	if c.LeaveAt == "read" {
		os.Exit(0)
	}
	texts := c.NarInfos[hash]
	if len(texts) == 0 {
		return "", fs.ErrNotExist
	}
	if len(texts) > 1 {
		c.NarInfos[hash] = texts[1:]
	}
	return texts[0], nil
}

// linkTree is a cache whose narinfos are symbolic links, or what the client wants.
type linkTree struct {
	fusefs.Inode
	target string
	hashes map[string][]string
}

func (r *linkTree) OnAdd(ctx context.Context) {
	add := func(name string, n fusefs.InodeEmbedder, mode uint32) *fusefs.Inode {
		child := r.NewPersistentInode(ctx, n, fusefs.StableAttr{Mode: mode})
		r.AddChild(name, child, true)
		return child
	}
	file := func(text string) *fusefs.MemRegularFile {
		return &fusefs.MemRegularFile{Data: []byte(text), Attr: fuse.Attr{Mode: 0o444}}
	}
	add("nix-cache-info", file("StoreDir: /nix/store\n"), fuse.S_IFREG)
	for _, dir := range []string{"nar", "log", "realisations", "build-trace-v2"} {
		add(dir, &fusefs.Inode{}, fuse.S_IFDIR)
	}
	for hash, texts := range r.hashes {
		if r.target == "" {
			add(hash+".narinfo", file(texts[0]), fuse.S_IFREG)
			continue
		}
		add(hash+".narinfo", &fusefs.MemSymlink{Data: []byte(r.target)}, fuse.S_IFLNK)
	}
}

// fickle gives other bytes of a NAR each time.
type fickle struct{ nars map[string][][]byte }

func (f *fickle) Fetch(_ context.Context, ranges []cache.NarRange) (cache.Stream, error) {
	var b bytes.Buffer
	var sizes []int
	for _, r := range ranges {
		bodies := f.nars[r.NarHash]
		if len(bodies) == 0 {
			return nil, cache.Permanent(errors.New("no such NAR"))
		}
		body := bodies[0]
		if len(bodies) > 1 {
			f.nars[r.NarHash] = bodies[1:]
		}
		body = body[min(r.Offset, uint64(len(body))):]
		sizes = append(sizes, len(body))
		b.Write(body)
	}
	return &fickleStream{sizes: sizes, body: b.Bytes(), next: 0}, nil
}

type fickleStream struct {
	sizes      []int
	next, left int
	body       []byte
}

func (s *fickleStream) Next() (cache.Frame, error) {
	if s.next == len(s.sizes) {
		return cache.Frame{}, io.EOF
	}
	s.body = s.body[s.left:]
	s.left = s.sizes[s.next]
	s.next++
	return cache.Frame{Index: s.next - 1, Size: uint64(s.left)}, nil
}

func (s *fickleStream) Read(p []byte) (int, error) {
	if s.left == 0 {
		return 0, io.EOF
	}
	n := copy(p, s.body[:s.left])
	s.body, s.left = s.body[n:], s.left-n
	return n, nil
}

func (s *fickleStream) Close() error { return nil }

// helperFrame makes a message of the helper's protocol, by hand.
func helperFrame(v any) []byte {
	body, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	return append(binary.BigEndian.AppendUint32(nil, uint32(len(body))), body...)
}

// readEvent reads one event, and the descriptor that comes with it.
func readEvent(u *net.UnixConn) (*helper.Event, int, error) {
	fd := -1
	read := func(p []byte) error {
		for len(p) > 0 {
			oob := make([]byte, unix.CmsgSpace(4))
			n, oobn, _, _, err := u.ReadMsgUnix(p, oob)
			if err != nil {
				return err
			}
			if n == 0 {
				return io.EOF
			}
			if oobn > 0 {
				messages, err := unix.ParseSocketControlMessage(oob[:oobn])
				if err != nil {
					return err
				}
				fds, err := unix.ParseUnixRights(&messages[0])
				if err != nil {
					return err
				}
				fd = fds[0]
			}
			p = p[n:]
		}
		return nil
	}
	var head [4]byte
	if err := read(head[:]); err != nil {
		return nil, fd, err
	}
	body := make([]byte, binary.BigEndian.Uint32(head[:]))
	if err := read(body); err != nil {
		return nil, fd, err
	}
	var e helper.Event
	return &e, fd, json.Unmarshal(body, &e)
}
