package main

import "testing"

func TestDecide(t *testing.T) {
	for _, c := range []struct {
		name  string
		allow []string
		want  string
	}{
		{"hello-2.12", []string{"hello-*"}, "allow"},
		{"hello-2.12", []string{"x", "h?llo-*"}, "allow"},
		{"firefox", []string{"hello-*"}, "deny"},
		{"firefox", nil, "deny"},
	} {
		var r Request
		r.Event, r.Settings.Allow = "build", c.allow
		r.Request.Roots = []Named{{Name: c.name}}
		if d := decide(r); d.Decision != c.want {
			t.Errorf("%s with %q: %+v, want %s", c.name, c.allow, d, c.want)
		}
	}
}

func TestNarrow(t *testing.T) {
	var r Request
	r.Settings.Allow, r.Settings.MaxBuildSeconds = []string{"*"}, 60
	if d := decide(r); d.Decision != "narrow" || d.Limits.MaxBuildSeconds != 60 {
		t.Errorf("%+v", d)
	}
	r.Ticket.Limits.MaxBuildSeconds = 30
	if d := decide(r); d.Decision != "allow" {
		t.Errorf("a limit that is tighter already: %+v", d)
	}
}
