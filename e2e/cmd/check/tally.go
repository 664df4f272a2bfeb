package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"slices"
	"strings"
	"time"
)

// A tally counts checks and remembers which failed.
type tally struct {
	passed  int
	failed  []string
	skipped []string
}

func (t *tally) pass() { t.passed++ }

func (t *tally) fail(name, output string) {
	t.failed = append(t.failed, name)
	fmt.Printf("FAIL %s\n%s\n", name, strings.TrimRight(output, "\n"))
}

// report prints the result, the count last, and returns the exit status.
func (t *tally) report() int {
	for _, name := range t.skipped {
		fmt.Printf("skipped: %s\n", name)
	}
	for _, name := range t.failed {
		fmt.Printf("failed: %s\n", name)
	}
	fmt.Printf("%d passed, %d failed\n", t.passed, len(t.failed))
	if len(t.failed) > 0 {
		return 1
	}
	return 0
}

// command runs a program that tells by its exit status whether the check holds.
func (t *tally) command(name string, env []string, argv ...string) {
	t.judge(name, env, argv, func(string) bool { return true })
}

// silent is command for a program that must not print anything either.
func (t *tally) silent(name string, env []string, argv ...string) {
	t.judge(name, env, argv, func(out string) bool { return out == "" })
}

func (t *tally) judge(name string, env, argv []string, ok func(output string) bool) {
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Env = append(os.Environ(), env...)
	out, err := cmd.CombinedOutput()
	switch {
	case err != nil:
		t.fail(name, fmt.Sprintf("%s%v", out, err))
	case !ok(string(out)):
		t.fail(name, string(out))
	default:
		t.pass()
		fmt.Printf("ok   %s\n", name)
	}
}

// event is a line of "go test -json": cmd/test2json of Go 1.24 and later.
type event struct {
	Action      string
	Package     string
	ImportPath  string
	Test        string
	Elapsed     float64
	Output      string
	FailedBuild string
}

// goTest runs "go test -json" and counts every test, benchmark and subtest, and
// every package that fails for another reason than its tests.
func (t *tally) goTest(prefix string, env []string, args ...string) {
	t.goTestIn(".", prefix, env, args...)
}

// goTestIn is goTest in a folder, which may be another module's.
func (t *tally) goTestIn(dir, prefix string, env []string, args ...string) {
	cmd := exec.Command("go", append([]string{"test", "-json"}, args...)...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), env...)
	cmd.Stderr = os.Stderr
	stdout, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		t.fail(prefix+"go test", err.Error())
		return
	}
	failedBefore := len(t.failed)
	parseErr := t.events(prefix, stdout)
	err = cmd.Wait()
	if parseErr != nil {
		err = parseErr
	}
	if err != nil && len(t.failed) == failedBefore {
		t.fail(prefix+"go test "+strings.Join(args, " "), err.Error())
	}
}

// events counts a stream of test events.
func (t *tally) events(prefix string, stream io.Reader) error {
	output := make(map[string]string) // by package, test
	blamed := make(map[string]bool)   // packages with a failed test
	ran := make(map[string]bool)      // packages with any test
	running := make(map[string]bool)  // tests, by key
	lines := bufio.NewReader(stream)
	for {
		line, err := lines.ReadBytes('\n')
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return fmt.Errorf("read go test's output: %w", err)
		}
		var e event
		if err := json.Unmarshal(line, &e); err != nil {
			// What a program prints past the testing package.
			fmt.Printf("%s", line)
			continue
		}
		if e.Package == "" {
			e.Package = e.ImportPath
		}
		pkg := strings.TrimPrefix(e.Package, "github.com/drv-thru/drv-thru/")
		key := pkg + "\x00" + e.Test
		name := prefix + strings.TrimSpace(pkg+" "+e.Test)
		switch e.Action {
		case "run":
			running[key] = true
		case "pass", "fail", "skip":
			delete(running, key)
		}
		switch e.Action {
		case "output", "build-output":
			t.output(output, key, e)
		case "pass":
			if e.Test != "" {
				t.pass()
				ran[pkg] = true
			} else if ran[pkg] {
				fmt.Printf("ok   %s (%v)\n", name, seconds(e.Elapsed))
			}
			delete(output, key)
		case "skip":
			if e.Test != "" {
				t.skipped = append(t.skipped, name)
			}
		case "fail":
			switch {
			case e.Test != "":
				t.fail(name, output[key])
				blamed[pkg] = true
			case e.FailedBuild != "":
				t.fail(name, output[strings.TrimPrefix(e.FailedBuild, "github.com/drv-thru/drv-thru/")+"\x00"])
			case !blamed[pkg]:
				t.fail(name, output[key])
			}
			if e.Test == "" {
				t.unended(prefix, pkg, running, output)
			}
		}
	}
}

// unended fails the tests that a package was in when it ended: a panic or a timeout
// ends the rest of its tests, too.
func (t *tally) unended(prefix, pkg string, running map[string]bool, output map[string]string) {
	for _, key := range slices.Sorted(maps.Keys(running)) {
		if test, ok := strings.CutPrefix(key, pkg+"\x00"); ok {
			delete(running, key)
			t.fail(prefix+pkg+" "+test+" (did not end)", output[key])
		}
	}
}

// shown begins a line that a test prints for whoever reads the run, passed or not.
const shown = "| "

// output keeps what a test prints until it is known whether it matters, and
// prints benchmark results and what is to be shown at once. Long scenarios show that
// they go on.
func (t *tally) output(output map[string]string, key string, e event) {
	const keep = 256 << 10
	if len(output[key]) < keep {
		output[key] += e.Output
	}
	if strings.HasPrefix(e.Test, "Benchmark") || strings.HasPrefix(e.Output, "Benchmark") || strings.HasPrefix(e.Output, shown) {
		fmt.Print(e.Output)
	}
	if strings.HasPrefix(e.Output, "--- ") && !strings.Contains(e.Test, "/") && strings.HasSuffix(e.Package, "/e2e") {
		fmt.Print(e.Output)
	}
}

func seconds(s float64) time.Duration {
	return time.Duration(s * float64(time.Second)).Round(time.Second / 100)
}
