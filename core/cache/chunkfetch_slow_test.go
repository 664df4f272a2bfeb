package cache

import (
	"io"
	"net/http"
	"time"
)

// slowLink lets so many bytes a second of each answer through.
type slowLink struct {
	http.RoundTripper
	rate int
}

// sharedLink lets so many bytes a second of all answers through.
type sharedLink struct {
	http.RoundTripper
	rate int
	turn chan struct{}
}

func (l sharedLink) RoundTrip(r *http.Request) (*http.Response, error) {
	resp, err := l.RoundTripper.RoundTrip(r)
	if err == nil {
		resp.Body = &sharedBody{slowBody{resp.Body, l.rate}, l.turn}
	}
	return resp, err
}

type sharedBody struct {
	slowBody
	turn chan struct{}
}

func (b *sharedBody) Read(p []byte) (int, error) {
	b.turn <- struct{}{}
	defer func() { <-b.turn }()
	return b.slowBody.Read(p)
}

func (l slowLink) RoundTrip(r *http.Request) (*http.Response, error) {
	resp, err := l.RoundTripper.RoundTrip(r)
	if err == nil {
		resp.Body = &slowBody{resp.Body, l.rate}
	}
	return resp, err
}

type slowBody struct {
	io.ReadCloser
	rate int
}

func (b *slowBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p[:min(len(p), 4<<10)])
	time.Sleep(time.Duration(n) * time.Second / time.Duration(b.rate))
	return n, err
}
