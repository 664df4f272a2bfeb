package term

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/charmbracelet/x/ansi"

	"github.com/drv-thru/drv-thru/core/nix"
)

const (
	// labelColumns is the width of what stands before a bar.
	labelColumns = 11
	// barColumns is the widest bar, narrowBar the narrowest that is drawn.
	barColumns, narrowBar = 32, 8
	// spanColumns is room for any Span but the longest.
	spanColumns = 9
)

// frame draws what there is to see in so many columns and rows: the tree of
// builds, what moves, and last what it is all about. It costs what is seen, not
// what is built.
func (v *Progress) frame(now time.Time, columns, rows int) []string {
	v.mu.Lock()
	defer v.mu.Unlock()
	var out []string
	columns-- // the last one stays free
	if v.phase == phaseBuilding {
		out = v.jobRows(now, columns, min(max(rows/3, 3), rows-6))
		t := v.builds.tally()
		if c := v.builds.fetched; c.expected > c.done {
			text := fmt.Sprintf("%d of %s", c.done, Count(int(c.expected), "path"))
			out = append(out, v.barRow("fetched", float64(c.done), float64(c.expected), columns, text+" by the builder", text))
		}
		if t.total > 0 {
			out = append(out, v.barRow("built", float64(t.done), float64(t.total), columns, v.tallyText(t)))
		}
	}
	for _, r := range []struct {
		label string
		rate  *rate
	}{{"sending", &v.up}, {"receiving", &v.down}} {
		if r.rate.moving() {
			out = append(out, v.barRow(r.label, float64(r.rate.now.Done), float64(r.rate.now.Total), columns, r.rate.texts(now)...))
		}
	}
	return append(out, v.lastRow(now))
}

func (v *Progress) tallyText(t tally) string {
	parts := []string{fmt.Sprintf("%d of %d", t.done, t.total)}
	for _, c := range []struct {
		n         uint64
		what, sgr string
	}{{t.running, "running", Yellow}, {t.waiting, "waiting", ""}, {t.failed, "failed", Red}} {
		if c.n > 0 {
			parts = append(parts, v.p.Paint(c.sgr, fmt.Sprintf("%d %s", c.n, c.what)))
		}
	}
	return strings.Join(parts, ", ")
}

// barRow is a label, a bar and the first text that leaves room for both; where
// none does, only the last text, which is the shortest.
func (v *Progress) barRow(label string, part, whole float64, columns int, texts ...string) string {
	row := v.p.Paint(Bold, fmt.Sprintf("%-*s", labelColumns, label))
	for _, text := range texts {
		if bar := min(columns-labelColumns-2-ansi.StringWidth(text), barColumns); bar >= narrowBar {
			return row + v.p.Bar(part, whole, bar) + "  " + text
		}
	}
	return row + texts[len(texts)-1]
}

// lastRow tells the phase, how long it has lasted and which way bytes go.
func (v *Progress) lastRow(now time.Time) string {
	var parts []string
	switch {
	case v.place > 0:
		parts = append(parts, "queued at position "+strconv.Itoa(v.place)+v.waitText(now))
	case v.doing != "":
		parts = append(parts, plain(v.doing))
	case v.phase != "":
		parts = append(parts, v.phase)
	}
	parts = append(parts, Span(now.Sub(v.began)))
	if p := v.path(); p != "" {
		parts = append(parts, plain(p))
	}
	return v.p.Paint(Bold, parts[0]) + v.p.Paint(Dim, v.p.glyphs().dot+strings.Join(parts[1:], v.p.glyphs().dot))
}

// alive is a line on where the build is, "" where that is nowhere yet.
func (v *Progress) alive(now time.Time) string {
	v.mu.Lock()
	defer v.mu.Unlock()
	var parts []string
	if v.place > 0 {
		parts = append(parts, fmt.Sprintf("still waiting in the builder's queue, position %d%s", v.place, v.waitText(now)))
	}
	if v.up.moving() {
		parts = append(parts, "sending "+v.up.texts(now)[0])
	}
	if v.down.moving() {
		parts = append(parts, "receiving "+v.down.texts(now)[0])
	}
	if t := v.builds.tally(); v.phase == phaseBuilding && t.total > 0 {
		parts = append(parts, "built "+v.tallyText(t))
	}
	if len(parts) == 0 && v.phase != "" {
		parts = append(parts, v.phase)
	}
	if len(parts) == 0 {
		return ""
	}
	return strings.Join(parts, "; ") + " (" + Span(now.Sub(v.began)) + ")"
}

