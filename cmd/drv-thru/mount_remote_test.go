package main

import (
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/drv-thru/drv-thru/core/client"
	"github.com/drv-thru/drv-thru/core/link"
)

// answer is a builder that says the same to everything.
type answer string

func (a answer) RoundTrip(*http.Request) (*http.Response, error) {
	return &http.Response{
		StatusCode: http.StatusOK, Header: http.Header{"Content-Type": {"application/json"}}, Body: io.NopCloser(strings.NewReader(string(a))),
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
