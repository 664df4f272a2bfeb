package builtin

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/drv-thru/drv-thru/core/ticket"
	"github.com/drv-thru/drv-thru/policy"
)

func TestLimits(t *testing.T) {
	data, err := os.ReadFile(filepath.Join("testdata", "cases.json"))
	if err != nil {
		t.Fatal(err)
	}
	cases, err := policy.ParseCases(data)
	if err != nil {
		t.Fatal(err)
	}
	m, err := policy.NewHost(policy.Config{Wall: time.Minute}).Load(t.Context(), Limits)
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	if m.Info().Interpreted {
		t.Error("it is interpreted: a function of it is too hard to compile")
	}
	for _, c := range cases {
		if _, err := m.Check(t.Context(), c); err != nil {
			t.Errorf("%s: %v", c.Name, err)
		}
	}
}

// TestLargestRequest: a request that fills standard input is decided on.
func TestLargestRequest(t *testing.T) {
	m, err := policy.NewHost(policy.Config{Wall: time.Minute}).Load(t.Context(), Limits)
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	r := policy.Sample()
	for i := range 20_000 {
		r.Request.ToBuild = append(r.Request.ToBuild, policy.Planned{Name: fmt.Sprintf("package-%d", i), System: "x86_64-linux"})
	}
	res, err := m.Decide(t.Context(), r, ticket.Limits{})
	if err != nil || res.Cost.Stdin < policy.MaxStdin-1024 {
		t.Errorf("%+v, %v", res, err)
	}
}

func benchRequest() policy.Request {
	r := policy.Sample()
	r.Settings = json.RawMessage(`{"client":{"builds_hour":3},"limits":{"max_build_seconds":600}}`)
	return r
}

// BenchmarkDecide is a warm decision by the built-in policy.
func BenchmarkDecide(b *testing.B) {
	m, err := policy.NewHost(policy.Config{Wall: time.Minute}).Load(b.Context(), Limits)
	if err != nil {
		b.Fatal(err)
	}
	defer m.Close()
	r := benchRequest()
	limits := r.Ticket.Limits.Native()
	b.ReportAllocs()
	for b.Loop() {
		if _, err := m.Decide(b.Context(), r, limits); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkNative is the same decision by a Go function, from text to text.
func BenchmarkNative(b *testing.B) {
	r := benchRequest()
	b.ReportAllocs()
	for b.Loop() {
		text, err := r.Encode()
		if err != nil {
			b.Fatal(err)
		}
		answer, err := native(text)
		if err != nil {
			b.Fatal(err)
		}
		d, err := policy.DecodeDecision(answer)
		if err != nil || d.Decision != policy.Narrow || d.Limits.MaxBuildSeconds != 600 {
			b.Fatal(d, err)
		}
	}
}

func native(text []byte) ([]byte, error) {
	var r struct {
		Ticket   struct{ Limits policy.Limits }
		Client   struct{ Usage policy.Usage }
		Settings struct {
			Client struct {
				BuildsHour *policy.Count `json:"builds_hour"`
			}
			Limits policy.Limits
		}
	}
	if err := json.Unmarshal(text, &r); err != nil {
		return nil, err
	}
	d := policy.Decision{ABI: policy.ABI, Decision: policy.Allow}
	if most := r.Settings.Client.BuildsHour; most != nil && r.Client.Usage.BuildsHour >= *most {
		d.Decision, d.Reason = policy.Deny, "too many builds"
	} else if n := r.Settings.Limits.MaxBuildSeconds; n < r.Ticket.Limits.MaxBuildSeconds {
		d.Decision, d.Limits = policy.Narrow, &policy.Limits{MaxBuildSeconds: n}
	}
	return json.Marshal(d)
}

// BenchmarkLoad compiles the built-in policy, and reads it from the disk cache.
func BenchmarkLoad(b *testing.B) {
	for name, dir := range map[string]string{"compiled": "", "cached": b.TempDir()} {
		b.Run(name, func(b *testing.B) {
			h := policy.NewHost(policy.Config{CacheDir: dir})
			for b.Loop() {
				m, err := h.Load(b.Context(), Limits)
				if err != nil {
					b.Fatal(err)
				}
				m.Close()
			}
		})
	}
}
