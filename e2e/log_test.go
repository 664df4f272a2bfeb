//go:build e2e

package e2e

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/drv-thru/drv-thru/e2e/lab"
)

// A build log reaches the client's output as Nix hands it on, byte by byte.
// What Nix itself changes is described in core/nix/daemon.
func TestLogBytes(t *testing.T) {
	forEachRoot(t, func(t *testing.T, root lab.Root) {
		p := lab.NewPair(t, root, root)
		var all, want bytes.Buffer
		for i := range 256 {
			if i != '\n' && i != '\r' {
				all.WriteByte(byte(i))
			}
		}
		// Every byte but those that Nix takes for itself, then with the carriage
		// return, after which more bytes follow than there were before.
		fmt.Fprintf(&want, "%s\n%s\n", all.Bytes(), all.Bytes()[12:])
		if root == lab.Sid {
			want.WriteString("X\n")
		} else {
			want.WriteString("Xbc\n")
		}
		want.WriteString(strings.Repeat("x", 8<<20) + "\n\nlast\n\nno line feed\n")
		script := strings.Join([]string{
			strings.Replace(lab.LogEveryByte, "[ $i = 10 ]", "[ $i = 10 ] || [ $i = 13 ]", 1),
			lab.LogEveryByte, `printf 'abc\rX\n'`, lab.LogLongLine, `printf '\nlast\n\nno line feed'`,
		}, "\n")

		got := newLogSink()
		cmd := p.Client.BuildCmd(p.Builder.Ticket(), "-L", "--no-link", "--impure", "--expr", string(lab.Log("bytes", script)))
		cmd.Stderr = got
		if err := cmd.Run(); err != nil {
			t.Fatalf("%v\n%s", err, got.close().others)
		}
		got.close()
		if sum := sha256.Sum256(want.Bytes()); got.size != int64(want.Len()) || !bytes.Equal(got.sum.Sum(nil), sum[:]) {
			t.Errorf("%d bytes came, %d were printed; the beginning is\n%q, not\n%q", got.size, want.Len(), got.head, want.Bytes()[:keptHead])
		}
		p.Verify(t)
	})
}

// A quarter of a gigabyte of log passes whole, and neither end holds it in memory.
func TestLogHuge(t *testing.T) {
	p := lab.NewPair(t, lab.Trixie, lab.Trixie)
	gate := lab.NewGate(t, p.Builder.Host, "log")
	const lines = 250_000
	sum := sha256.New()
	dots := strings.Repeat(".", 992)
	for i := range lines {
		fmt.Fprintf(sum, "%d%s\n", 1_000_000+i, dots)
	}
	long := strings.Repeat("x", 8<<20) + "\n"
	io.WriteString(sum, long+long+"the end\n")

	got := newLogSink()
	script := strings.Join([]string{lab.LogHuge, lab.LogLongLine, lab.LogLongLine, "echo the end; read line < /gate/log"}, "\n")
	cmd := p.Client.BuildCmd(p.Builder.Ticket(), "-L", "--no-link", "--impure", "--expr", string(lab.Log("huge", script)))
	cmd.Stderr = got
	begun := time.Now()
	c := p.Client.Host.StartCmd(cmd)
	select {
	case <-got.ended:
	case <-c.Done():
	}
	t.Logf("%d bytes of log in %v", got.size, time.Since(begun).Round(time.Millisecond))
	// Both are still there, with all of the log behind them.
	peaks(t, p, 150<<20, 200<<20)
	gate.Open()
	if err := c.Wait(longest); err != nil {
		t.Fatalf("%v\n%s", err, got.close().others)
	}
	got.close()
	if want := int64(lines*1000 + 2*len(long) + len("the end\n")); got.size != want || !bytes.Equal(got.sum.Sum(nil), sum.Sum(nil)) {
		t.Errorf("%d bytes came, %d were printed, or not the same ones; the others are\n%s", got.size, want, got.others)
	}
	p.Verify(t)
}

// peaks fails the test when the builder or the client has ever had more
// resident memory.
func peaks(t *testing.T, p *lab.Pair, builder, client int64) {
	t.Helper()
	for _, x := range []struct {
		host  *lab.Host
		args  []string
		limit int64
	}{{p.Builder.Host, []string{"drv-thru", "serve"}, builder}, {p.Client.Host, []string{"drv-thru", "build"}, client}} {
		most := peak(t, x.host, x.args...)
		t.Logf("%s: at most %d MiB resident", strings.Join(x.args, " "), most>>20)
		if most > x.limit {
			t.Errorf("%s had %d MiB resident, more than %d", strings.Join(x.args, " "), most>>20, x.limit>>20)
		}
	}
}

const (
	// logPrefix is what a client writes before the lines of [lab.Log]'s builds.
	logPrefix = "log> "
	keptHead  = 600
)

// A logSink takes what a client prints and tells the log's lines from the others,
// without keeping them. Its fields may be read after close, or once the log has
// ended with the line "the end".
type logSink struct {
	*io.PipeWriter
	done  chan struct{}
	ended chan struct{} // closed after the line "the end"

	sum    hash.Hash
	size   int64
	head   []byte
	others []byte
}

func newLogSink() *logSink {
	r, w := io.Pipe()
	s := &logSink{PipeWriter: w, done: make(chan struct{}), ended: make(chan struct{}), sum: sha256.New()}
	go s.read(bufio.NewReaderSize(r, 256<<10))
	return s
}

func (s *logSink) close() *logSink {
	s.PipeWriter.Close()
	<-s.done
	return s
}

func (s *logSink) read(r *bufio.Reader) {
	defer close(s.done)
	ours, begins := false, true
	for {
		piece, err := r.ReadSlice('\n')
		whole := bytes.HasSuffix(piece, []byte("\n"))
		if begins {
			if ours = bytes.HasPrefix(piece, []byte(logPrefix)); ours {
				piece = piece[len(logPrefix):]
			}
		}
		if ours {
			s.sum.Write(piece)
			s.size += int64(len(piece))
			s.head = append(s.head, piece[:min(len(piece), keptHead-len(s.head))]...)
		} else {
			s.others = append(s.others, piece...)
		}
		if ours && begins && string(piece) == "the end\n" {
			close(s.ended)
		}
		begins = whole
		if err != nil && !errors.Is(err, bufio.ErrBufferFull) {
			return
		}
	}
}
