package main

import (
	"log/slog"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/drv-thru/drv-thru/cmd/internal/dashboardtest"
	"github.com/drv-thru/drv-thru/core/wire"
	"github.com/drv-thru/drv-thru/relay"
)

// The dashboard shows what --metrics serves.
func TestDashboard(t *testing.T) {
	s := relay.New(relay.Config{})
	// What speaks nothing of ours is a handshake, and refused: so every metric
	// has a series.
	w := httptest.NewRecorder()
	s.ServeHTTP(w, httptest.NewRequest(http.MethodGet, wire.RouteRelayListen, nil))
	if w.Code != http.StatusBadRequest {
		t.Fatal(w.Body)
	}
	r := prometheus.NewPedanticRegistry()
	if err := registerMetrics(r, s, newValidity(slog.New(slog.DiscardHandler))); err != nil {
		t.Fatal(err)
	}
	dashboardtest.Check(t, "../packaging/grafana/drv-thru-relay.json", r)
}
