//go:build linux || darwin || freebsd || netbsd || openbsd || dragonfly

package pack

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
)

// writer is the environment variable that makes the test binary a process that
// stores chunks and halts at a known point: "DIR WRITE PART", where WRITE is
// the number of the write at which it halts and PART how many bytes of that are
// written before.
const writer = "DRV_THRU_PACK_WRITER"

func TestMain(m *testing.M) {
	if arg, ok := os.LookupEnv(writer); ok {
		runWriter(strings.Fields(arg))
		return
	}
	os.Exit(m.Run())
}

// runWriter stores chunks 0 to 24. It never ends by itself before its input
// does, so that who started it decides when it ends and how.
func runWriter(args []string) {
	halt, _ := strconv.Atoi(args[1])
	part, _ := strconv.Atoi(args[2])
	s, err := Open(args[0], config(newClock()))
	if err != nil {
		fmt.Println(err)
		return
	}
	writes := 0
	s.writeAt = func(f *os.File, p []byte, off int64) (int, error) {
		if writes == halt {
			if _, err := f.WriteAt(p[:min(part, len(p))], off); err != nil {
				fmt.Println(err)
			}
			fmt.Println("halted")
			_, _ = io.Copy(io.Discard, os.Stdin)
			os.Exit(0)
		}
		writes++
		return f.WriteAt(p, off)
	}
	for i := range 25 {
		if err := s.Put(id(i), data(i)); err != nil {
			fmt.Println(err)
		}
	}
	fmt.Println("stored")
	_, _ = io.Copy(io.Discard, os.Stdin)
	if err := s.Close(); err != nil {
		fmt.Println(err)
	}
}

// start runs a writer until it halts, and returns what it said.
func start(t *testing.T, dir string, halt, part int) (cmd *exec.Cmd, stdin io.Closer, said string) {
	t.Helper()
	cmd = exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), fmt.Sprintf("%s=%s %d %d", writer, dir, halt, part))
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if cmd.ProcessState == nil {
			_ = cmd.Process.Kill()
			_ = cmd.Wait()
		}
	})
	said, err = bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	return cmd, in, strings.TrimSpace(said)
}

// A process is killed before, within and after each kind of write.
func TestKilled(t *testing.T) {
	for halt := range 6 {
		for _, part := range []int{0, 1, entrySize, entrySize + 1, 1 << 30} {
			dir := t.TempDir()
			cmd, _, said := start(t, dir, halt, part)
			if said != "halted" {
				t.Fatal(said)
			}
			if err := cmd.Process.Kill(); err != nil {
				t.Fatal(err)
			}
			_ = cmd.Wait() // its error says that it was killed

			what := fmt.Sprintf("killed in write %d after %d bytes", halt, part)
			s := open(t, dir, config(newClock()))
			have := present(t, s, 0, 25)
			for i, n := range have {
				if i != n {
					t.Fatalf("%s: there are %v", what, have)
				}
			}
			if halt > 0 && len(have) == 0 {
				t.Fatalf("%s: nothing is left", what)
			}
			put(t, s, 0, 25)
			all(t, s, 0, 25)
			s.Close()
			all(t, open(t, dir, config(newClock())), 0, 25)
			if n := len(files(t, dir, packSuffix)); n > 2 {
				t.Fatalf("%s: %d packs", what, n)
			}
		}
	}
}

// While another process appends, its pack is read, not appended to and not
// removed; when it has ended, all of it is there.
func TestTwoProcesses(t *testing.T) {
	dir, c := t.TempDir(), newClock()
	cmd, stdin, said := start(t, dir, -1, 0)
	if said != "stored" {
		t.Fatal(said)
	}
	s := open(t, dir, config(c))
	early := present(t, s, 0, 25)
	if len(early) == 0 || len(early) == 25 {
		t.Fatalf("of an open pack there are %v", early)
	}
	put(t, s, 100, 120)
	starve(t, s)
	if have := present(t, s, 0, 25); len(have) == 0 {
		t.Fatal("removed under its writer")
	}
	stdin.Close()
	if err := cmd.Wait(); err != nil {
		t.Fatal(err)
	}
	late := present(t, open(t, dir, config(c)), 0, 25)
	c.add(stale)
	again := present(t, s, 0, 25)
	if late[len(late)-1] != 24 || len(again) != len(late) {
		t.Fatalf("at the end there are %v and %v", late, again)
	}
}

// Another process may take a new pack before it is locked, for one to append to or
// to remove.
func TestNewPackTaken(t *testing.T) {
	dir, c := t.TempDir(), newClock()
	s := open(t, dir, config(c))
	tries := 0
	s.lock = func(path string) (*os.File, error) {
		switch tries++; tries {
		case 1:
			if err := remove(path); err != nil {
				t.Fatal(err)
			}
		case 2:
			other, err := lock(path)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { other.Close() })
		}
		return lock(path)
	}
	put(t, s, 0, 20)
	all(t, s, 0, 20)
	if tries != 3 {
		t.Errorf("%d tries", tries)
	}
}
