package builder_test

import (
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"strconv"
	"testing"
	"time"

	"github.com/drv-thru/drv-thru/core/builder"
	bt "github.com/drv-thru/drv-thru/core/builder/buildertest"
	"github.com/drv-thru/drv-thru/core/key"
	"github.com/drv-thru/drv-thru/core/ticket"
	"github.com/drv-thru/drv-thru/core/wire"
)

// Limits change under builds that run and wait.
func TestTuning(t *testing.T) {
	e := start(t)
	g := e.gate()
	c := e.holder(1)
	first := e.put(c, 1, e.one("1"))
	<-g.begun
	second := e.put(c, 2, e.one("2"))
	eventually(t, "the second waits", func() bool { return e.state(c, 2) == wire.StateQueued })
	tuning := builder.Tuning{Slots: 2, MinFree: 1 << 41, RecentBuilds: 1}
	e.svc.SetTuning(tuning)
	<-g.begun
	// The disk counts as full now, for new builds.
	_, err := c.Put(bt.ID(3), bt.Request(e.one("3")))
	wantCode(t, err, wire.CodeDisk)
	tuning.Slots, tuning.MinFree = 1, 0
	e.svc.SetTuning(tuning)
	third := e.put(c, 3, e.one("3"))
	if st := e.svc.Status(); st.Slots != 1 || st.Running != 2 {
		t.Errorf("got %+v", st)
	}
	close(g.open)
	for _, ev := range []*bt.Events{first, second, third} {
		if r, err := ev.Finish(); err != nil || r.Error != nil {
			t.Errorf("%+v, %v", r, err)
		}
	}
	eventually(t, "one is shown", func() bool { st := e.svc.Status(); return len(st.Active) == 0 && len(st.Recent) == 1 })
}

// atRead is a body that does something when it is read.
type atRead struct {
	do func()
	io.Reader
}

func (b *atRead) Read(p []byte) (int, error) {
	if b.do != nil {
		b.do()
		b.do = nil
	}
	return b.Reader.Read(p)
}

// What the owner changes holds for a build whose document is still on its way: nobody
// counts it among those that are under way.
func TestChangedWhileDocumentComes(t *testing.T) {
	client := key.ID{70}
	trusted := func(limits ticket.Limits) map[key.ID]builder.TrustedClient {
		return map[key.ID]builder.TrustedClient{client: {Name: "trusted", Limits: limits}}
	}
	for name, tt := range map[string]struct {
		change func(*builder.Service)
		want   wire.Code
	}{
		"nothing":     {func(*builder.Service) {}, ""},
		"drained":     {func(s *builder.Service) { s.Drain(true) }, wire.CodeDraining},
		"not trusted": {func(s *builder.Service) { s.SetClients(nil) }, wire.CodeNoCredentials},
		"limited": {func(s *builder.Service) {
			s.SetClients(trusted(ticket.Limits{Systems: []string{"none"}}))
		}, wire.CodeSystemDenied},
	} {
		t.Run(name, func(t *testing.T) {
			e := start(t, func(c *builder.Config) { c.Clients = trusted(ticket.Limits{}) })
			text, err := json.Marshal(bt.Request(e.one("1")))
			if err != nil {
				t.Fatal(err)
			}
			r := httptest.NewRequest(http.MethodPut, "/v1/builds/"+string(bt.ID(1)),
				&atRead{func() { tt.change(e.svc) }, bytes.NewReader(text)})
			r.Header.Set(wire.HeaderVersion, strconv.Itoa(wire.Version))
			bt.SetPeer(r, client)
			w := httptest.NewRecorder()
			e.svc.ServeHTTP(w, r)
			var answer wire.Error
			if err := json.Unmarshal(w.Body.Bytes(), &answer); err != nil || answer.Code != tt.want {
				t.Errorf("%s, %v", w.Body, err)
			}
		})
	}
}

// A priority that changes while a build is admitted is that of its place.
func TestPriorityOfWhoIsAdmitted(t *testing.T) {
	urgent := key.ID{70}
	clients := func(priority int) map[key.ID]builder.TrustedClient {
		return map[key.ID]builder.TrustedClient{urgent: {Name: "urgent", Priority: priority}}
	}
	var e *env
	e = start(t, func(c *builder.Config) {
		c.Clients = clients(50)
		c.Policy = policyFunc(func(r *builder.PolicyRequest) (ticket.Limits, error) {
			if r.Client == urgent {
				e.svc.SetClients(clients(-50))
			}
			return r.Limits, nil
		})
	})
	e.svc.Pause(true)
	e.put(&bt.Client{Server: e.server, ID: urgent}, 1, e.one("1"))
	e.put(e.holder(1), 2, e.one("2"))
	eventually(t, "positions", func() bool { return e.svc.Status().Waiting == 2 })
	for _, b := range e.svc.Status().Active {
		if (b.Client == urgent) != (b.Position == 2) {
			t.Errorf("%s is in place %d", b.Client, b.Position)
		}
	}
}

// Who may not ask any more is refused at once. Its builds go on for as long as it follows
// them, and detached ones without it.
func TestShutOutWhileBuilding(t *testing.T) {
	client := key.ID{70}
	for name, tt := range map[string]struct {
		trusted bool
		shutOut func(*env, *bt.Client)
		want    wire.Code
	}{
		"revoked": {false, func(e *env, c *bt.Client) {
			tk, err := e.records.Ticket(e.t.Context(), c.Secret.ID())
			if err != nil {
				e.t.Fatal(err)
			}
			tk.Revoked = now
			e.records.SetTicket(tk)
		}, wire.CodeTicketRevoked},
		"removed": {true, func(e *env, _ *bt.Client) { e.svc.SetClients(nil) }, wire.CodeNoCredentials},
	} {
		t.Run(name, func(t *testing.T) {
			e := start(t, func(c *builder.Config) {
				c.Slots = 2
				c.Clients = map[key.ID]builder.TrustedClient{client: {Name: "trusted"}}
			})
			g := e.gate()
			c := &bt.Client{Server: e.server, ID: client}
			if !tt.trusted {
				c = e.holder(1)
			}
			followed := e.put(c, 1, e.one("followed"))
			<-g.begun
			e.detach(c, 2, e.one("detached"))
			<-g.begun
			tt.shutOut(e, c)
			_, err := c.Put(bt.ID(3), bt.Request(e.one("new")))
			wantCode(t, err, tt.want)
			_, err = c.Events(bt.ID(1), 1)
			wantCode(t, err, tt.want)
			states := func() map[wire.BuildID]wire.State {
				all := make(map[wire.BuildID]wire.State)
				for _, b := range e.svc.Builds() {
					all[b.ID] = b.State
				}
				return all
			}
			if got := states(); got[bt.ID(1)] != wire.StateBuilding || got[bt.ID(2)] != wire.StateBuilding {
				t.Errorf("got %v", got)
			}
			e.svc.SetTuning(builder.Tuning{Slots: 2, ReattachGrace: time.Millisecond})
			followed.Close()
			eventually(t, "the followed one is given up", func() bool { return states()[bt.ID(1)] == wire.StateCancelled })
			close(g.open)
			eventually(t, "the detached one is built", func() bool { return states()[bt.ID(2)] == wire.StateBuilt })
		})
	}
}
