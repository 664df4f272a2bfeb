//go:build e2e

package e2e

import (
	"regexp"
	"testing"
	"time"

	"github.com/drv-thru/drv-thru/e2e/lab"
)

var evaluatedLine = regexp.MustCompile(`time=(\S+) .*msg=evaluated`)

// BenchmarkBuiltThere measures what the smallest build costs that has nothing to
// build: one path that the builder has and the client lacks, through a relay on
// loopback. Each round brings it home by drv-thru build, whose evaluation is not
// counted (ours), by nix copy from the builder over ssh-ng and from a directory, and
// asks the builder over ssh-ng about it, which moves nothing. It reports the medians
// of the rounds, in milliseconds of time that passes and (cpu) of what all processes
// spend, the evaluation's included. The budget for ours is 150.
func BenchmarkBuiltThere(b *testing.B) {
	p := newImportPair(b, false)
	closure := p.build(lab.Hello("there"))
	took, spent := make(map[string][]time.Duration), make(map[string][]time.Duration)
	note := func(way string, t, cpu time.Duration) {
		took[way], spent[way] = append(took[way], t), append(spent[way], cpu)
	}
	for b.Loop() {
		for _, way := range []string{"ssh-ng", "raw"} {
			t, cpu := p.timed(closure, p.prepare(way, closure))
			note(way, t, cpu)
		}
		c := p.client.Host.Command(lab.Alice, "nix", "path-info", "--store", p.sshStore, closure[0]).AddEnv(p.sshEnv...)
		begun := time.Now()
		if out, err := c.CombinedOutput(); err != nil {
			b.Fatalf("%v\n%s", err, out)
		}
		note("asked", time.Since(begun), c.ProcessState.UserTime()+c.ProcessState.SystemTime())

		again := p.prepare("repeat", closure)
		again.Args = append(again.Args, "-v")
		text, _, ended, cpu := p.brought(closure, again)
		m := evaluatedLine.FindStringSubmatch(text)
		if m == nil {
			b.Fatalf("it does not say when it had evaluated:\n%s", text)
		}
		evaluated, err := time.Parse(time.RFC3339Nano, m[1])
		if err != nil {
			b.Fatal(err)
		}
		note("ours", ended.Sub(evaluated), cpu)
	}
	b.ReportMetric(0, "ns/op") // means nothing: four commands are one op
	for way := range took {
		b.ReportMetric(float64(median(took[way]).Microseconds())/1000, way+"-ms")
		b.ReportMetric(float64(median(spent[way]).Microseconds())/1000, way+"-cpu-ms")
	}
	b.ReportMetric(median(took["ours"]).Seconds()/median(took["ssh-ng"]).Seconds(), "ours-x-ssh-ng")
}
