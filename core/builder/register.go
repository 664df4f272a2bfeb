package builder

import (
	"github.com/drv-thru/drv-thru/core/key"
	"github.com/drv-thru/drv-thru/core/ticket"
	"github.com/drv-thru/drv-thru/core/wire"
)

// register has the builds that the service knows of. Those of a year are many, and each
// request for a piece of a NAR asks which of them are its client's: so nobody but the
// owner, who asks for all, waits until all are looked through.
type register struct {
	all     map[wire.BuildID]*build
	live    map[wire.BuildID]*build // that have not ended
	clients map[key.ID]map[*build]bool
	tickets map[ticket.ID]map[*build]bool
}

func newRegister() register {
	return register{
		all: make(map[wire.BuildID]*build), live: make(map[wire.BuildID]*build),
		clients: make(map[key.ID]map[*build]bool), tickets: make(map[ticket.ID]map[*build]bool),
	}
}

// put adds a build, in place of one with its ID. What it is filed by does not change.
func (r *register) put(b *build) {
	if old := r.all[b.rec.ID]; old != nil {
		r.drop(old)
	}
	r.all[b.rec.ID] = b
	select {
	case <-b.done:
	default:
		r.live[b.rec.ID] = b
	}
	file(r.clients, b.rec.Client, b)
	if b.rec.Ticket != (ticket.ID{}) {
		file(r.tickets, b.rec.Ticket, b)
	}
}

// drop forgets a build, unless another one has its ID by now.
func (r *register) drop(b *build) {
	if r.all[b.rec.ID] != b {
		return
	}
	r.ended(b)
	delete(r.all, b.rec.ID)
	unfile(r.clients, b.rec.Client, b)
	unfile(r.tickets, b.rec.Ticket, b)
}

// ended notes that a build is not live any more.
func (r *register) ended(b *build) {
	if r.live[b.rec.ID] == b {
		delete(r.live, b.rec.ID)
	}
}

func file[K comparable](in map[K]map[*build]bool, k K, b *build) {
	if in[k] == nil {
		in[k] = make(map[*build]bool)
	}
	in[k][b] = true
}

func unfile[K comparable](in map[K]map[*build]bool, k K, b *build) {
	delete(in[k], b)
	if len(in[k]) == 0 {
		delete(in, k)
	}
}
