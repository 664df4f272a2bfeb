//go:build linux

package lab

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"sync"
	"syscall"
	"time"
)

// A Process is a program that runs in a host in the background.
type Process struct {
	t      T
	name   string
	cmd    *Cmd
	done   chan struct{}
	err    error
	output output
}

// Start starts a program in the background with its output captured. It is
// killed with the host; the end of its output is logged when the test fails.
func (h *Host) Start(user string, argv ...string) *Process {
	h.t.Helper()
	return h.StartCmd(h.Command(user, argv...))
}

// StartCmd is [Host.Start] for a prepared command. Its Stdout and Stderr, where
// set, get a copy of the output.
func (h *Host) StartCmd(c *Cmd) *Process {
	h.t.Helper()
	p := &Process{t: h.t, name: filepath.Base(c.Args[0]), cmd: c, done: make(chan struct{})}
	p.output.changed = make(chan struct{})
	c.Stdout, c.Stderr = p.output.tee(c.Stdout), p.output.tee(c.Stderr)
	if c.WaitDelay == 0 {
		// Children that hold the pipes must not hold up the test.
		c.WaitDelay = 5 * time.Second
	}
	if err := c.Start(); err != nil {
		h.t.Fatalf("lab: start %s on %s: %v", p.name, h.name, err)
	}
	go func() {
		p.err = c.Wait()
		close(p.done)
	}()
	h.t.Cleanup(func() {
		if h.t.Failed() {
			h.t.Logf("output of %s on %s:\n%s", p.name, h.name, tail([]byte(p.Output()), 16<<10))
		}
	})
	return p
}

// Output is what the program has printed so far, both streams in order. Of very
// long output the middle is missing: see [Process.Written].
func (p *Process) Output() string { return p.output.String() }

// Written is how many bytes the program has printed so far.
func (p *Process) Written() int64 { return p.output.written() }

// PID is the process ID as the machine sees it.
func (p *Process) PID() int { return p.cmd.Process.Pid }

// Done is closed when the program has ended and its output is complete.
func (p *Process) Done() <-chan struct{} { return p.done }

// Signal sends a signal to the program. One that has ended is no error.
func (p *Process) Signal(sig os.Signal) {
	p.t.Helper()
	if err := p.cmd.Process.Signal(sig); err != nil && !errors.Is(err, os.ErrProcessDone) {
		p.t.Fatalf("lab: signal %s: %v", p.name, err)
	}
}

// Interrupt sends SIGINT to the program and its children, as Ctrl-C in a
// terminal does.
func (p *Process) Interrupt() {
	p.t.Helper()
	if err := syscall.Kill(-p.PID(), syscall.SIGINT); err != nil && !errors.Is(err, syscall.ESRCH) {
		p.t.Fatalf("lab: interrupt %s: %v", p.name, err)
	}
}

// Wait waits for the program's end, for no longer than timeout, and returns its
// error as [exec.Cmd.Wait] does. A program that does not end fails the test.
func (p *Process) Wait(timeout time.Duration) error {
	p.t.Helper()
	select {
	case <-p.done:
		return p.err
	case <-time.After(timeout):
		p.t.Fatalf("lab: %s still runs after %v; its output:\n%s", p.name, timeout, tail([]byte(p.Output()), 8<<10))
		return nil
	}
}

// Stop asks the program to end with SIGTERM, waits for it, and kills it if it
// has not ended after timeout.
func (p *Process) Stop(timeout time.Duration) error {
	p.t.Helper()
	p.Signal(syscall.SIGTERM)
	select {
	case <-p.done:
	case <-time.After(timeout):
		p.t.Logf("lab: %s ignores SIGTERM", p.name)
		p.Kill()
	}
	return p.err
}

// Kill ends the program as kill -9 does and waits until it is gone.
func (p *Process) Kill() {
	p.t.Helper()
	p.Signal(syscall.SIGKILL)
	<-p.done
}

// WaitFor waits until the output matches the regular expression and returns the
// match with its groups. It fails the test when the program ends first, or
// after timeout.
func (p *Process) WaitFor(expr string, timeout time.Duration) []string {
	p.t.Helper()
	re := regexp.MustCompile(expr)
	deadline := time.After(timeout)
	for {
		changed := p.output.change()
		ended := false
		select {
		case <-p.done:
			ended = true
		default:
		}
		if m := re.FindStringSubmatch(p.Output()); m != nil {
			return m
		}
		if ended {
			p.t.Fatalf("lab: %s ended (%v) before it printed %q; its output:\n%s", p.name, p.err, expr, tail([]byte(p.Output()), 8<<10))
		}
		select {
		case <-changed:
		case <-p.done:
		case <-deadline:
			p.t.Fatalf("lab: %s did not print %q within %v; its output:\n%s", p.name, expr, timeout, tail([]byte(p.Output()), 8<<10))
		}
	}
}

// The ends of a program's output that are kept.
const (
	keepHead = 1 << 20
	keepTail = 1 << 20
)

// output keeps the beginning and the end of what is written to it.
type output struct {
	mu         sync.Mutex
	head, tail []byte
	total      int64
	changed    chan struct{}
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	rest := p
	if room := keepHead - len(o.head); room > 0 {
		n := min(room, len(rest))
		o.head, rest = append(o.head, rest[:n]...), rest[n:]
	}
	o.tail = append(o.tail, rest...)
	if len(o.tail) > 2*keepTail {
		o.tail = append([]byte(nil), o.tail[len(o.tail)-keepTail:]...)
	}
	o.total += int64(len(p))
	close(o.changed)
	o.changed = make(chan struct{})
	return len(p), nil
}

func (o *output) tee(w io.Writer) io.Writer {
	if w == nil {
		return o
	}
	return io.MultiWriter(o, w)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	if cut := o.total - int64(len(o.head)+len(o.tail)); cut > 0 {
		return fmt.Sprintf("%s\n[%d bytes left out]\n%s", o.head, cut, o.tail)
	}
	return string(o.head) + string(o.tail)
}

func (o *output) written() int64 {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.total
}

func (o *output) change() <-chan struct{} {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.changed
}

// tail is the end of text, cut to n bytes.
func tail(text []byte, n int) []byte {
	if len(text) <= n {
		return text
	}
	return append([]byte("[...]\n"), text[len(text)-n:]...)
}
