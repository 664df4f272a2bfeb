package daemon

import (
	"errors"
	"io"
	"reflect"
	"strings"
	"testing"
)

func TestLogChannel(t *testing.T) {
	every := make([]byte, 256)
	for i := range every {
		every[i] = byte(i)
	}
	long := strings.Repeat("0123456789abcdef", 8<<20/16)
	stream := u(0x6f6c6d67) + s("warning: \xff\x00\n") +
		u(0x53545254) + u(5) + u(3) + u(105) + s("building '"+pathDrv+"'") +
		list(u(1)+s(pathDrv), u(1)+s(""), u(0)+u(1), u(0)+u(1)) + u(4) +
		logLine(5, string(every)) + logLine(5, "") + logLine(5, long) +
		u(0x52534c54) + u(5) + u(101) + u(0) + // a log line without fields
		u(0x52534c54) + u(5) + u(107) + u(3) + u(1) + s("hook") + u(0) + u(1) + u(1) + s("y") +
		u(0x52534c54) + u(5) + u(104) + list(u(1)+s("installPhase")) +
		u(0x53544f50) + u(5) + last
	var r record
	d := newDecoder(strings.NewReader(stream))
	if err := d.stderr(&r); err != nil {
		t.Fatal(err)
	}
	if want := []string{"warning: \xff\x00\n"}; !reflect.DeepEqual(r.messages, want) {
		t.Errorf("messages %q", r.messages)
	}
	if want := []string{string(every), "", long, "", "hook"}; !reflect.DeepEqual(r.lines, want) {
		t.Errorf("%d lines", len(r.lines))
	}
	if r.widest > LogPiece {
		t.Errorf("a piece of %d bytes", r.widest)
	}
	act := Activity{
		ID: 5, Level: LevelInfo, Type: ActivityBuild, Text: "building '" + pathDrv + "'", Parent: 4,
		Fields: []Field{{IsString: true, Str: pathDrv}, {IsString: true}, {Int: 1}, {Int: 1}},
	}
	if !reflect.DeepEqual(r.started, []Activity{act}) || !reflect.DeepEqual(r.stopped, []uint64{5}) {
		t.Errorf("activities %+v, %v", r.started, r.stopped)
	}
	if !reflect.DeepEqual(r.results, []Field{{IsString: true, Str: "installPhase"}}) {
		t.Errorf("results %+v", r.results)
	}
}

func TestLogChannelCuts(t *testing.T) {
	big := strings.Repeat("x", MaxErrorText+5)
	fields := make([]string, MaxFields+9)
	for i := range fields {
		fields[i] = u(1) + s(big[:MaxText+1])
	}
	traces := make([]string, MaxTraces+3)
	for i := range traces {
		traces[i] = "t"
	}
	traces[0] = big
	var r record
	d := newDecoder(strings.NewReader(u(0x53545254) + u(5) + u(3) + u(0) + s(big) + list(fields...) + u(0) +
		errorMsg(big, traces...)))
	err := d.stderr(&r)
	var e *Error
	if !errors.As(err, &e) {
		t.Fatal(err)
	}
	if len(e.Msg) != MaxErrorText || len(e.Traces) != MaxTraces || len(e.Traces[0]) != MaxText {
		t.Errorf("error of %d bytes, %d traces of %d bytes", len(e.Msg), len(e.Traces), len(e.Traces[0]))
	}
	a := r.started[0]
	if len(a.Text) != MaxText || len(a.Fields) != MaxFields || len(a.Fields[0].Str) != MaxText {
		t.Errorf("activity of %d bytes, %d fields of %d", len(a.Text), len(a.Fields), len(a.Fields[0].Str))
	}
}

// A build writes what Nix takes for a result of any type with any fields:
//
//	@nix {"action":"start","id":7,"level":0,"type":101,"text":"","fields":[]}
//	@nix {"action":"result","id":7,"type":101,"fields":[5,"x"]}
func TestLogLineThatIsANumber(t *testing.T) {
	var r record
	d := newDecoder(strings.NewReader(u(0x52534c54) + u(1) + u(101) + u(2) + u(0) + u(5) + u(1) + s("x") +
		u(0x52534c54) + u(1) + u(101) + u(1) + u(1) + s("line") + u(0x616c7473)))
	if err := d.stderr(&r); err != nil {
		t.Fatal(err)
	}
	if len(r.lines) != 1 || r.lines[0] != "line" {
		t.Errorf("%q", r.lines)
	}
}

