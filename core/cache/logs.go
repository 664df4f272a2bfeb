package cache

import (
	"context"
	"fmt"
	"io"
	"io/fs"
	"sync"

	"github.com/drv-thru/drv-thru/core/nix"
)

const (
	// maxLog is the longest build log that a View shows: a file of a file
	// system needs a size before anything is read.
	maxLog = 16 << 20
	// keptLogs is how many are kept, as looking one up and reading it are
	// two operations.
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
func (v *View) log(drv string) ([]byte, error) {
	fetcher, ok := v.cfg.Fetcher.(LogFetcher)
	if p, err := nix.ParseBase(drv); !ok || err != nil || !p.IsDrv() {
		return nil, fs.ErrNotExist
	}
	v.logs.mu.Lock()
	defer v.logs.mu.Unlock()
	for _, k := range v.logs.kept {
		if k.drv == drv {
			return k.text, nil
		}
	}
	ctx, cancel := context.WithTimeout(v.ctx, v.cfg.ReadTimeout)
	defer cancel()
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
	if len(v.logs.kept) == keptLogs {
		v.logs.kept = v.logs.kept[1:]
	}
	v.logs.kept = append(v.logs.kept, keptLog{drv, text})
	return text, nil
}
