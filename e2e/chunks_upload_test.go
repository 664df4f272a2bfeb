//go:build e2e

package e2e

import (
	"fmt"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/drv-thru/drv-thru/core/wire"
	"github.com/drv-thru/drv-thru/e2e/lab"
)

const (
	// treeFiles of treeFile bytes are a source tree of 60 MB.
	treeFiles = 600
	treeFile  = 100_000
	// pieceBytes is a source that is sent when something breaks, at pieceStop.
	pieceBytes = 24 << 20
	pieceStop  = 14 << 20
	// inFlight is what of it may be on its way and not there yet: parts of the
	// chunks of four requests, and what the relay and the sockets hold.
	inFlight = 4 << 20
)

// Of large sources only those chunks travel that the builder lacks, and those
// that have come once are not sent again, whatever breaks.
func TestChunkedUpload(t *testing.T) {
	s := newStage(t, lab.Sid, lab.Sid)
	c := s.pair.Client.Host
	text := s.pair.Builder.Ticket("--uses", "unlimited")
	ticket := s.valve.ticket(t, text)
	build := func(dir string) *lab.Cmd {
		return s.pair.Client.BuildCmd(ticket, "--no-link", "-f", "default.nix").In(dir)
	}
	// reads makes an expression of what counts the bytes of a source.
	reads := func(dir, source string) {
		c.WriteFile(lab.Alice, dir+"/default.nix", fmt.Sprintf(`derivation { name = "reader"; system = %q; builder = "/bin/sh";
			src = builtins.path { path = ./%s; name = %[2]q; }; args = [ "-euc" "echo $src > $out" ]; }`, lab.System, source))
	}

	t.Run("one line", func(t *testing.T) {
		const dir = "/home/alice/tree"
		for i := range treeFiles {
			c.WriteFile(lab.Alice, fmt.Sprintf("%s/src/dir-%d/file-%d", dir, i%20, i), lines(fmt.Sprint("tree", i), treeFile))
		}
		reads(dir, "src")
		must(t, build(dir))
		name := fmt.Sprintf("%s/src/dir-7/file-%d", dir, 7+20*10)
		was, err := c.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		c.WriteFile(lab.Alice, name, strings.Replace(string(was), "\n", "\nchanged ", 1))
		s.valve.count()
		must(t, build(dir))
		if got, most := s.valve.passed(up), int64(treeFiles*treeFile/100); got > most {
			t.Errorf("%d bytes were sent for one line, want %d at most", got, most)
		} else {
			t.Logf("%d bytes were sent for one line of %d", got, treeFiles*treeFile)
		}
	})

	piece := func(t *testing.T, name string) (dir string) {
		t.Helper()
		dir = "/home/alice/" + name
		c.WriteFile(lab.Alice, dir+"/piece", noise(name, pieceBytes))
		reads(dir, "piece")
		s.valve.stopAt(up, pieceStop)
		t.Cleanup(s.valve.open)
		return dir
	}
	standing := func(t *testing.T, p *lab.Process) {
		t.Helper()
		eventually(t, "the transfer stands still", func() bool {
			select {
			case <-p.Done():
				t.Fatalf("the client has ended:\n%s", p.Output())
			default:
			}
			return s.valve.stands()
		})
		// What is on its way arrives.
		eventually(t, "the builder has kept the chunks", func() bool { return s.spooled(t) >= pieceStop-inFlight })
		s.valve.count()
	}
	onlyRest := func(t *testing.T) {
		t.Helper()
		if got, most := s.valve.passed(up), int64(pieceBytes-pieceStop+inFlight+transferCost); got > most {
			t.Errorf("%d bytes were sent after the break, want %d at most", got, most)
		}
	}
	for name, breaks := range map[string]func(){
		"relay restarted": func() { s.pair.Relay.Restart() },
		"builder killed":  func() { s.pair.Builder.Kill(); s.pair.Builder.Start() },
	} {
		t.Run(name, func(t *testing.T) {
			p := c.StartCmd(build(piece(t, strings.ReplaceAll(name, " ", "-"))))
			standing(t, p)
			breaks()
			s.valve.open()
			if code := lab.ExitCode(p.Wait(longest)); code != 0 {
				t.Fatalf("the client exits with %d:\n%s", code, p.Output())
			}
			onlyRest(t)
		})
	}
	t.Run("client interrupted", func(t *testing.T) {
		dir := piece(t, "interrupted")
		p := c.StartCmd(build(dir))
		standing(t, p)
		p.Interrupt()
		if code := lab.ExitCode(p.Wait(longest)); code != 130 {
			t.Fatalf("the client exits with %d:\n%s", code, p.Output())
		}
		s.valve.open()
		must(t, build(dir))
		onlyRest(t)
	})

	// Who guesses what others have sent is told to send everything.
	t.Run("guess", func(t *testing.T) {
		const name = "guessed"
		dir := "/home/alice/" + name
		secret := noise(name, 2<<20)
		c.WriteFile(lab.Alice, dir+"/piece", secret)
		reads(dir, "piece")
		must(t, build(dir))

		guess := addressed("piece", fileNar(secret[:1<<20]+"?"+secret[1<<20:]))
		in := with("guess", guess)
		cut := guess.cut()
		for who, c := range map[string]struct {
			ticket string
			all    bool
		}{"another ticket": {s.pair.Builder.Ticket(), true}, "the same ticket": {text, false}} {
			p := newPeer(t, c.ticket)
			id := newBuildID(t)
			if _, a := p.putBuild(id, in.request()); a.code != "" {
				t.Fatal(a.text)
			}
			missing, a := p.putManifest(id, 0, cut.Manifest)
			n := 0
			for _, r := range missing {
				n += r[1]
			}
			if a.code != "" || (n == len(cut.Chunks)) != c.all || n == 0 {
				t.Errorf("%s: %d of %d chunks are asked for (%s)", who, n, len(cut.Chunks), a.text)
			}
			if a := p.ask("DELETE", "/v1/builds/"+string(id), nil); a.code != "" {
				t.Error(a.text)
			}
		}
	})
	s.pair.Verify(t)
}

