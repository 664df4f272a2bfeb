package helper

import (
	"errors"
	"fmt"
	"runtime"
	"sync"

	"golang.org/x/sys/unix"
)

// space is a mount namespace of its own. What is mounted in it nobody sees but
// the processes that are started in it, and it is gone when they are.
//
// It is a thread that has left the process's namespace: Go starts a process from
// the thread that asks for it.
type space struct {
	jobs chan func()
	done chan struct{}
	once sync.Once
}

var errSpace = errors.New("the mount namespace is closed")

func newSpace() (*space, error) {
	s := &space{jobs: make(chan func()), done: make(chan struct{})}
	made := make(chan error)
	go func() {
		// Never unlocked: Go ends the thread with the goroutine.
		runtime.LockOSThread()
		err := unix.Unshare(unix.CLONE_FS | unix.CLONE_NEWNS)
		if err == nil {
			// Nothing that is mounted here spreads from here.
			err = unix.Mount("", "/", "", unix.MS_REC|unix.MS_SLAVE, "")
		}
		made <- err
		if err != nil {
			return
		}
		for {
			select {
			case job := <-s.jobs:
				job()
			case <-s.done:
				return
			}
		}
	}()
	if err := <-made; err != nil {
		return nil, fmt.Errorf("make a mount namespace: %w", err)
	}
	return s, nil
}

// do runs fn in the namespace. fn must not wait for anything that a user does.
func (s *space) do(fn func() error) error {
	result := make(chan error, 1)
	select {
	case s.jobs <- func() { result <- fn() }:
		return <-result
	case <-s.done:
		return errSpace
	}
}

func (s *space) close() { s.once.Do(func() { close(s.done) }) }
