package helper

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

const (
	// copyBatch bounds the paths of one nix copy: its command line has to fit.
	copyBatch = 2000
	// maxLine bounds a line of nix's that is looked at.
	maxLine = 64 << 10
	// Of Nix's libutil/logging.hh: levels of messages, types of activities and
	// results, as --log-format internal-json has them.
	levelWarn       = 1
	activityCopyAll = 103
	resultProgress  = 105
)

// copier runs nix copy.
type copier struct {
	space *space
	nix   string // the program
	path  string // PATH
	home  string // a directory of its own
	from  string // URL
	key   string
	stall time.Duration
	// progress is told of every sign of life.
	progress func(done, expected uint64)
}

// args is the command line for some paths. Whatever could let in what the key has
// not signed, or make nix reach for something else than the mount, is set here:
// options beat nix.conf, and root's are heeded by the daemon.
func (c *copier) args(paths []string) []string {
	args := []string{"--extra-experimental-features", "nix-command"}
	for _, o := range [][2]string{
		{"require-sigs", "true"},
		{"trusted-public-keys", c.key},
		{"secret-key-files", ""},
		{"substituters", ""},
		{"trusted-substituters", ""},
		{"builders", ""},
		{"post-build-hook", ""},
		{"netrc-file", "/dev/null"},
		{"download-attempts", "1"},
		{"connect-timeout", "10"},
		{"stalled-download-timeout", strconv.Itoa(max(1, int(c.stall/time.Second)))},
		{"narinfo-cache-positive-ttl", "60"},
		{"narinfo-cache-negative-ttl", "0"},
	} {
		args = append(args, "--option", o[0], o[1])
	}
	args = append(args, "--log-format", "internal-json", "copy", "--no-recursive", "--from", c.from, "--to", "daemon", "--")
	return append(args, paths...)
}

// env is all that nix gets of an environment.
func (c *copier) env() []string {
	return []string{
		"PATH=" + c.path, "HOME=" + c.home, "TMPDIR=" + c.home, "LANG=C.UTF-8", "NO_COLOR=1",
		"NIX_REMOTE=daemon", "NIX_USER_CONF_FILES=",
	}
}

var errStalled = errors.New("nothing was imported for too long")

// copy imports the paths, in their order.
func (c *copier) copy(ctx context.Context, paths []string) error {
	for batch := range slices.Chunk(paths, copyBatch) {
		if err := c.run(ctx, batch); err != nil {
			return err
		}
	}
	return nil
}

func (c *copier) run(ctx context.Context, paths []string) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	r, w, err := os.Pipe()
	if err != nil {
		return err
	}
	defer r.Close()
	cmd := exec.Command(c.nix, c.args(paths)...)
	cmd.Dir = "/"
	cmd.Env = c.env()
	cmd.Stdout, cmd.Stderr = w, w
	// It dies with the thread of the namespace, and so with this process.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Pdeathsig: syscall.SIGKILL}
	err = c.space.do(cmd.Start)
	w.Close()
	if err != nil {
		return fmt.Errorf("run nix: %w", err)
	}
	stalled := time.AfterFunc(c.stall, func() { cancel(errStalled) })
	defer stalled.Stop()
	// Whoever waits for the mount cannot be killed before that is gone; the
	// caller sees to it when this returns.
	ended := make(chan error, 1)
	var said tail
	go func() {
		said.read(r, func(done, expected uint64) {
			stalled.Reset(c.stall)
			c.progress(done, expected)
		})
		ended <- cmd.Wait()
	}()
	select {
	case err = <-ended:
	case <-ctx.Done():
		_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
		return &abandonedError{context.Cause(ctx), ended}
	}
	if err != nil {
		return &nixError{err, said.text()}
	}
	return nil
}

// abandonedError is a nix that was killed and may still wait for the mount.
type abandonedError struct {
	cause error
	ended <-chan error
}

func (e *abandonedError) Error() string { return e.cause.Error() }
func (e *abandonedError) Unwrap() error { return e.cause }

// nixError is a nix that failed.
type nixError struct {
	err  error
	said string
}

func (e *nixError) Unwrap() error { return e.err }

func (e *nixError) Error() string {
	if e.said == "" {
		return fmt.Sprintf("nix copy: %v", e.err)
	}
	return e.said
}

// tail keeps the end of what nix says.
type tail struct {
	mu sync.Mutex
	b  []byte
}

func (t *tail) add(text string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.b = append(append(t.b, text...), '\n')
	if over := len(t.b) - MaxText; over > 0 {
		t.b = append(t.b[:0], t.b[over:]...)
	}
}

func (t *tail) text() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return strings.TrimSpace(string(t.b))
}

// read reads what nix prints with --log-format internal-json (libutil/logging.cc):
// lines of "@nix " and a JSON object, and others.
func (t *tail) read(r io.Reader, alive func(done, expected uint64)) {
	lines := bufio.NewReaderSize(r, maxLine)
	all := make(map[uint64]bool) // activities that stand for the whole copy
	var done, expected uint64
	for {
		line, err := lines.ReadSlice('\n')
		long := errors.Is(err, bufio.ErrBufferFull)
		if len(line) > 0 {
			t.line(line, all, &done, &expected)
			alive(done, expected)
		}
		for long {
			_, err = lines.ReadSlice('\n')
			long = errors.Is(err, bufio.ErrBufferFull)
		}
		if err != nil {
			return
		}
	}
}

func (t *tail) line(line []byte, all map[uint64]bool, done, expected *uint64) {
	text, ok := bytes.CutPrefix(line, []byte("@nix "))
	if !ok {
		t.add(strings.TrimSpace(string(line)))
		return
	}
	var m struct {
		Action string            `json:"action"`
		ID     uint64            `json:"id"`
		Type   int               `json:"type"`
		Level  int               `json:"level"`
		Msg    string            `json:"msg"`
		Fields []json.RawMessage `json:"fields"`
	}
	if json.Unmarshal(text, &m) != nil {
		return
	}
	switch {
	case m.Action == "msg" && m.Level <= levelWarn:
		t.add(m.Msg)
	case m.Action == "start" && m.Type == activityCopyAll && len(all) < 64:
		all[m.ID] = true
	case m.Action == "result" && m.Type == resultProgress && all[m.ID] && len(m.Fields) >= 2:
		var d, e uint64
		if json.Unmarshal(m.Fields[0], &d) == nil && json.Unmarshal(m.Fields[1], &e) == nil {
			*done, *expected = d, e
		}
	}
}

// ErrNoNix means that there is no program nix.
var ErrNoNix = errors.New("there is no program nix")

// findNix returns the program that was named, or the one of a fixed PATH.
func findNix(named, path string) (string, error) {
	if named != "" {
		if !isProgram(named) {
			return "", fmt.Errorf("%w at %s", ErrNoNix, named)
		}
		return named, nil
	}
	for _, dir := range filepath.SplitList(path) {
		if file := filepath.Join(dir, "nix"); isProgram(file) {
			return file, nil
		}
	}
	return "", fmt.Errorf("%w in %s", ErrNoNix, path)
}

func isProgram(file string) bool {
	info, err := os.Stat(file)
	return err == nil && info.Mode().IsRegular() && info.Mode()&0o111 != 0
}
