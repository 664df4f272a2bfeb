package main

import (
	"cmp"
	"fmt"
	"strings"
	"time"

	"github.com/drv-thru/drv-thru/cmd/drv-thru/internal/admin"
	"github.com/drv-thru/drv-thru/cmd/drv-thru/internal/term"
	"github.com/drv-thru/drv-thru/core/builder"
	"github.com/drv-thru/drv-thru/core/nix"
	"github.com/drv-thru/drv-thru/core/wire"
)

const (
	// slotBar is the width of the bar of slots.
	slotBar = 32
	// leastShown is how many entries of a list are shown before an earlier one
	// may fill a screen.
	leastShown = 4
)

// statusView writes a builder's status for people.
type statusView struct {
	p   *term.Printer // who paints
	now time.Time
	// columns and rows are the room on a screen; 0 is any number.
	columns, rows int
}

// How much room a screen needs to show more than what changes, and whole IDs.
const (
	highScreen = 40
	wideScreen = 100
	shortID    = 10
)

// text is the whole of it.
func (v *statusView) text(st *admin.Status) string {
	head := term.Columns(v.head(st)...)
	lists := []statusList{
		{"active", v.builds(st.Active)}, {"recent", v.builds(st.Recent)}, {"denied by policies", decisionRows(st.Denials, v.now)},
	}
	var b strings.Builder
	b.WriteString(head)
	room := v.rows - strings.Count(head, "\n")
	for i, l := range lists {
		if len(l.rows) == 0 {
			continue
		}
		b.WriteString("\n" + v.p.Paint(term.Bold, l.title) + "\n")
		more := 0
		if v.rows > 0 {
			room -= 2
			l.rows, more = l.cut(max(room-reserved(lists[i+1:]), room*2/3))
			room -= len(l.rows) + min(more, 1)
		}
		b.WriteString(term.Columns(l.rows...))
		if more > 0 {
			b.WriteString(v.p.Paint(term.Dim, fmt.Sprintf("  and %d more", more)) + "\n")
		}
	}
	return b.String()
}

// statusList is a titled table.
type statusList struct {
	title string
	rows  [][]string
}

// cut returns the rows that so many lines have room for, and how many do not fit.
func (l *statusList) cut(lines int) ([][]string, int) {
	if len(l.rows) <= lines {
		return l.rows, 0
	}
	n := max(lines-1, 0)
	return l.rows[:n], len(l.rows) - n
}

// reserved is how many lines are kept for lists.
func reserved(lists []statusList) int {
	n := 0
	for _, l := range lists {
		if len(l.rows) > 0 {
			n += 2 + min(len(l.rows), leastShown)
		}
	}
	return n
}

func (v *statusView) head(st *admin.Status) [][]string {
	var rows [][]string
	row := func(name, text string) { rows = append(rows, []string{v.p.Paint(term.Dim, name), text}) }
	capacity := func() {
		row("capacity", v.capacity(st))
		if st.Refusing != "" {
			row("no builds", v.p.Paint(term.Red, plain(st.Refusing)))
		}
	}
	// On a screen, what changes comes first and may be all.
	onScreen, all := v.rows > 0, v.rows == 0 || v.rows >= highScreen
	if onScreen {
		capacity()
	}
	row("endpoint", st.Endpoint.String())
	if all {
		row("signing key", st.SigningKey)
		row("nix", st.NixVersion+" for "+strings.Join(st.Systems, ", "))
		row("running since", st.Started.In(v.now.Location()).Format(time.DateTime))
	}
	for _, r := range st.Relays {
		text := r.URL
		if !r.Registered {
			text += v.p.Paint(term.Red, " (not connected: "+cmp.Or(plain(r.Error), "connecting")+")")
		}
		row("relay", text)
	}
	if d := st.Direct; d != nil {
		for _, at := range d.Addresses {
			row("listens at", at.String())
		}
		if all {
			row("network", natText(d.NAT))
		}
		if d.Mapping != "" && all {
			row("forwarded", d.Mapping)
		}
	} else {
		row("listens at", "no address: clients come by relays only")
	}
	if !onScreen {
		capacity()
	}
	return rows
}

// capacity is how many slots are taken, with a bar on a terminal.
func (v *statusView) capacity(st *admin.Status) string {
	text := capacityText(st)
	if st.Draining || st.Paused {
		text = v.p.Paint(term.Yellow, text)
	}
	if v.p.Terminal && (v.columns == 0 || v.columns >= 2*slotBar) {
		text = v.p.Bar(float64(st.Running), float64(st.Slots), slotBar) + "  " + text
	}
	return text
}

func (v *statusView) builds(builds []builder.BuildStatus) [][]string {
	var rows [][]string
	for i := range builds {
		b := &builds[i]
		id := string(b.ID)
		if v.columns > 0 && v.columns < wideScreen {
			id = id[:min(len(id), shortID)]
		}
		rows = append(rows, []string{
			"  " + id, clientText(b), v.p.Paint(stateColour(b.State), phaseText(b)), roughly(elapsed(b, v.now)),
			b.Path, plain(strings.Join(b.Labels, " ")),
		})
		if text := v.building(b); text != "" {
			rows = append(rows, []string{"    " + v.p.Paint(term.Dim, text)})
		}
	}
	return rows
}

// building names the derivations of a build that run now, the first few of them.
func (v *statusView) building(b *builder.BuildStatus) string {
	const most = 3
	var names []string
	for _, d := range b.Building[:min(len(b.Building), most)] {
		name := d.Drv
		if p, err := nix.ParsePath(d.Drv); err == nil {
			name = strings.TrimSuffix(p.Name(), ".drv")
		}
		names = append(names, plain(name)+onMachine(d.Machine)+" "+roughly(max(0, v.now.Sub(d.Since))))
	}
	if more := len(b.Building) - most; more > 0 {
		names = append(names, fmt.Sprintf("%d more", more))
	}
	return strings.Join(names, ", ")
}

func stateColour(s wire.State) string {
	switch s {
	case wire.StateBuilt:
		return term.Green
	case wire.StateFailed:
		return term.Red
	case wire.StateBuilding:
		return term.Yellow
	}
	return ""
}
