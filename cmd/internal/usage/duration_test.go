package usage

import (
	"flag"
	"testing"
	"time"
)

func TestDuration(t *testing.T) {
	var got time.Duration
	fs := flag.NewFlagSet("prog", flag.ContinueOnError)
	DurationVar(fs, &got, "wait", 24*time.Hour, "`TIME` to wait")
	f := fs.Lookup("wait")
	if got != 24*time.Hour || f.DefValue != "1d" {
		t.Errorf("by default %s, shown as %s", got, f.DefValue)
	}
	for text, want := range map[string]time.Duration{
		"90s": 90 * time.Second, "30m": 30 * time.Minute, "2h": 2 * time.Hour, "7d": 7 * 24 * time.Hour,
		"1m30s": 90 * time.Second, "2m0s": 2 * time.Minute, "250ms": 250 * time.Millisecond, "1.5s": 1500 * time.Millisecond,
	} {
		if err := f.Value.Set(text); err != nil || got != want {
			t.Errorf("%s is %s: %v", text, got, err)
		}
		shown := f.Value.String()
		if err := f.Value.Set(shown); err != nil || got != want {
			t.Errorf("%s is shown as %s, which is %s: %v", text, shown, got, err)
		}
	}
	for _, text := range []string{"", "0s", "-1s", "5", "soon", "1w"} {
		if err := f.Value.Set(text); err == nil {
			t.Errorf("%q is taken for %s", text, got)
		}
	}
}
