//go:build unix

package builder_test

import (
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	bt "github.com/drv-thru/drv-thru/core/builder/buildertest"
)

// While the events of an earlier process's build are read, which may be gigabytes on a
// slow disk, nobody else waits.
func TestReadingOldEventsHoldsNobodyUp(t *testing.T) {
	e := start(t)
	c := e.holder(1)
	if r := e.build(c, 1, small("x")...); r.Error != nil {
		t.Fatal(r.Error)
	}
	e.stop()
	path := filepath.Join(e.cfg.Dir, string(bt.ID(1)), "events.ndjson")
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mkfifo(path, 0o600); err != nil {
		t.Fatal(err)
	}
	e.run()
	got := make(chan error, 1)
	go func() {
		_, err := c.Get(bt.ID(1))
		got <- err
	}()
	slow, err := os.OpenFile(path, os.O_WRONLY, 0) // returns when the builder reads
	if err != nil {
		t.Fatal(err)
	}
	told := make(chan int, 1)
	go func() { told <- len(e.svc.Status().Recent) }()
	select {
	case n := <-told:
		if n != 1 {
			t.Errorf("%d builds", n)
		}
	case <-time.After(20 * time.Second):
		t.Error("status waits for it")
	}
	slow.Close()
	if err := <-got; err != nil {
		t.Error(err)
	}
}
