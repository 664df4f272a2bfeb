package builder

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"github.com/drv-thru/drv-thru/core/key"
	"github.com/drv-thru/drv-thru/core/nix"
	"github.com/drv-thru/drv-thru/core/ticket"
	"github.com/drv-thru/drv-thru/core/wire"
)

// A client has so many builds under way, with whatever tickets, the holders of a ticket
// together as many, and there is an end to those of all.
func TestRoomForBuilds(t *testing.T) {
	holder := func(client, paid byte) *caller {
		return &caller{client: key.ID{client}, ticket: &TicketRecord{ID: ticket.ID{paid}}}
	}
	s := &Service{builds: newRegister()}
	add := func(n int, of func(i int) *caller) {
		for i := range n {
			c := of(i)
			id := wire.BuildID(fmt.Sprint(len(s.builds.all)))
			s.builds.put(&build{rec: BuildRecord{ID: id, Client: c.client, Ticket: c.ticketID()}, done: make(chan struct{})})
		}
	}
	check := func(what string, c *caller, want bool) {
		t.Helper()
		if err := s.roomFor(c); (err == nil) != want || err != nil && wire.CodeOf(err) != wire.CodeRate {
			t.Errorf("%s: %v", what, err)
		}
	}
	add(maxLivePerClient-1, func(i int) *caller { return holder(1, byte(1+i%2)) })
	check("the last of a client", holder(1, 9), true)
	add(1, func(int) *caller { return holder(1, 3) })
	check("one more of a client", holder(1, 9), false)
	check("another client", holder(9, 1), true)
	add(maxLivePerClient, func(i int) *caller { return holder(byte(100+i%100), 4) })
	check("one more of a ticket", holder(9, 4), false)
	trusted := &caller{client: key.ID{10}, trusted: &TrustedClient{}}
	check("who has no ticket", trusted, true)
	add(maxLive-len(s.builds.all)-1, func(i int) *caller {
		return &caller{client: key.ID{20, byte(i), byte(i >> 8)}, trusted: trusted.trusted}
	})
	check("the last of all", trusted, true)
	add(1, func(int) *caller { return holder(30, 30) })
	check("one more of all", trusted, false)
	s.builds.ended(s.builds.all["0"])
	check("one of them has ended", trusted, true)
}

// Who waits for several turns and gives up holds none of them.
func TestTurnsAreGivenBack(t *testing.T) {
	var all turns
	release, err := all.take(t.Context(), []string{"b"})
	if err != nil {
		t.Fatal(err)
	}
	gone, leave := context.WithCancelCause(t.Context())
	left := errors.New("left")
	leave(left)
	if _, err := all.take(gone, []string{"a", "b"}); !errors.Is(err, left) {
		t.Errorf("it does not wait: %v", err)
	}
	if len(all.held) != 1 {
		t.Errorf("%d turns are held", len(all.held))
	}
	next := make(chan error)
	go func() {
		_, err := all.take(t.Context(), []string{"a", "b"})
		next <- err
	}()
	release()
	if err := <-next; err != nil {
		t.Error(err)
	}
}

// What has the network of the builder's host counts as a fixed output.
func TestImpureHasTheNetwork(t *testing.T) {
	for want, o := range map[bool]nix.Output{true: {HashAlgo: "r:sha256", Hash: "impure"}, false: {HashAlgo: "r:sha256"}} {
		p, err := plan("/nix/store/00000000000000000000000000000000-x.drv", &nix.Derivation{Outputs: map[string]nix.Output{"out": o}})
		if err != nil || p.FixedOutput != want {
			t.Errorf("%+v: %+v, %v", o, p, err)
		}
	}
}

func TestOnlyOutputsCount(t *testing.T) {
	b := new(build)
	b.countOutputs([]nix.PathInfo{{Path: "a", NarSize: 1}, {Path: "b", NarSize: 10}, {Path: "c", NarSize: 100}}, []nix.Path{"a", "c"})
	if b.rec.OutputBytes != 101 {
		t.Errorf("%d bytes", b.rec.OutputBytes)
	}
}
