package main

import (
	"os"
	"path/filepath"
	"reflect"
	"testing"
)

func TestReadMachines(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	file := write("machines", `# a comment; ssh://not.a.machine riscv64-linux
ssh-ng://nix@arm.example:2222?ssh-key=/root/key aarch64-linux,armv7l-linux - 8 1 kvm,big-parallel benchmark - # another
root@old.example
`)
	circle := filepath.Join(dir, "circle")
	write("circle", "@"+circle)
	native := []string{"x86_64-linux"}
	arm := nixMachine{"arm.example:2222", []string{"aarch64-linux", "armv7l-linux"}, []string{"kvm", "big-parallel", "benchmark"}}
	old := nixMachine{"old.example", native, nil}
	for _, tt := range []struct {
		value string
		want  []nixMachine
		fails bool
	}{
		{"", nil, false},
		{"@/nowhere/machines", nil, false},
		{"@" + file, []nixMachine{arm, old}, false},
		{"ssh://a - ; @" + file + " ;ssh://b riscv64-linux", []nixMachine{{"a", native, nil}, arm, old, {"b", []string{"riscv64-linux"}, nil}}, false},
		{"ssh://a;@" + dir, []nixMachine{{"a", native, nil}}, true},
		{"@" + circle, nil, true},
	} {
		got, err := readMachines(tt.value, native[0])
		if !reflect.DeepEqual(got, tt.want) || (err != nil) != tt.fails {
			t.Errorf("%q: %+v, %v", tt.value, got, err)
		}
	}
}

func TestOffered(t *testing.T) {
	s := &nixSettings{
		systems: []string{"x86_64-linux", "i686-linux"}, features: []string{"kvm"}, maxJobs: 4,
		machines: []nixMachine{{"a", []string{"aarch64-linux", "x86_64-linux"}, []string{"big-parallel", "kvm"}}},
	}
	for _, tt := range []struct {
		jobs              uint
		systems, features []string
	}{
		{4, []string{"x86_64-linux", "i686-linux", "aarch64-linux"}, []string{"kvm", "big-parallel"}},
		{0, []string{"aarch64-linux", "x86_64-linux"}, []string{"big-parallel", "kvm"}},
	} {
		s.maxJobs = tt.jobs
		if systems, features := s.offered(); !reflect.DeepEqual(systems, tt.systems) || !reflect.DeepEqual(features, tt.features) {
			t.Errorf("max-jobs %d: %v, %v", tt.jobs, systems, features)
		}
	}
	s.only = []string{"i686-linux"} // "systems" of the configuration
	if systems, features := s.offered(); !reflect.DeepEqual(systems, s.only) || !reflect.DeepEqual(features, []string{"big-parallel", "kvm"}) {
		t.Errorf("only %v: %v, %v", s.only, systems, features)
	}
	// Nobody but the daemon may read which there are.
	s.only, s.machines, s.maxJobs = nil, nil, 0
	if systems, features := s.offered(); !reflect.DeepEqual(systems, s.systems) || !reflect.DeepEqual(features, s.features) {
		t.Errorf("unknown machines: %v, %v", systems, features)
	}
}
