package helper

import (
	"errors"
	"fmt"
	"runtime"
	"sync"

	"golang.org/x/sys/unix"
)

// space is a thread that processes are started from, and end with; mostly one that
// has left for a mount namespace of its own. What is mounted there nobody sees but
// those processes, and it is gone when they are.
type space struct {
	jobs chan func()
	done chan struct{}
	once sync.Once
}

var errSpace = errors.New("the thread has ended")

// newSpace makes a space. Without mounts it stays in the process's own namespace, as
// root of a container may not leave that.
func newSpace(mounts bool) (*space, error) {
	s := &space{jobs: make(chan func()), done: make(chan struct{})}
	made := make(chan error)
	go func() {
		// Never unlocked: Go ends the thread with the goroutine.
		runtime.LockOSThread()
		var err error
		if mounts {
			err = leave()
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

// leave puts this thread into a mount namespace of its own.
func leave() error {
	if err := unix.Unshare(unix.CLONE_FS | unix.CLONE_NEWNS); err != nil {
		return err
	}
	// Nothing that is mounted here spreads from here.
	return unix.Mount("", "/", "", unix.MS_REC|unix.MS_SLAVE, "")
}

// do runs fn in the space. fn must not wait for anything that a user does.
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
