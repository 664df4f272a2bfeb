//go:build linux

package lab

import (
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime"
	"slices"
	"sync"
	"syscall"
)

// Main is the body of a TestMain: it runs the tests (m.Run) and removes what
// the lab wrote, also when the run is interrupted. It does not return.
func Main(run func() int) {
	stop := onInterrupt(func() {})
	code := run()
	stop()
	Cleanup()
	os.Exit(code)
}

// Script runs fn as a test outside "go test": Logf and Fatalf print on out, and
// cleanups run when fn ends, fails, or the process is interrupted (which ends
// it with status 130). It says whether fn succeeded.
func Script(out io.Writer, fn func(T)) (ok bool) {
	s := &script{out: out}
	stop := onInterrupt(s.cleanup)
	defer stop()
	defer Cleanup()
	done := make(chan struct{})
	go func() {
		defer close(done)
		// Fatalf ends this goroutine, as in a test.
		fn(s)
		s.mu.Lock()
		ok = !s.failed
		s.mu.Unlock()
	}()
	<-done
	s.cleanup()
	return ok
}

// onInterrupt ends the process on SIGINT, SIGTERM or SIGHUP, after cleaning up.
func onInterrupt(cleanup func()) (stop func()) {
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
	go func() {
		if _, ok := <-signals; ok {
			cleanup()
			Cleanup()
			os.Exit(130)
		}
	}()
	return func() {
		signal.Stop(signals)
		close(signals)
	}
}

// script is a T without "go test".
type script struct {
	out io.Writer

	mu       sync.Mutex
	failed   bool
	cleanups []func()
}

var _ T = (*script)(nil)

func (s *script) Helper() {}

func (s *script) Logf(format string, args ...any) { fmt.Fprintf(s.out, format+"\n", args...) }

func (s *script) Fatalf(format string, args ...any) {
	s.Logf(format, args...)
	s.mu.Lock()
	s.failed = true
	s.mu.Unlock()
	runtime.Goexit()
}

func (s *script) Cleanup(f func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.cleanups = append(s.cleanups, f)
}

func (s *script) Failed() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.failed
}

func (s *script) cleanup() {
	s.mu.Lock()
	cleanups := slices.Clone(s.cleanups)
	s.cleanups = nil
	s.mu.Unlock()
	for _, f := range slices.Backward(cleanups) {
		f()
	}
}
