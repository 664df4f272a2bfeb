//go:build linux

package lab

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// Dir is the lab's state directory: the root file systems and the binaries
// under test. DRV_THRU_LAB_DIR changes it.
func Dir() string {
	if dir := os.Getenv("DRV_THRU_LAB_DIR"); dir != "" {
		return dir
	}
	return "/var/lib/drv-thru-lab"
}

// Need fails the test when the machine cannot run the lab, or lacks one of the
// root file systems named, and says what to do about it. It never skips: a run
// without the lab must not look like a success.
func Need(t T, roots ...Root) {
	t.Helper()
	if problems := missing(roots); len(problems) > 0 {
		t.Fatalf("the lab cannot run here:\n- %s", strings.Join(problems, "\n- "))
	}
}

func missing(roots []Root) (problems []string) {
	if os.Geteuid() != 0 {
		problems = append(problems, "it needs root (namespaces, mounts, build users): run e2e/test, or this test with sudo -E")
	}
	if fd, err := unix.Open("/dev/fuse", unix.O_RDWR|unix.O_CLOEXEC, 0); err != nil {
		problems = append(problems, fmt.Sprintf("it needs FUSE, and /dev/fuse does not open (%v): modprobe fuse, or give the container the device", err))
	} else {
		unix.Close(fd)
	}
	for _, root := range roots {
		if root == Here {
			continue
		}
		made := filepath.Join(Dir(), "roots", string(root)+".made")
		if _, err := os.Stat(made); err != nil {
			problems = append(problems, fmt.Sprintf("it needs the root file system %s in %s: run e2e/roots", root, Dir()))
		}
	}
	return problems
}
