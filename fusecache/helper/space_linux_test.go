package helper

import (
	"bytes"
	"os"
	"os/exec"
	"testing"
)

// Root of a container may not leave its mount namespace, and needs to only where
// something is to be mounted.
func TestSpaceWithoutMounts(t *testing.T) {
	s, err := newSpace(false)
	if err != nil {
		t.Fatal(err)
	}
	defer s.close()
	here, err := os.Readlink("/proc/self/ns/mnt")
	if err != nil {
		t.Fatal(err)
	}
	var there bytes.Buffer
	cmd := exec.Command("readlink", "/proc/self/ns/mnt")
	cmd.Stdout = &there
	if err := s.do(cmd.Start); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil || there.String() != here+"\n" {
		t.Errorf("it is in %q, this process in %q: %v", &there, here, err)
	}
}
