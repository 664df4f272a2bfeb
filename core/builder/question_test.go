package builder_test

import (
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"

	bt "github.com/drv-thru/drv-thru/core/builder/buildertest"
	"github.com/drv-thru/drv-thru/core/link"
)

// endlessBody counts what is taken of it.
type endlessBody struct{ n atomic.Int64 }

func (b *endlessBody) Read(p []byte) (int, error) {
	b.n.Add(int64(len(p)))
	return len(p), nil
}

// What a client sends along with a question, whose answer takes as long as the build,
// is not held.
func TestBodyOfAQuestion(t *testing.T) {
	const window = 16 << 20
	e := start(t)
	server := httptest.NewUnstartedServer(link.Handler(e.svc))
	server.EnableHTTP2 = true
	server.Config.HTTP2 = &http.HTTP2Config{MaxReceiveBufferPerConnection: 2 * window, MaxReceiveBufferPerStream: window}
	server.StartTLS()
	defer server.Close()
	c := e.holder(1)
	c.Server = server
	if _, err := c.Put(bt.ID(1), bt.Request(small("a")...)); err != nil {
		t.Fatal(err)
	}
	before := heapInUse()
	body := &endlessBody{}
	resp, err := c.Raw(http.MethodGet, "/v1/builds/"+string(bt.ID(1))+"/events", body, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	eventually(t, "the window is full", func() bool { return body.n.Load() >= window-1<<20 })
	if grown := int64(heapInUse()) - int64(before); grown > window/2 {
		t.Errorf("%d MiB are held", grown>>20)
	}
}
