package main

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/drv-thru/drv-thru/cmd/drv-thru/internal/metrics"
)

// metricsAddress is where metrics are served, "" for nowhere. They tell who is
// busy when: other machines read them only where that was said.
func (c *serveConfig) metricsAddress() (string, error) {
	if c.Metrics == "" {
		return "", nil
	}
	host, port, err := net.SplitHostPort(c.Metrics)
	if err != nil {
		host, port = "", c.Metrics
	}
	if _, err := strconv.ParseUint(port, 10, 16); err != nil {
		return "", usagef("--metrics=%s: want PORT or ADDRESS:PORT", c.Metrics)
	}
	if host == "" && c.MetricsPublic {
		return ":" + port, nil
	}
	if host == "" || host == "localhost" {
		host = "127.0.0.1"
	}
	addr, err := netip.ParseAddr(host)
	if err != nil {
		return "", usagef("--metrics=%s: %q is not an IP address", c.Metrics, host)
	}
	if !addr.IsLoopback() && !c.MetricsPublic {
		return "", &hintError{
			usagef("--metrics=%s: other machines would reach it", c.Metrics),
			"let a Prometheus on this machine read it, or say --metrics-public (metrics_public in the configuration)",
		}
	}
	return net.JoinHostPort(host, port), nil
}

// serveMetrics serves what m counts until the server that it returns is closed.
func (c *serveConfig) serveMetrics(m *metrics.Metrics, log *slog.Logger, failed func(error)) (*http.Server, error) {
	srv := &http.Server{ReadHeaderTimeout: 10 * time.Second, ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelDebug)}
	at, err := c.metricsAddress()
	if err != nil || at == "" {
		return srv, err // closes as one that never served
	}
	l, err := net.Listen("tcp", at)
	if err != nil {
		return nil, &hintError{fmt.Errorf("listen for metrics: %w", err), "listen elsewhere with --metrics ADDR"}
	}
	registry := prometheus.NewRegistry()
	if err := errors.Join(registry.Register(m), registry.Register(collectors.NewGoCollector()),
		registry.Register(collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))); err != nil {
		return nil, errors.Join(err, l.Close())
	}
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(registry, promhttp.HandlerOpts{}))
	srv.Handler = mux
	go func() { failed(srv.Serve(l)) }()
	log.Info("metrics", "url", "http://"+l.Addr().String()+"/metrics")
	return srv, nil
}
