//go:build e2e

package e2e

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"

	"github.com/drv-thru/drv-thru/core/key"
	"github.com/drv-thru/drv-thru/core/link"
	"github.com/drv-thru/drv-thru/core/nix"
	"github.com/drv-thru/drv-thru/core/ticket"
	"github.com/drv-thru/drv-thru/core/wire"
	"github.com/drv-thru/drv-thru/e2e/lab"
)

// patience is what any single request or program of these tests may take.
const patience = time.Minute

// A peer speaks the protocol by hand, as whoever wrote a client of their own would.
type peer struct {
	t       *testing.T
	ticket  ticket.Ticket
	id      key.Secret
	network link.Network
	session *link.Session
	auth    string
}

// newPeer connects with a ticket and a key of its own.
func newPeer(t *testing.T, text string) *peer {
	t.Helper()
	tk, err := ticket.Parse(text)
	if err != nil {
		t.Fatal(err)
	}
	p := &peer{t: t, ticket: tk, id: someKey(t), auth: "Bearer " + tk.Secret.Text()}
	p.session = p.dial()
	return p
}

// dial opens another session with the same key.
func (p *peer) dial() *link.Session {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	s, err := link.Dial(ctx, link.Config{Identity: p.id, Peer: p.ticket.Builder, Relays: p.ticket.Relays, Network: p.network})
	if err != nil {
		p.t.Fatalf("connect to the builder: %v", err)
	}
	p.t.Cleanup(func() { s.Close() })
	return s
}

