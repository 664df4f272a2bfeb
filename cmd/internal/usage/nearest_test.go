package usage

import (
	"strings"
	"testing"
)

func TestNearest(t *testing.T) {
	words := []string{"build", "builds", "builders", "ticket", "status", "serve"}
	for word, want := range map[string]string{
		"biuld": "build", "buidl": "build", "buildss": "builds", "tickt": "ticket", "stauts": "status", "srve": "serve",
		"frob": "", "x": "", "": "", "tic": "", "server": "serve", strings.Repeat("serve", 20): "",
	} {
		if got := Nearest(word, words); got != want {
			t.Errorf("%q: %q, want %q", word, got, want)
		}
	}
	if got := NearestCommand(program(), "grup"); got != "group" {
		t.Errorf("grup: %q", got)
	}
	if got := NearestFlag(program().Subcommands[0].FlagSet, &UnknownFlagError{"flie"}); got != "--file" {
		t.Errorf("flie: %q", got)
	}
	if got := NearestFlag(program().Subcommands[0].FlagSet, &UnknownFlagError{"x"}); got != "" {
		t.Errorf("x: %q", got)
	}
}
