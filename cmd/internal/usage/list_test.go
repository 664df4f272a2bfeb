package usage

import (
	"slices"
	"testing"
)

func TestNames(t *testing.T) {
	var n Names
	for _, text := range []string{"https://a.example", "b.example:1, c.example"} {
		if err := n.Set(text); err != nil {
			t.Fatal(err)
		}
	}
	if want := []string{"https://a.example", "b.example:1", "c.example"}; !slices.Equal(n, want) {
		t.Errorf("%q, want %q", n, want)
	}
	for _, text := range []string{"", ",", "a,", "a,,b"} {
		if err := new(Names).Set(text); err == nil {
			t.Errorf("%q is taken", text)
		}
	}
}
