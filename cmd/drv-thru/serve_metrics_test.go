package main

import "testing"

func TestMetricsAddress(t *testing.T) {
	for _, tt := range []struct {
		metrics string
		public  bool
		want    string // "" for an error
	}{
		{"9464", false, "127.0.0.1:9464"},
		{":9464", false, "127.0.0.1:9464"},
		{":9464", true, ":9464"},
		{"localhost:9464", false, "127.0.0.1:9464"},
		{"[::1]:9464", false, "[::1]:9464"},
		{"0.0.0.0:9464", false, ""},
		{"0.0.0.0:9464", true, "0.0.0.0:9464"},
		{"192.0.2.1:9464", false, ""},
		{"[::]:9464", false, ""},
		{"192.0.2.1:9464", true, "192.0.2.1:9464"},
		{"metrics", true, ""},
		{"builder.example:9464", true, ""},
		{"1:2:3", true, ""},
	} {
		at, err := (&serveConfig{Metrics: tt.metrics, MetricsPublic: tt.public}).metricsAddress()
		if at != tt.want || (err == nil) != (tt.want != "") {
			t.Errorf("%s, public %t: %s, %v", tt.metrics, tt.public, at, err)
		}
	}
}
