package builder_test

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nix-community/go-nix/pkg/narinfo/signature"

	"github.com/drv-thru/drv-thru/core/builder"
	bt "github.com/drv-thru/drv-thru/core/builder/buildertest"
	"github.com/drv-thru/drv-thru/core/key"
	"github.com/drv-thru/drv-thru/core/nix"
	"github.com/drv-thru/drv-thru/core/nix/daemon"
	"github.com/drv-thru/drv-thru/core/ticket"
	"github.com/drv-thru/drv-thru/core/wire"
)

var now = time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC)

// env is a service with everything around it.
type env struct {
	t       *testing.T
	store   *bt.Store
	records *bt.Records
	cfg     builder.Config
	svc     *builder.Service
	server  *httptest.Server

	mu      sync.Mutex
	clients []*bt.Client // who ask the service that runs
	time    time.Time
	free    uint64
}

func start(t *testing.T, change ...func(*builder.Config)) *env {
	t.Helper()
	e := configured(t, change...)
	e.run()
	t.Cleanup(func() { e.stop() })
	return e
}

// configured is an env whose service does not run yet.
func configured(t *testing.T, change ...func(*builder.Config)) *env {
	t.Helper()
	e := &env{t: t, store: bt.NewStore(), records: bt.NewRecords(), time: now, free: 1 << 40}
	signing, _, err := signature.GenerateKeypair("builder-1", zeros{})
	if err != nil {
		t.Fatal(err)
	}
	e.cfg = builder.Config{
		Identity: key.ID{1}, Software: "test", NixVersion: "2.99", SigningKey: signing,
		Store: e.store, Records: e.records, Dir: filepath.Join(t.TempDir(), "builds"), Peer: bt.Peer,
		Systems: []string{bt.System}, Now: e.now,
		Log: slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelWarn})),
		FreeDisk: func() (uint64, error) {
			e.mu.Lock()
			defer e.mu.Unlock()
			return e.free, nil
		},
	}
	for _, c := range change {
		c(&e.cfg)
	}
	return e
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

func (e *env) run() {
	e.t.Helper()
	svc, err := builder.New(e.t.Context(), e.cfg)
	if err != nil {
		e.t.Fatal(err)
	}
	e.svc, e.server = svc, bt.NewServer(svc)
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, c := range e.clients {
		c.Server = e.server
	}
}

func (e *env) stop() {
	e.svc.Close()
	e.server.Close()
	if n := e.store.Sessions(); n != 0 {
		e.t.Errorf("%d daemon sessions left open", n)
	}
}

func (e *env) now() time.Time {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.time
}

func (e *env) advance(d time.Duration) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.time = e.time.Add(d)
}

func (e *env) setFree(n uint64) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.free = n
}

// holder is a client with a ticket of its own.
func (e *env) holder(n byte, change ...func(*builder.TicketRecord)) *bt.Client {
	tk := bt.Ticket(n, now)
	tk.MaxUses = 0
	for _, c := range change {
		c(&tk)
	}
	e.records.SetTicket(tk)
	c := &bt.Client{Server: e.server, ID: key.ID{n}, Secret: &tk.Secret}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.clients = append(e.clients, c)
	return c
}

// small is a derivation with a source and a dependency, references first.
func small(text string) []bt.Object {
	src := bt.Source("src", "source of "+text)
	dep, _ := bt.Derivation(bt.Drv{Name: "dep", Text: text})
	top, _ := bt.Derivation(bt.Drv{Name: "top", Text: text, Inputs: []nix.Path{dep.Info.Path}, Sources: []nix.Path{src.Info.Path}})
	return []bt.Object{src, dep, top}
}

func wantCode(t *testing.T, err error, code wire.Code) {
	t.Helper()
	if err == nil || wire.CodeOf(err) != code {
		t.Errorf("got error %v (%q), want code %q", err, wire.CodeOf(err), code)
	}
}

func (e *env) build(c *bt.Client, id uint32, objects ...bt.Object) *wire.Result {
	e.t.Helper()
	b, err := c.Put(bt.ID(id), bt.Request(objects...))
	if err != nil {
		e.t.Fatalf("put: %v", err)
	}
	if len(b.Wanted) > 0 {
		if _, err = c.SendWanted(b, objects...); err != nil {
			e.t.Fatalf("send: %v", err)
		}
	}
	return e.finish(c, id)
}