func newBuildID(t *testing.T) wire.BuildID {
	t.Helper()
	id, err := wire.NewBuildID(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return id
}

// request makes a request with the headers of an honest client; headers are
// names and values in turn and replace those.
func (p *peer) request(ctx context.Context, method, path string, body io.Reader, headers ...string) *http.Request {
	p.t.Helper()
	req, err := http.NewRequestWithContext(ctx, method, strings.TrimSuffix(link.BaseURL, "/")+path, body)
	if err != nil {
		p.t.Fatal(err)
	}
	req.Header.Set(wire.HeaderVersion, strconv.Itoa(wire.Version))
	if p.auth != "" {
		req.Header.Set("Authorization", p.auth)
	}
	for i := 0; i < len(headers); i += 2 {
		req.Header.Set(headers[i], headers[i+1])
	}
	return req
}

// answer is what the builder said.
type answer struct {
	status int
	code   wire.Code // of a problem document
	text   string
	body   []byte
}

// ask makes a request and reads the answer. A builder that breaks the
// connection instead of answering fails the test.
func (p *peer) ask(method, path string, body io.Reader, headers ...string) answer {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	resp, err := p.session.Bulk().RoundTrip(p.request(ctx, method, path, body, headers...))
	if err != nil {
		p.t.Fatalf("%s %s: %v", method, path, err)
	}
	return p.read(resp)
}

func (p *peer) read(resp *http.Response) answer {
	p.t.Helper()
	defer resp.Body.Close()
	a := answer{status: resp.StatusCode}
	if a.status >= 400 {
		err := wire.ReadError(resp)
		a.code, a.text = wire.CodeOf(err), err.Error()
		return a
	}
	var err error
	if a.body, err = io.ReadAll(io.LimitReader(resp.Body, 64<<20)); err != nil {
		p.t.Fatalf("read answer: %v", err)
	}
	return a
}

// document encodes a JSON request.
func document(t *testing.T, v any) io.Reader {
	t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return bytes.NewReader(b)
}

func (p *peer) putBuild(id wire.BuildID, req *wire.BuildRequest) (wire.Build, answer) {
	p.t.Helper()
	var b wire.Build
	a := p.ask(http.MethodPut, "/v1/builds/"+string(id), document(p.t, req))
	if a.code == "" {
		a.decode(p.t, &b)
	}
	return b, a
}

func (a answer) decode(t *testing.T, v any) {
	t.Helper()
	if a.status != http.StatusOK {
		t.Fatalf("builder answered %d: %s", a.status, a.text)
	}
	if err := json.Unmarshal(a.body, v); err != nil {
		t.Fatalf("builder answered %.200q: %v", a.body, err)
	}
}

func (p *peer) putInputs(id wire.BuildID, body io.Reader, headers ...string) answer {
	p.t.Helper()
	return p.ask(http.MethodPut, "/v1/builds/"+string(id)+"/inputs", body, headers...)
}

// wait reads a build's events to the end and returns its result.
func (p *peer) wait(id wire.BuildID) *wire.Result {
	p.t.Helper()
	a := p.ask(http.MethodGet, "/v1/builds/"+string(id)+"/events?from=1", nil)
	if a.code != "" {
		p.t.Fatalf("events: %s", a.text)
	}
	for line := range bytes.Lines(a.body) {
		var e wire.Event
		if json.Unmarshal(line, &e) == nil && e.Type == wire.EventFinished {
			return e.Result
		}
	}
	p.t.Fatalf("the events end without a result:\n%.2000s", a.body)
	return nil
}

// entry is a path of a closure and the bytes that are sent for it.
type entry struct {
	nix.PathInfo
	nar []byte
}

// closure is a list of entries, references first.
type closure []entry

// request asks for the closure's derivations to be built.
func (c closure) request() *wire.BuildRequest {
	req := &wire.BuildRequest{}
	index := make(map[nix.Path]int)
	for i, e := range c {
		index[e.Path] = i
		in := wire.Input{
			Path: string(e.Path), NarHash: e.NarHash.Nix32(), NarSize: e.NarSize, CA: e.CA, Sigs: e.Sigs,
		}
		for _, r := range e.References {
			in.References = append(in.References, index[r])
		}
		slices.Sort(in.References)
		req.Closure = append(req.Closure, in)
	}
	// The last derivation needs the others.
	for _, e := range slices.Backward(c) {
		if e.Path.IsDrv() {
			req.Roots = []wire.Root{{Drv: string(e.Path), Outputs: []string{"out"}}}
			break
		}
	}
	return req
}

// frames is the body that carries the entries of the given indexes.
func (c closure) frames(indexes ...int) []byte {
	var b []byte
	for _, i := range indexes {
		b = frame(b, uint32(i), uint64(len(c[i].nar)), c[i].nar)
	}
	return b
}

func frame(b []byte, index uint32, size uint64, nar []byte) []byte {
	b = binary.BigEndian.AppendUint32(b, index)
	b = binary.BigEndian.AppendUint64(b, size)
	return append(b, nar...)
}

// addressed is a source with these bytes as its NAR, whatever they are: path,
// hash and content address fit.
func addressed(name string, nar []byte) entry {
	sum := sha256.Sum256(nar)
	ca := nix.CA{Method: nix.CANar, Algo: nix.SHA256, Digest: sum[:]}
	path, err := nix.PathFromCA(name, ca, nil, false)
	if err != nil {
		panic(err)
	}
	return entry{nix.PathInfo{
		Path: path, NarHash: sum, NarSize: uint64(len(nar)), CA: ca.String(),
	}, nar}
}

// inputAddressed is a path that nobody can check: any name, any contents.
func inputAddressed(name string, nar []byte) entry {
	sum := sha256.Sum256([]byte("what " + name + " is made of"))
	e := addressed(name, nar)
	e.Path = nix.Path(nix.StoreDir + "/" + nix.Hash(sum).Nix32()[:nix.HashPartLen] + "-" + name)
	e.CA = ""
	return e
}

// text is a text object: a .drv, mostly.
func text(name, contents string, refs ...nix.Path) entry {
	info, err := nix.TextInfo(name, []byte(contents), refs)
	if err != nil {
		panic(err)
	}
	return entry{info, fileNar(contents)}
}

// printer is a fixed-output derivation that writes contents, after a log line,
// and needs some sources. Only such a derivation's output path can be computed
// without Nix.
func printer(name, contents string, srcs ...nix.Path) entry {
	drv, _ := printerText(name, contents, "", srcs...)
	return text(name+".drv", drv, srcs...)
}

// printerText is the derivation and its output; out replaces the output's path.
func printerText(name, contents string, out nix.Path, srcs ...nix.Path) (string, nix.Path) {
	sum := sha256.Sum256([]byte(contents))
	own, err := nix.PathFromCA(name, nix.CA{Method: nix.CAFlat, Algo: nix.SHA256, Digest: sum[:]}, nil, false)
	if err != nil {
		panic(err)
	}
	if out == "" {
		out = own
	}
	var inputs []string
	for _, s := range nix.SortedPaths(srcs) {
		inputs = append(inputs, strconv.Quote(string(s)))
	}
	return fmt.Sprintf(`Derive([("out",%[1]q,"sha256",%[2]q)],[],[%[3]s],%[4]q,"/bin/sh",["-euc","echo printing %[5]s; printf %%s '%[6]s' > $out"],`+
		`[("builder","/bin/sh"),("name",%[5]q),("out",%[1]q),("outputHash",%[2]q),("outputHashAlgo","sha256"),("outputHashMode","flat"),("system",%[4]q)])`,
		string(out), hex.EncodeToString(sum[:]), strings.Join(inputs, ","), lab.System, name, contents), out
}

// words is a NAR's tokens, right or wrong: each its length, itself and padding.
func words(tokens ...string) []byte {
	var b []byte
	for _, w := range tokens {
		b = binary.LittleEndian.AppendUint64(b, uint64(len(w)))
		b = append(b, w...)
		for len(b)%8 != 0 {
			b = append(b, 0)
		}
	}
	return b
}

func fileNar(contents string) []byte {
	return words("nix-archive-1", "(", "type", "regular", "contents", contents, ")")
}

// dirNar is a directory of small files of these names in this order.
func dirNar(names ...string) []byte {
	tokens := []string{"nix-archive-1", "(", "type", "directory"}
	for _, n := range names {
		tokens = append(tokens, "entry", "(", "name", n, "node", "(", "type", "regular", "contents", "x", ")", ")")
	}
	return words(append(tokens, ")")...)
}

// deepNar is directories of that name, nested n deep.
func deepNar(n int, name string) []byte {
	tokens := []string{"nix-archive-1"}
	for range n {
		tokens = append(tokens, "(", "type", "directory", "entry", "(", "name", name, "node")
	}
	tokens = append(tokens, "(", "type", "regular", "contents", "x", ")")
	for range n {
		tokens = append(tokens, ")", ")")
	}
	return words(tokens...)
}

// afterMiB puts a regular file of a MiB before a directory's other entries, so
// that the builder's Nix has seen much of the NAR before what is wrong comes.
func afterMiB(nar []byte) []byte {
	head := words("nix-archive-1", "(", "type", "directory")
	rest, ok := bytes.CutPrefix(nar, head)
	if !ok {
		panic("not the NAR of a directory")
	}
	big := words("entry", "(", "name", "!big", "node", "(", "type", "regular", "contents", strings.Repeat("x", 1<<20), ")", ")")
	return slices.Concat(head, big, rest)
}

// bomb is size bytes of pattern, over and over, between head and tail, as zstd.
func bomb(t *testing.T, head, pattern string, size int, tail string) []byte {
	t.Helper()
	var out bytes.Buffer
	z, err := zstd.NewWriter(&out, zstd.WithEncoderConcurrency(1), zstd.WithWindowSize(1<<20))
	if err != nil {
		t.Fatal(err)
	}
	piece := []byte(strings.Repeat(pattern, max(1, (1<<20)/len(pattern))))
	io.WriteString(z, head)
	for n := 0; n < size; n += len(piece) {
		z.Write(piece)
	}
	io.WriteString(z, tail)
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// peak is the most memory that a host's process of these arguments ever had.
func peak(t testing.TB, h *lab.Host, args ...string) int64 {
	t.Helper()
	for _, p := range h.Processes() {
		if len(p.Args) >= len(args) && slices.Equal(p.Args[:len(args)], args) {
			return p.Peak
		}
	}
	t.Fatalf("%s does not run on %s", strings.Join(args, " "), h.Name())
	return 0
}

// difference lists what is in one sorted list only.
func difference(before, after []string) (gone, come []string) {
	for _, p := range before {
		if _, ok := slices.BinarySearch(after, p); !ok {
			gone = append(gone, p)
		}
	}
	for _, p := range after {
		if _, ok := slices.BinarySearch(before, p); !ok {
			come = append(come, p)
		}
	}
	return gone, come
}