func TestLogChannelMalformed(t *testing.T) {
	for name, stream := range map[string]string{
		"unknown message":     u(0x12345),
		"data wanted":         u(0x64617461) + u(5),
		"data offered":        u(0x64617416) + s("x"),
		"padding":             u(0x6f6c6d67) + u(1) + "x\x00\x00\x00\x00\x00\x00\x01",
		"absurd string":       u(0x6f6c6d67) + u(1<<63),
		"field type":          u(0x52534c54) + u(1) + u(105) + u(1) + u(2) + u(0),
		"log line of no type": u(0x52534c54) + u(1) + u(101) + u(1) + u(2) + u(0),
		"too many fields":     u(0x52534c54) + u(1) + u(105) + u(1<<60),
		"position":            u(0x63787470) + s("Error") + u(0) + s("Error") + s("x") + u(1),
		"position in a trace": u(0x63787470) + s("Error") + u(0) + s("Error") + s("x") + u(0) + u(1) + u(1),
	} {
		if err := newDecoder(strings.NewReader(stream)).stderr(&record{}); !errors.Is(err, ErrProtocol) {
			t.Errorf("%s: %v", name, err)
		}
	}
	// A length is a promise: nothing is set aside for it.
	for _, stream := range []string{
		u(0x6f6c6d67) + u(1<<39) + "x",
		u(0x53545254) + u(1) + u(1) + u(1) + u(1<<39) + "x",
		u(0x52534c54) + u(1) + u(105) + u(1<<19) + u(0),
	} {
		if err := newDecoder(strings.NewReader(stream)).stderr(&record{}); !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("cut off: %v", err)
		}
	}
}

func TestStripANSI(t *testing.T) {
	for in, want := range map[string]string{
		"plain \xff":                             "plain \xff",
		"\x1b[31;1merror:\x1b[0m x":              "error: x",
		"\x1b]8;;http://x\x1b\\link\x1b]8;;\x07": "link",
		"a\x1b":                                  "a",
		"a\x1b[31":                               "a",
		"a\x1b]0;t":                              "a",
		"a\x1bMb":                                "ab",
	} {
		if got := StripANSI(in); got != want {
			t.Errorf("%q: got %q", in, got)
		}
	}
}

// The fuzz tests feed the decoders what no daemon would send. They must not
// panic, and what they return must respect the limits.

func FuzzLogChannel(f *testing.F) {
	f.Add([]byte(logLine(1, "x") + u(0x53545254) + u(1) + u(3) + u(105) + s("t") + list(u(1)+s("a"), u(0)+u(1)) + u(0) + last))
	f.Add([]byte(errorMsg("msg", "trace")))
	f.Add([]byte(u(0x6f6c6d67) + u(1<<39)))
	f.Fuzz(func(t *testing.T, data []byte) {
		var r record
		err := newDecoder(strings.NewReader(string(data))).stderr(&r)
		var e *Error
		if errors.As(err, &e) && (len(e.Msg) > MaxErrorText || len(e.Traces) > MaxTraces) {
			t.Error("error over the limits")
		}
		for _, a := range r.started {
			if len(a.Text) > MaxText || len(a.Fields) > MaxFields {
				t.Error("activity over the limits")
			}
		}
	})
}

func FuzzPathInfo(f *testing.F) {
	f.Add([]byte(unkeyed()))
	f.Add([]byte(s("") + s(zeroHex) + u(1<<40)))
	f.Fuzz(func(t *testing.T, data []byte) {
		d := newDecoder(strings.NewReader(string(data)))
		info := d.unkeyedInfo(pathA)
		if (info == nil) != (d.err != nil) {
			t.Errorf("info %v with error %v", info, d.err)
		}
	})
}

func FuzzBuildResult(f *testing.F) {
	f.Add([]byte(s(pathDrv+"!out")+u(0)+s("")+u(1)+u(0)+u(10)+u(20)+u(1)+u(5)+u(0)+
		list(s("sha256:x!out")+s(realisationJSON))), true)
	f.Add([]byte(s(pathA)+u(14)+s("no")+u(0)+u(0)+u(0)+u(0)+list()), false)
	f.Fuzz(func(t *testing.T, data []byte, cpu bool) {
		v := MinVersion
		if cpu {
			v = MaxVersion
		}
		d := newDecoder(strings.NewReader(string(data)))
		r := d.buildResult(v)
		if d.err == nil && (len(r.ErrorMsg) > MaxErrorText || r.Path.check() != nil) {
			t.Errorf("accepted %+v", r)
		}
	})
}
