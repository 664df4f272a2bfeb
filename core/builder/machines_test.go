package builder

import (
	"strings"
	"testing"
	"time"

	"github.com/drv-thru/drv-thru/core/nix/daemon"
	"github.com/drv-thru/drv-thru/core/wire"
)

func TestMachineName(t *testing.T) {
	for uri, want := range map[string]string{
		"ssh://a.example": "a.example",
		"ssh-ng://nix@a.example:2222?ssh-key=/root/.ssh/id&max-connections=1": "a.example:2222",
		"root@old.example":         "old.example",
		"ssh://root@[2001:db8::1]": "[2001:db8::1]",
		"daemon":                   "daemon",
		"ssh://b.example/":         "b.example",
	} {
		if got := MachineName(uri); got != want {
			t.Errorf("%s: %q, want %q", uri, got, want)
		}
	}
}

func TestWithoutURLs(t *testing.T) {
	for text, want := range map[string]string{
		"building '/nix/store/x.drv' on 'ssh-ng://nix@a.example?ssh-key=/root/id'":   "building '/nix/store/x.drv' on 'a.example'",
		"cannot build on ‘ssh://root@b:22’: failed to start SSH connection to 'b'\n": "cannot build on ‘b:22’: failed to start SSH connection to 'b'\n",
		"building openssh":            "building openssh",
		"https://ssh.example/a@b?c=d": "https://ssh.example/a@b?c=d",
		"":                            "",
	} {
		if got := withoutURLs(text); got != want {
			t.Errorf("%q: %q, want %q", text, got, want)
		}
	}
}

// A message comes in pieces that end anywhere.
func TestMessagesWithoutURLs(t *testing.T) {
	const (
		message = "cannot build on 'ssh-ng://nix@a.example?ssh-key=/root/id': it is ssh\n"
		want    = "cannot build on 'a.example': it is ssh\n"
	)
	for cut := range len(message) {
		l := newLog(t, DefaultMaxLog)
		s := &sink{log: l}
		s.Message([]byte(message[:cut]), true)
		s.Message([]byte(message[cut:]), false)
		l.add(&wire.Event{Type: wire.EventFinished, Result: &wire.Result{}})
		got := ""
		for _, e := range readAll(t, l, 1) {
			if e.Log != nil {
				got += e.Log.Text
			}
		}
		if got != want {
			t.Errorf("cut at %d: %q", cut, got)
		}
	}
	long := strings.Repeat("x", 3*maxHeld)
	l := newLog(t, DefaultMaxLog)
	s := &sink{log: l}
	s.Message([]byte(long), true)
	if len(s.held) > 0 {
		t.Errorf("%d bytes of a word without end are held", len(s.held))
	}
}

// The owner is shown what is being built, not what was.
func TestBuildingNow(t *testing.T) {
	b := &build{s: &Service{cfg: Config{Now: time.Now, Meter: noMeter{}}}}
	begin := func(id uint64, drv string) {
		b.began(&daemon.Activity{ID: id, Fields: []daemon.Field{{IsString: true, Str: drv}}})
	}
	begin(1, "first")
	begin(2, "second")
	b.stopped(1)
	if now := b.buildingNow(); len(now) != 1 || now[0].Drv != "second" {
		t.Errorf("%+v", now)
	}
	for id := range uint64(2 * maxBuildingDrvs) {
		begin(10+id, "more")
	}
	if now := b.buildingNow(); len(now) != maxBuildingDrvs {
		t.Errorf("%d are remembered", len(now))
	}
}
