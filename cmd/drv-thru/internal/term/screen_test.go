package term

import (
	"bytes"
	"strings"
	"testing"
)

func TestScreen(t *testing.T) {
	var out bytes.Buffer
	s := &Screen{w: &out, size: func() (int, int) { return 10, 3 }, unicode: true}
	if err := s.Draw("one\n\x1b[31mtwo which is too long\n"); err != nil {
		t.Fatal(err)
	}
	if want := otherScreen + "\x1b[H" + "one" + "\x1b[K" + "\r\n\x1b[31mtwo whic…\x1b[0m" + "\x1b[K" + "\x1b[J"; out.String() != want {
		t.Errorf("drew %q, want %q", out.String(), want)
	}
	out.Reset()
	if err := s.Draw("1\n2\n3\n4\n"); err != nil {
		t.Fatal(err)
	}
	if got := out.String(); strings.Contains(got, otherScreen) || !strings.Contains(got, "2"+"\x1b[K"+"\r\n…"+"\x1b[K"+"\x1b[J") {
		t.Errorf("drew %q", got)
	}
	out.Reset()
	s.Close()
	s.Close()
	if out.String() != firstScreen {
		t.Errorf("closed with %q", out.String())
	}
	none := NewScreen(&out, func(string) string { return "" })
	if none != nil {
		t.Error("a buffer is a terminal")
	}
	none.Close()
}
