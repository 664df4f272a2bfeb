package cache

import (
	"context"
	"fmt"
	"io"
	"io/fs"
	"slices"
	"sync"

	"github.com/drv-thru/drv-thru/core/nix"
)

const (
	// maxLog is the longest build log that a View shows: a file of a file
	// system needs a size before anything is read.
	maxLog = 16 << 20
	// keptLogs is how many are kept until they are opened, as looking one up and
	// reading it are two operations.
	keptLogs = 2
)

// logCache holds the logs that were looked up last.
type logCache struct {
	mu   sync.Mutex
	kept []keptLog
}

type keptLog struct {
	drv  string
	text []byte
}

// log fetches the build log of a derivation, by its base name.
func (v *View) log(ctx context.Context, drv string) ([]byte, error) {
	fetcher, ok := v.cfg.Fetcher.(LogFetcher)
	if p, err := nix.ParseBase(drv); !ok || err != nil || !p.IsDrv() {
		return nil, fs.ErrNotExist
	}
	if text, ok := v.logs.get(drv); ok {
		return text, nil
	}
	ctx, cancel := context.WithTimeout(ctx, v.cfg.ReadTimeout)
	defer cancel()
	defer context.AfterFunc(v.ctx, cancel)()
	r, err := fetcher.Log(ctx, drv)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	text, err := io.ReadAll(io.LimitReader(r, maxLog+1))
	if err != nil {
		return nil, err
	}
	if len(text) > maxLog {
		return nil, fmt.Errorf("log of %s is longer than %d bytes", drv, maxLog)
	}
	v.logs.put(drv, text)
	return text, nil
}

func (c *logCache) get(drv string) ([]byte, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, k := range c.kept {
		if k.drv == drv {
			return k.text, true
		}
	}
	return nil, false
}

// drop forgets a log that was opened: who opens it later may find more in it.
func (c *logCache) drop(drv string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.kept = slices.DeleteFunc(c.kept, func(k keptLog) bool { return k.drv == drv })
}

func (c *logCache) put(drv string, text []byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.kept) == keptLogs {
		c.kept = slices.Delete(c.kept, 0, 1)
	}
	c.kept = append(c.kept, keptLog{drv, text})
}
