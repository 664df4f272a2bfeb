package ticket

import (
	"encoding/json"
	"testing"
	"time"
)

func TestDuration(t *testing.T) {
	for text, want := range map[string]time.Duration{
		"90s": 90 * time.Second, "30m": 30 * time.Minute, "2h": 2 * time.Hour, "7d": 7 * 24 * time.Hour, "1h30m": 90 * time.Minute,
	} {
		got, err := ParseDuration(text)
		if err != nil || got.Std() != want {
			t.Errorf("%s: %v, %v", text, got.Std(), err)
		}
		if back, err := ParseDuration(got.String()); err != nil || back != got {
			t.Errorf("%s prints as %s", text, got)
		}
	}
	for _, text := range []string{"", "0s", "5", "-1s", "1.5h", "1h 30m", "30m1h", "1w", "s", "106752d", "106751d24h", "106751d2562047h153722867m", "99999999999999999999s", "1s1s"} {
		if got, err := ParseDuration(text); err == nil {
			t.Errorf("%q is taken as %s", text, got)
		}
	}
}

func TestSize(t *testing.T) {
	for text, want := range map[string]Size{
		"512": 512, "1K": 1 << 10, "500M": 500 << 20, "20G": 20 << 30, "1T": 1 << 40, "unlimited": 0,
	} {
		got, err := ParseSize(text)
		if err != nil || got != want || got.String() != text {
			t.Errorf("%s: %d (%s), %v", text, got, got, err)
		}
	}
	for _, text := range []string{"", "0", "-1", "1.5G", "1g", "1GB", "G", "8388608T", "+1", "1 G", "99999999999999999999"} {
		if got, err := ParseSize(text); err == nil {
			t.Errorf("%q is taken as %d", text, got)
		}
	}
}

func TestLimitsJSON(t *testing.T) {
	want := Limits{MaxBuildTime: DefaultMaxBuildTime, MaxUploadBytes: DefaultMaxUploadBytes, Systems: []string{"x86_64-linux"}, NoFixedOutput: true}
	data, err := json.Marshal(want)
	if err != nil {
		t.Fatal(err)
	}
	const text = `{"max_build_time":"30m","max_upload_bytes":"20G","systems":["x86_64-linux"],"no_fixed_output":true}`
	if string(data) != text {
		t.Errorf("got %s", data)
	}
	var got Limits
	if err := json.Unmarshal(data, &got); err != nil || got.MaxBuildTime != want.MaxBuildTime || got.MaxUploadBytes != want.MaxUploadBytes {
		t.Errorf("read back %+v, %v", got, err)
	}
}

func FuzzLimits(f *testing.F) {
	f.Add("1h30m", "20G")
	f.Fuzz(func(t *testing.T, duration, size string) {
		if d, err := ParseDuration(duration); err == nil {
			if back, err := ParseDuration(d.String()); err != nil || back != d {
				t.Fatalf("%q prints as %s", duration, d)
			}
		}
		if s, err := ParseSize(size); err == nil {
			if back, err := ParseSize(s.String()); err != nil || back != s {
				t.Fatalf("%q prints as %s", size, s)
			}
		}
	})
}
