package main

import (
	"strings"
	"testing"
	"time"

	"github.com/drv-thru/drv-thru/core/key"
	"github.com/drv-thru/drv-thru/core/ticket"
)

// Who has no place for a cache is told that nothing is kept, and how it would be.
func TestMountCacheDir(t *testing.T) {
	text := (&ticket.Ticket{Builder: key.ID{1}, Relays: []string{"https://relay.example.org"}}).String()
	for _, c := range []struct {
		home, dir, size string
		want            string // of the cache directory
		told            bool
	}{
		{home: "/home/alice", size: "4G", want: "/home/alice/.cache/drv-thru/mount/" + key.ID{1}.String()},
		{home: "/home/alice", dir: "/srv/c", size: "4G", want: "/srv/c"},
		{home: "/home/alice", size: "0"},
		{dir: "/srv/c", size: "4G", want: "/srv/c"},
		{size: "4G", told: true},
		{size: "0"},
	} {
		var said strings.Builder
		a := &app{stderr: &said, environ: []string{"DRV_THRU_TICKET=" + text, "HOME=" + c.home}}
		f := &mountFlags{routeFlags: routeFlags{ticket: text}, cacheDir: c.dir, cacheSize: c.size, readTimeout: time.Second}
		cfg, err := f.configure(a, "dir")
		if err != nil {
			t.Errorf("%+v: %v", c, err)
			continue
		}
		if told := strings.Contains(said.String(), "--cache-dir"); cfg.cacheDir != c.want || told != c.told {
			t.Errorf("%+v: %q, and says %q", c, cfg.cacheDir, said.String())
		}
	}
}
