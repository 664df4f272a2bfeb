package client

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/drv-thru/drv-thru/core/wire"
)

// A builder whose disk was full has no last event, but knows how the build ended.
func TestEventsWithoutEnd(t *testing.T) {
	for _, follow := range []string{"attach", "past"} {
		inBubble(t, func(t *testing.T, r *rig) {
			r.builder.override = func(w http.ResponseWriter, req *http.Request) bool {
				switch {
				case strings.HasSuffix(req.URL.Path, "/events"):
					if req.URL.Query().Get("from") == "1" {
						_, _ = w.Write([]byte(`{"seq":1,"type":"phase","state":"building"}` + "\n"))
					}
				default:
					answer(w, wire.Build{ID: testID, State: wire.StateFailed, LastEvent: 1, Result: &wire.Result{Error: wire.Errorf(wire.CodeDisk, "full")}})
				}
				return true
			}
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			var result *wire.Result
			var err error
			if follow == "attach" {
				result, err = r.Attach(ctx, testID)
			} else if err = r.Past(ctx, testID); err == nil {
				result = &wire.Result{Error: wire.CodeDisk.Err()}
			}
			if err != nil || result == nil || result.Error == nil || result.Error.Code != wire.CodeDisk || len(r.seen.events) != 1 {
				t.Errorf("%s: %+v, %v after %d events", follow, result, err, len(r.seen.events))
			}
		})
	}
}

// A builder that takes a question and tells nothing, or a byte now and then, is not
// waited for without end.
func TestSilentAnswers(t *testing.T) {
	for name, drip := range map[string]time.Duration{"nothing": time.Hour, "drip": time.Second} {
		inBubble(t, func(t *testing.T, r *rig) {
			r.builder.override = func(w http.ResponseWriter, req *http.Request) bool {
				for req.Context().Err() == nil {
					select {
					case <-time.After(drip):
						_, _ = w.Write([]byte(" "))
					case <-req.Context().Done():
					}
				}
				return true
			}
			began := time.Now()
			if _, err := r.API.Info(t.Context(), ""); !errors.Is(err, ErrConnection) || !errors.Is(err, errStalled) {
				t.Errorf("%s: %v", name, err)
			}
			if took := time.Since(began); took > 2*answerTime {
				t.Errorf("%s: it took %v", name, took)
			}
			if _, err := r.Closure(t.Context(), testID); !errors.Is(err, errStalled) {
				t.Errorf("%s: %v", name, err)
			}
			if took := time.Since(began); took > 3*r.Retry.GiveUp {
				t.Errorf("%s: it took %v", name, took)
			}
		})
	}
}

// A long answer on a slow line is waited for.
func TestSlowAnswer(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		r.builder.override = func(w http.ResponseWriter, _ *http.Request) bool {
			_, _ = w.Write([]byte(`{"software":"`))
			for range 12 {
				time.Sleep(answerTime / 3)
				_, _ = w.Write([]byte(strings.Repeat("x", 40<<10)))
			}
			_, _ = w.Write([]byte(`"}`))
			return true
		}
		if info, err := r.API.Info(t.Context(), ""); err != nil || len(info.Software) != 12*40<<10 {
			t.Errorf("%d bytes, %v", len(info.Software), err)
		}
	})
}

// A result that is too long for an event is asked for.
func TestResultIsNoEvents(t *testing.T) {
	for _, told := range []*wire.Result{{Error: wire.CodeBuildFailed.Err()}, nil} {
		inBubble(t, func(t *testing.T, r *rig) {
			r.builder.override = func(w http.ResponseWriter, req *http.Request) bool {
				if strings.HasSuffix(req.URL.Path, "/events") {
					_, _ = w.Write([]byte(`{"seq":1,"type":"finished","state":"failed"}` + "\n"))
				} else {
					answer(w, wire.Build{ID: testID, State: wire.StateFailed, LastEvent: 1, Result: told})
				}
				return true
			}
			result, err := r.Attach(t.Context(), testID)
			if told == nil {
				if !errors.Is(err, ErrProtocol) {
					t.Errorf("without a result: %+v, %v", result, err)
				}
				return
			}
			if err != nil || result == nil || result.Error == nil || result.Error.Code != wire.CodeBuildFailed || len(r.seen.events) != 1 {
				t.Errorf("%+v, %v after %d events", result, err, len(r.seen.events))
			}
		})
	}
}

// A detached build goes on after its builder's machine went down. The events that
// were lost then have given their numbers to others.
func TestAttachedOverLostEvents(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		r.builder.override = func(w http.ResponseWriter, req *http.Request) bool {
			switch from := req.URL.Query().Get("from"); {
			case from == "1":
				_, _ = w.Write([]byte(`{"seq":1,"type":"queued"}` + "\n" + `{"seq":2,"type":"queued"}` + "\n" + `{"seq":3,"type":"queued"}` + "\n"))
			case from == "3":
				_, _ = w.Write([]byte(`{"seq":3,"type":"finished","result":{}}` + "\n"))
			case from == "":
				answer(w, wire.Build{ID: testID, State: wire.StateBuilding, LastEvent: 2})
			}
			return true
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if result, err := r.Attach(ctx, testID); err != nil || result == nil {
			t.Errorf("%+v, %v", result, err)
		}
	})
}
