package usage

import "testing"

func TestCount(t *testing.T) {
	for text, want := range map[string]string{
		"1": "", "2147483647": "",
		"": "want a number of at least 1", "0": "want a number of at least 1", "-1": "want a number of at least 1",
		"1.5": "want a number of at least 1", "many": "want a number of at least 1",
		"-99999999999999999999": "want a number of at least 1",
		"99999999999999999999":  "it is too large",
	} {
		c := Count(7)
		got := ""
		if err := c.Set(text); err != nil {
			got = err.Error()
		}
		if got != want {
			t.Errorf("%q: %q, want %q", text, got, want)
		}
		if want != "" && c != 7 {
			t.Errorf("%q changed it to %d", text, c)
		}
	}
}