func (e *env) finish(c *bt.Client, id uint32) *wire.Result {
	e.t.Helper()
	ev, err := c.Events(bt.ID(id), 1)
	if err != nil {
		e.t.Fatalf("events: %v", err)
	}
	result, err := ev.Finish()
	if err != nil {
		e.t.Fatalf("events: %v", err)
	}
	return result
}

// eventually polls with a deadline.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		if time.Now().After(deadline) {
			t.Fatalf("not in time: %s", what)
		}
		<-tick.C
	}
}

func TestBuildAndFetch(t *testing.T) {
	e := start(t)
	c := e.holder(1)
	objects := small("a")
	b, err := c.Put(bt.ID(1), bt.Request(objects...))
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(b.Wanted, []int{0, 1, 2}) || b.State != wire.StateUploading {
		t.Fatalf("got %+v", b)
	}
	if b, err = c.SendWanted(b, objects...); err != nil || len(b.Wanted) != 0 {
		t.Fatalf("got %+v, %v", b, err)
	}
	result := e.finish(c, 1)
	if result.Error != nil || len(result.Outputs) != 1 || result.Outputs[0].Name != "out" {
		t.Fatalf("got %+v", result)
	}
	if want := objects[0].Info.NarSize + objects[1].Info.NarSize + objects[2].Info.NarSize; result.UploadBytes != want {
		t.Errorf("upload bytes %d, want %d", result.UploadBytes, want)
	}
	checkCache(t, e, c, result)

	// The same again sends nothing and builds nothing.
	e.store.OnBuild = func(context.Context, nix.Path, daemon.Sink) error { return errors.New("built again") }
	if b, err = c.Put(bt.ID(2), bt.Request(objects...)); err != nil || len(b.Wanted) != 0 {
		t.Fatalf("again: %+v, %v", b, err)
	}
	again := e.finish(c, 2)
	if again.Error != nil || again.Derivations[0].Status != "AlreadyValid" || again.Outputs[0] != result.Outputs[0] {
		t.Errorf("again: %+v", again)
	}
	if e.store.Roots() == 0 {
		t.Error("nothing was rooted")
	}
}

// checkCache fetches a built closure by every route.
func checkCache(t *testing.T, e *env, c *bt.Client, result *wire.Result) {
	t.Helper()
	var closure wire.Closure
	if err := c.JSON(http.MethodGet, "/v1/cache/closure?build="+string(bt.ID(1)), nil, &closure); err != nil {
		t.Fatal(err)
	}
	if len(closure.NarInfos) != 1 || closure.Roots[0] != result.Outputs[0].Path {
		t.Fatalf("got %+v", closure)
	}
	info, err := nix.ParseNarInfo([]byte(closure.NarInfos[0]))
	if err != nil {
		t.Fatal(err)
	}
	public := []nix.PublicKey{e.cfg.SigningKey.ToPublicKey()}
	if _, ok := info.VerifySig(public); !ok {
		t.Error("not signed by the builder")
	}
	hash := info.NarHash.Nix32()
	if m := manifestsOf(t, c, map[string]int64{hash: int64(info.NarSize)})[hash]; m == nil || nix.SumHash(narOf(t, c, hash, m)) != info.NarHash {
		t.Error("the NAR has another hash")
	}
	if text := fetch(t, c, http.MethodGet, "/v1/cache/narinfo/"+info.Path.Hash(), nil); string(text) != closure.NarInfos[0] {
		t.Error("another narinfo")
	}
	// Another client's ticket reads nothing of it.
	other := e.holder(99)
	if m := manifestsOf(t, other, map[string]int64{hash: int64(info.NarSize)})[hash]; m != nil {
		t.Error("another client has its manifest")
	}
	for _, path := range []string{
		"/v1/cache/closure?build=" + string(bt.ID(1)),
		"/v1/cache/narinfo/" + info.Path.Hash(), "/v1/builds/" + string(bt.ID(1)), "/v1/builds/" + string(bt.ID(1)) + "/events",
	} {
		_, err := other.Do(http.MethodGet, path, nil)
		wantCode(t, err, wire.CodeNotFound)
	}
}