// waitText tells how long the place in the queue may last, if that is known.
func (v *Progress) waitText(now time.Time) string {
	if v.turn.IsZero() {
		return ""
	}
	return ", " + Within(v.turn.Sub(now))
}

// jobRows are the tree of builds, in at most so many rows: first those that
// failed, then those that run, the longest first, then those done last.
func (v *Progress) jobRows(now time.Time, columns, most int) []string {
	if most <= 0 {
		return nil
	}
	b := &v.builds
	var jobs []*job
	take := func(from []*job, newest bool) {
		for i := range from {
			if len(jobs) == most {
				return
			}
			if newest {
				i = len(from) - 1 - i
			}
			jobs = append(jobs, from[i])
		}
	}
	take(b.failed[:min(len(b.failed), (most+1)/2)], false)
	take(b.order, false)
	take(b.ended, true)
	var roots []*node
	hidden := 0 // of those that run
	for {
		roots, hidden = v.graph.tree(jobs), b.hidden(jobs)
		if len(jobs) <= 1 || size(roots)+min(hidden, 1) <= most {
			break
		}
		jobs = jobs[:len(jobs)-1]
	}
	var lines []treeLine
	for _, root := range roots {
		lines = v.treeLines(lines, root, "", "", "")
	}
	if len(lines) > most { // one build deep below roots
		lines = lines[len(lines)-most:]
	}
	name := 0
	for _, l := range lines {
		if l.job != nil {
			name = max(name, ansi.StringWidth(l.name))
		}
	}
	words := 32 // columns for a build's last words
	if columns < 60 {
		words = 0
	}
	name = min(name, max(columns*2/5, columns-spanColumns-1-words))
	clock := v.builderTime(now)
	out := make([]string, 0, most)
	for _, l := range lines {
		out = append(out, v.jobRow(l, clock, name))
	}
	if hidden > 0 && len(out) < most {
		out = append(out, v.p.Paint(Dim, fmt.Sprintf("%s and %d more running", v.p.glyphs().more, hidden)))
	}
	return out
}

// hidden is how many of the running builds are not among shown.
func (b *builds) hidden(shown []*job) int {
	n := len(b.order)
	for _, j := range shown {
		if j.ended.IsZero() {
			n--
		}
	}
	return n
}

// treeLine is one row of the tree: branches and a name.
type treeLine struct {
	name    string
	picture string // the glyph in name
	sgr     string // of the glyph
	job     *job
}

func (v *Progress) treeLines(out []treeLine, n *node, before, branch, below string) []treeLine {
	g := v.p.glyphs()
	l := treeLine{job: n.job, picture: g.waiting, sgr: Dim}
	if j := n.job; j != nil {
		switch {
		case j.failed:
			l.picture, l.sgr = g.failed, Red
		case !j.ended.IsZero():
			l.picture, l.sgr = g.done, Green
		default:
			l.picture, l.sgr = g.running, Yellow
		}
	}
	l.name = before + branch + l.picture + " " + drvTitle(n.drv)
	out = append(out, l)
	for i, c := range n.children {
		if i == len(n.children)-1 {
			out = v.treeLines(out, c, before+below, g.last, "   ")
		} else {
			out = v.treeLines(out, c, before+below, g.branch, g.through)
		}
	}
	return out
}

// drvTitle is a derivation's name with its version.
func drvTitle(drv nix.Path) string { return strings.TrimSuffix(drv.Name(), ".drv") }

// jobRow is a line of the tree, how long its build has lasted and its last words.
func (v *Progress) jobRow(l treeLine, clock time.Time, name int) string {
	paint := func(text string) string { return strings.Replace(text, l.picture, v.p.Paint(l.sgr, l.picture), 1) }
	j := l.job
	if j == nil {
		return paint(l.name)
	}
	text := fit(l.name, name, v.p.Unicode)
	text = paint(text) + strings.Repeat(" ", max(0, name-ansi.StringWidth(text)))
	end, words := clock, plain(strings.TrimRight(string(j.line), " \t\r"))
	switch {
	case j.failed:
		words = v.p.Paint(Red, "failed")
	case !j.ended.IsZero():
		words = ""
	case words == "" && j.phase != "":
		words = v.p.Paint(Dim, plain(j.phase))
	default:
		words = v.p.Paint(Dim, words)
	}
	if !j.ended.IsZero() {
		end = j.ended
	}
	text += fmt.Sprintf(" %*s", spanColumns, Span(end.Sub(j.began)))
	if j.host != "" {
		text += "  " + v.p.Paint(Blue, "on "+plain(j.host))
	}
	if words != "" {
		text += "  " + words
	}
	return text
}
