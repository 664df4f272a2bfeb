package main

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/drv-thru/drv-thru/cmd/drv-thru/internal/admin"
	"github.com/drv-thru/drv-thru/cmd/drv-thru/internal/state"
	"github.com/drv-thru/drv-thru/cmd/drv-thru/internal/term/termtest"
	"github.com/drv-thru/drv-thru/core/builder"
	"github.com/drv-thru/drv-thru/core/key"
	"github.com/drv-thru/drv-thru/core/link"
	"github.com/drv-thru/drv-thru/core/wire"
)

// busyBuilder is the status of a builder with so much to do.
func busyBuilder(now time.Time, queued, recent int) *admin.Status {
	st := &admin.Status{
		Endpoint: key.ID{1}, SigningKey: "drv-thru-builder-1:4AlKxYwAhn2G3DB0RSa1fPuRP0+MgMW6ZvLzsMMV8TSq5yGmXvPtA06yQo+66f4iDpiSgZTL3t9FLRDyNVEoBQ==",
		NixVersion: "2.34.8", Systems: []string{"x86_64-linux", "i686-linux"}, Started: now.Add(-50 * time.Hour),
		Relays:  []admin.Relay{{URL: "https://relay.example.org", Registered: true}, {URL: "https://other.example.org", Error: "no route to host"}},
		Direct:  &link.DirectStatus{Addresses: []netip.AddrPort{netip.MustParseAddrPort("192.0.2.7:7411")}, NAT: wire.NATCone},
		Denials: []state.Decision{{At: now.Add(-time.Hour), Policy: "default", Event: "admit", Verdict: "deny", TicketName: "guests", Code: "policy.denied", Reason: "too large"}},
	}
	st.Slots, st.Running, st.Waiting = 4, 2, queued
	if queued == 1 {
		st.Refusing = "the builder's disk is too full: 812 MiB are free, 5120 MiB are kept in reserve"
	}
	id := func(prefix string, n int) wire.BuildID {
		return wire.BuildID(prefix + strings.Repeat("a", 24) + fmt.Sprintf("%c", 'a'+n%26))
	}
	for i := range 2 {
		st.Active = append(st.Active, builder.BuildStatus{
			ID: id("r", i), Client: key.ID{2}, ClientName: "laptop", State: wire.StateBuilding, Created: now.Add(-time.Hour),
			Started: now.Add(-time.Duration(200*i+17) * time.Second), Connected: true, Path: "direct-quic", Labels: []string{".#hello"},
		})
	}
	st.Active[1].ClientName, st.Active[1].Path, st.Active[1].Labels = "", "relay", []string{"\x1b[31mred\x1b[2J 漢字", "nixpkgs#a-rather-long-name-of-an-installable-that-goes-on"}
	if queued > 0 {
		for i, machine := range []string{wire.MachineSelf, "ssh-ng://fast.example", wire.MachineSelf, "x", wire.MachineSelf} {
			st.Active[0].Building = append(st.Active[0].Building, builder.BuildingDrv{
				Drv: fmt.Sprintf("/nix/store/%032d-part-%d.drv", i, i), Machine: machine, Since: now.Add(-time.Duration(i) * time.Minute),
			})
		}
	}
	for i := range queued {
		st.Active = append(st.Active, builder.BuildStatus{
			ID: id("q", i), Client: key.ID{byte(3 + i)}, State: wire.StateQueued, Position: i + 1, WaitSeconds: float64(90 * (i + 1)),
			Created: now.Add(-time.Minute), Path: "relay", Labels: []string{"nixpkgs#hello"},
		})
	}
	for i := range recent {
		b := builder.BuildStatus{
			ID: id("e", i), Client: key.ID{9}, State: wire.StateBuilt, Created: now.Add(-2 * time.Hour), Started: now.Add(-2 * time.Hour),
			Ended: now.Add(-2*time.Hour + time.Duration(i)*time.Minute), Labels: []string{".#tests"},
		}
		if i%3 == 1 {
			b.State, b.Result = wire.StateFailed, &wire.Result{Error: wire.CodeBuildFailed.Err()}
		}
		st.Recent = append(st.Recent, b)
	}
	return st
}

func TestStatusScreens(t *testing.T) {
	for _, c := range []struct {
		name          string
		columns, rows int
		env           string
	}{
		{"80x24", 80, 24, "NO_COLOR=1"},
		{"80x24-colour", 80, 24, "LANG=C.UTF-8"},
		{"200x50", 200, 50, "NO_COLOR=1"},
		{"200x50-colour", 200, 50, "LANG=C.UTF-8"},
		{"narrow", 40, 16, "NO_COLOR=1"},
		{"ascii", 80, 24, "LC_ALL=C"},
	} {
		t.Run(c.name, func(t *testing.T) {
			screen := termtest.New(t, c.columns, c.rows)
			a := &app{stdout: screen.TTY(), environ: []string{"LANG=C.UTF-8", "NO_COLOR=", c.env}}
			if c.name == "ascii" {
				a.environ = append(a.environ, "NO_COLOR=1")
			}
			w := a.newStatusWatch(false)
			now := time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC)
			var shots strings.Builder
			for _, load := range [][2]int{{30, 20}, {1, 2}, {0, 0}} {
				if err := w.show(busyBuilder(now, load[0], load[1]), now); err != nil {
					t.Fatal(err)
				}
				shot := screen.Text()
				if painted := screen.Painted(); strings.HasSuffix(c.name, "colour") {
					shot = painted
				} else if shot != painted {
					t.Errorf("colours: %q", painted)
				}
				fmt.Fprintf(&shots, "== %d wait, %d have ended\n%s", load[0], load[1], shot)
				now = now.Add(2 * time.Second)
			}
			termtest.Golden(t, "status-"+c.name+".txt", shots.String())
			if seen, other := screen.Cursor(); seen || !other {
				t.Errorf("the cursor is seen: %t, on the other screen: %t", seen, other)
			}
			w.screen.Close()
			if seen, other := screen.Cursor(); !seen || other || screen.Text() != "\n" {
				t.Errorf("afterwards the cursor is seen: %t, on the other screen: %t:\n%s", seen, other, screen.Text())
			}
		})
	}
}