func fetch(t *testing.T, c *bt.Client, method, path string, body []byte, header ...string) []byte {
	t.Helper()
	var r io.Reader
	if body != nil {
		r = strings.NewReader(string(body))
	}
	resp, err := c.Do(method, path, r, header...)
	if err != nil {
		t.Fatalf("%s: %v", path, err)
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatalf("%s: %v", path, err)
	}
	return data
}

func TestTicketDenials(t *testing.T) {
	e := start(t)
	objects := small("a")
	for name, tt := range map[string]struct {
		client *bt.Client
		code   wire.Code
	}{
		"nobody":  {&bt.Client{Server: e.server, ID: key.ID{50}}, wire.CodeNoCredentials},
		"unknown": {&bt.Client{Server: e.server, ID: key.ID{51}, Secret: &ticket.Secret{200}}, wire.CodeTicketUnknown},
		"expired": {e.holder(52, func(r *builder.TicketRecord) { r.Expires = now }), wire.CodeTicketExpired},
		"revoked": {e.holder(53, func(r *builder.TicketRecord) { r.Revoked = now }), wire.CodeTicketRevoked},
		"used":    {e.holder(54, func(r *builder.TicketRecord) { r.MaxUses, r.Used = 2, 2 }), wire.CodeTicketUsed},
		"bound":   {e.holder(55, func(r *builder.TicketRecord) { r.Bind = key.ID{1} }), wire.CodeTicketBound},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := tt.client.Put(bt.ID(1), bt.Request(objects...))
			wantCode(t, err, tt.code)
			var info wire.Info
			wantCode(t, tt.client.JSON(http.MethodGet, "/v1/info", nil, &info), tt.code)
			wantCode(t, tt.client.JSON(http.MethodPost, "/v1/plan", wire.PlanRequest{}, &wire.Plan{}), tt.code)
			// Before its document, which may be long, is looked at.
			_, err = tt.client.Do(http.MethodPut, "/v1/builds/"+string(bt.ID(1)), strings.NewReader("junk"))
			wantCode(t, err, tt.code)
		})
	}
	var info wire.Info
	good := e.holder(60, func(r *builder.TicketRecord) { r.MaxUses, r.Used = 3, 1 })
	if err := good.JSON(http.MethodGet, "/v1/info", nil, &info); err != nil {
		t.Fatal(err)
	}
	if info.Ticket.UsesLeft != 2 || info.You != good.ID || info.Trusted {
		t.Errorf("got %+v", info)
	}
}

func TestVersionIsChecked(t *testing.T) {
	e := start(t)
	c := e.holder(1)
	_, err := c.Do(http.MethodGet, "/v1/info", nil, wire.HeaderVersion, "2")
	wantCode(t, err, wire.CodeVersion)
	_, err = c.Do(http.MethodGet, "/nothing", nil)
	wantCode(t, err, wire.CodeNotFound)
	if told := (*wire.Error)(nil); !errors.As(err, &told) || !strings.Contains(told.Hint, "update") {
		t.Errorf("a route that is not there: %v does not say what to do", err)
	}
}

func TestRevokedTicketReadsNothing(t *testing.T) {
	e := start(t)
	c := e.holder(1)
	r := e.build(c, 1, small("a")...)
	if r.Error != nil {
		t.Fatal(r.Error)
	}
	tk, err := e.records.Ticket(t.Context(), c.Secret.ID())
	if err != nil {
		t.Fatal(err)
	}
	tk.Revoked = now
	e.records.SetTicket(tk)
	path := "/v1/cache/closure?build=" + string(bt.ID(1))
	_, err = c.Do(http.MethodGet, path, nil)
	wantCode(t, err, wire.CodeTicketRevoked)
	// Nor does the same client with another ticket.
	other := e.holder(2)
	other.ID = c.ID
	_, err = other.Do(http.MethodGet, path, nil)
	wantCode(t, err, wire.CodeTicketRevoked)
	_, err = other.Do(http.MethodGet, "/v1/cache/narinfo/"+nix.Path(r.Outputs[0].Path).Hash(), nil)
	wantCode(t, err, wire.CodeNotFound)
}

