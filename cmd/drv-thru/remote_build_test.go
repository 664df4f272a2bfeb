package main

import (
	"context"
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/drv-thru/drv-thru/core/client"
	"github.com/drv-thru/drv-thru/core/wire"
)

type answers func(*http.Request) wire.Build

func (f answers) RoundTrip(req *http.Request) (*http.Response, error) {
	text, err := json.Marshal(f(req))
	return &http.Response{StatusCode: http.StatusOK, Body: io.NopCloser(strings.NewReader(string(text)))}, err
}

// A build that ends before the request to cancel it arrives was not cancelled.
func TestCancelTooLate(t *testing.T) {
	const id = wire.BuildID("aaaaaaaaaaaaaaaaaaaaaaaaaa")
	for end, cancelled := range map[wire.State]bool{
		wire.StateBuilt: false, wire.StateFailed: false, wire.StateCancelled: true,
		wire.StateBuilding: true, // it takes its time
	} {
		rt := answers(func(req *http.Request) wire.Build {
			if req.Method == http.MethodDelete {
				return wire.Build{ID: id, State: end}
			}
			return wire.Build{ID: id, State: wire.StateBuilding}
		})
		s := &client.Session{API: &client.API{Control: rt, Bulk: rt, Base: "https://builder/"}, Retry: client.DefaultRetry, Observer: &eventsOnly{}, Now: time.Now}
		if _, err := cancelRemote(context.Background(), s, id); (err == nil) != cancelled {
			t.Errorf("%s: %v", end, err)
		}
	}
}