// spooled is how many bytes of inputs that are not complete the builder has.
func (s *stage) spooled(t *testing.T) (sum int64) {
	t.Helper()
	err := s.pair.Builder.Host.Do(func() error {
		spools, err := filepath.Glob(dataDir + "/uploads/*/*.spool")
		for _, name := range spools {
			var st syscall.Stat_t
			if syscall.Stat(name, &st) == nil { // it may have been completed
				sum += st.Blocks * 512
			}
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return sum
}

// lines is text of which every line is different.
func lines(seed string, n int) string {
	b := []byte(noise(seed, n))
	for i := range b {
		if b[i] = "abcdefghijklmnop"[b[i]&15]; i%64 == 63 {
			b[i] = '\n'
		}
	}
	return string(b)
}

// Chunks of a hostile holder come to nothing, and nothing of them is left.
func TestHostileHolderChunks(t *testing.T) {
	s := newSiege(t, lab.Sid)
	s.startHonest(t, lab.Sid)
	e := addressed("chunked", fileNar(noise("chunked", 1<<20)))
	in := with("chunked", e)
	cut := e.cut()
	for name, c := range map[string]struct {
		want wire.Code
		do   func(id wire.BuildID) answer
	}{
		"junk": {wire.CodeInputManifest, func(id wire.BuildID) answer {
			_, a := s.attacker.putManifest(id, 0, []byte("hello, this is no manifest"))
			return a
		}},
		"endless": {wire.CodeInputManifest, func(id wire.BuildID) answer {
			_, a := s.attacker.putManifest(id, 0, append(cut.Manifest[:len(cut.Manifest)-3:len(cut.Manifest)-3], []byte(strings.Repeat("\xff", 16<<20))...))
			return a
		}},
		"of another": {wire.CodeInputManifest, func(id wire.BuildID) answer {
			_, a := s.attacker.putManifest(id, 0, addressed("other", fileNar(noise("other", 1<<20))).cut().Manifest)
			return a
		}},
		"early end": {wire.CodeInputIncomplete, func(id wire.BuildID) answer {
			s.attacker.putManifest(id, 0, cut.Manifest)
			return s.attacker.ask("POST", inputPath(id, 0), nil)
		}},
		"never asked": {wire.CodeInputIncomplete, func(id wire.BuildID) answer {
			return s.attacker.putChunks(id, 0, cut.Frames(0))
		}},
		"wrong chunk": {wire.CodeInputChunk, func(id wire.BuildID) answer {
			s.attacker.putManifest(id, 0, cut.Manifest)
			body := cut.Frames(0)
			body[len(body)-1] ^= 1
			return s.attacker.putChunks(id, 0, body)
		}},
		"ordinal": {wire.CodeInputChunk, func(id wire.BuildID) answer {
			s.attacker.putManifest(id, 0, cut.Manifest)
			body := cut.Frames(0)
			body[0] = 0x7f
			return s.attacker.putChunks(id, 0, body)
		}},
		"victim's build": {wire.CodeNotFound, func(wire.BuildID) answer {
			_, a := s.attacker.putManifest(s.victimBuild, 0, cut.Manifest)
			return a
		}},
	} {
		t.Run(name, func(t *testing.T) {
			s.attacker.t = t
			id := newBuildID(t)
			if _, a := s.attacker.putBuild(id, in.request()); a.code != "" {
				t.Fatal(a.text)
			}
			if a := c.do(id); a.code != c.want {
				t.Errorf("refused as %q (%s), want %q", a.code, a.text, c.want)
			}
			s.attacker.ask("DELETE", "/v1/builds/"+string(id), nil)
			s.attacker.alive(t)
		})
	}
	s.attacker.t = t
	s.finishHonest(t)
}