// Whoever has got hold of somebody's ticket that is bound reads nothing with it.
func TestBoundTicketReadsNothing(t *testing.T) {
	e := start(t)
	c := e.holder(1, func(r *builder.TicketRecord) { r.Bind = key.ID{1} })
	if r := e.build(c, 1, small("a")...); r.Error != nil {
		t.Fatal(r.Error)
	}
	thief := &bt.Client{Server: e.server, ID: key.ID{2}, Secret: c.Secret}
	_, err := thief.Do(http.MethodGet, "/v1/cache/closure?build="+string(bt.ID(1)), nil)
	wantCode(t, err, wire.CodeTicketBound)
}

// Whoever's ticket has expired is told by which clock.
func TestExpiredTicketNamesTheClock(t *testing.T) {
	at := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	r := builder.TicketRecord{Expires: at}
	err := r.Check(key.ID{}, at.Add(24*time.Hour), false)
	if want := "ticket expired: at 2026-01-02T03:04:05Z; the builder's clock says 2026-01-03T03:04:05Z"; err == nil || err.Error() != want {
		t.Errorf("got %v, want %q", err, want)
	}
}

func TestExpiredTicketStillReads(t *testing.T) {
	e := start(t)
	c := e.holder(1)
	if r := e.build(c, 1, small("a")...); r.Error != nil {
		t.Fatal(r.Error)
	}
	e.advance(2 * time.Hour)
	if _, err := c.Do(http.MethodGet, "/v1/cache/closure?build="+string(bt.ID(1)), nil); err != nil {
		t.Error(err)
	}
	_, err := c.Put(bt.ID(2), bt.Request(small("a")...))
	wantCode(t, err, wire.CodeTicketExpired)
	// It tells whoever comes back to the build what the builder is, and nobody
	// else.
	for path, code := range map[string]wire.Code{
		"": wire.CodeTicketExpired, "?build=" + string(bt.ID(2)): wire.CodeNotFound, "?build=x": wire.CodeNotFound,
	} {
		_, err := c.Do(http.MethodGet, "/v1/info"+path, nil)
		wantCode(t, err, code)
	}
	var info wire.Info
	if err := c.JSON(http.MethodGet, "/v1/info?build="+string(bt.ID(1)), nil, &info); err != nil || info.SigningKey == "" {
		t.Errorf("%+v, %v", info, err)
	}
	_, err = e.holder(2).Do(http.MethodGet, "/v1/info?build="+string(bt.ID(1)), nil)
	wantCode(t, err, wire.CodeNotFound)
}

func TestRepeatedPutSpendsOnce(t *testing.T) {
	e := start(t)
	c := e.holder(1, func(r *builder.TicketRecord) { r.MaxUses = 1 })
	objects := small("a")
	var wg sync.WaitGroup
	for range 20 {
		wg.Go(func() {
			if _, err := c.Put(bt.ID(1), bt.Request(objects...)); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if tk, err := e.records.Ticket(t.Context(), c.Secret.ID()); err != nil || tk.Used != 1 {
		t.Errorf("%d uses spent, %v", tk.Used, err)
	}
	_, err := c.Put(bt.ID(1), bt.Request(objects[:2]...))
	wantCode(t, err, wire.CodeConflict)
	_, err = c.Put(bt.ID(2), bt.Request(objects...))
	wantCode(t, err, wire.CodeTicketUsed)
	other := e.holder(2)
	_, err = other.Put(bt.ID(1), bt.Request(objects...))
	wantCode(t, err, wire.CodeNotFound)
	other.Secret = c.Secret // another client with the same ticket may attach
	if b, err := other.Put(bt.ID(1), bt.Request(objects...)); err != nil || b.State != wire.StateUploading {
		t.Errorf("got %+v, %v", b, err)
	}
}

func TestHundredRacersTenUses(t *testing.T) {
	e := start(t)
	c := e.holder(1, func(r *builder.TicketRecord) { r.MaxUses = 10 })
	objects := small("a")
	e.store.Add(objects...)
	var admitted, denied int
	var mu sync.Mutex
	var wg sync.WaitGroup
	for i := range uint32(100) {
		wg.Go(func() {
			_, err := c.Put(bt.ID(i), bt.Request(objects...))
			mu.Lock()
			defer mu.Unlock()
			switch {
			case err == nil:
				admitted++
			case wire.CodeOf(err) == wire.CodeTicketUsed:
				denied++
			default:
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if admitted != 10 || denied != 90 {
		t.Errorf("%d admitted, %d denied", admitted, denied)
	}
}
