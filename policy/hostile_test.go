package policy

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tetratelabs/wazero/api"

	"github.com/drv-thru/drv-thru/core/ticket"
)

var testLimits = ticket.Limits{
	MaxBuildTime: ticket.Duration(30 * time.Minute), MaxUploadBytes: 1 << 30, MaxOutputBytes: 1 << 31,
	Systems: []string{"x86_64-linux", "aarch64-linux"}, NoFixedOutput: true,
}

func testRequest() Request {
	return Request{
		Now: 1_700_000_000, Event: EventBuild,
		Ticket: Ticket{ID: "t", Name: "ci"}, Client: Client{ID: "c"},
		Request: Build{Roots: []Root{{Name: "hello", System: "x86_64-linux", Outputs: []string{"out"}}}},
	}
}

// patient lets ordinary modules take as long as a busy machine needs.
func patient(t testing.TB, interpret bool) *Host {
	t.Helper()
	return NewHost(Config{Wall: time.Minute, Interpret: interpret, Concurrency: 2})
}

// ask loads and asks once; err is of either.
func ask(t testing.TB, h *Host, code []byte) (Result, error) {
	t.Helper()
	m, err := h.Load(t.Context(), code)
	if err != nil {
		return Result{}, err
	}
	defer m.Close()
	return m.Decide(t.Context(), testRequest(), testLimits)
}

func wantCode(t testing.TB, err error, want Code) *Error {
	t.Helper()
	var e *Error
	if !errors.As(err, &e) {
		t.Fatalf("error %v, want one with %s", err, want)
	}
	if e.Code != want {
		t.Fatalf("%s, want %s", e.Owner(), want)
	}
	return e
}

// twice is a function 0 that calls itself twice, sixty deep.
var twice = deep(call(0))

// indirectly is the same through element 0 of a table, where element0 puts it.
var (
	indirectly = deep(op(i32(0), []byte{0x11, 0, 0}))
	element0   = op([]byte{1, 0}, i32(0), []byte{0x0b, 1, 0})
)

// nested is loops in one another in which every one changes a local variable, of
// which there are as many, and all are used afterwards.
func nested(loops int) fn {
	index := func(op byte, i int) []byte { return append([]byte{op}, vecLen(uint64(i))...) }
	global := []byte{0x23, 0}
	var begin, end, use []byte
	for i := range loops {
		begin = op(begin, []byte{0x03, 0x40}, index(0x20, i), global, []byte{0x6a}, index(0x21, i))
		end = op(end, global, []byte{0x0d, 0, 0x0b})
		use = op(use, index(0x20, i), drop)
	}
	return fn{locals: op([]byte{1}, vecLen(uint64(loops)), []byte{0x7f}), body: op(begin, end, use)}
}

// loads reads n addresses.
func loads(n int) (all []byte) {
	for i := range n {
		all = op(all, i32(int32(i)), []byte{0x28, 2, 0}, drop)
	}
	return all
}

func deep(again []byte) []byte {
	global := []byte{0x23, 0}
	return op(global, i32(60), []byte{0x4e, 0x04, 0x40, 0x0f, 0x0b}, // return if 60 deep
		global, i32(1), []byte{0x6a, 0x24, 0}, again, again, global, i32(1), []byte{0x6b, 0x24, 0})
}

func decides(limits string) string {
	return `{"abi":"ticket-policy/1","decision":"narrow","limits":{` + limits + `}}`
}

// hostile are modules of which each is refused with its code.
func hostile() map[string]struct {
	code   []byte
	want   Code
	spins  bool // runs until its time is up
	before bool // refused before it runs
} {
	type h = struct {
		code   []byte
		want   Code
		spins  bool
		before bool
	}
	run := func(want Code, m mod) h { return h{code: m.wasm(), want: want} }
	spin := func(m mod) h { return h{code: m.wasm(), want: CodeTimeout, spins: true} }
	refused := func(want Code, m mod) h { return h{code: m.wasm(), want: want, before: true} }
	out := func(want Code, text string) h { return h{code: says(text), want: want} }
	w, all, global := []imp{fdWrite}, []byte{0, 0x80, 4}, []byte{0x23, 0}
	poll := imp{wasiModule, "poll_oneoff", 4, 1}
	huge := func(n uint64) []byte {
		return append([]byte{0x70, 0}, vecLen(n)...)
	}
	values := op([]byte{0x60}, bytesOf(bytes.Repeat([]byte{0x7f}, maxParams)), bytesOf(bytes.Repeat([]byte{0x7f}, maxParams)))
	return map[string]h{
		"infinite loop":            spin(mod{body: forever}),
		"infinite loop in start":   spin(mod{body: forever, start: true}),
		"loop that reads at end":   spin(mod{imports: []imp{fdRead}, body: loop(store(0, 64), store(4, 1<<15), i32(0), i32(0), i32(1), i32(8), call(0), drop)}),
		"loop that fills memory":   spin(mod{memory: []byte{0, 0x80, 4}, body: loop(i32(0), i32(7), i32(32<<20), []byte{0xfc, 11, 0})}),
		"table grown for ever":     spin(mod{table: []byte{0x70, 0, 1}, body: loop([]byte{0xd0, 0x70}, i32(1<<30), []byte{0xfc, 15, 0}, drop)}),
		"calls without a loop":     spin(mod{global: true, body: twice}),
		"calls through a table":    spin(mod{global: true, table: []byte{0x70, 0, 1}, elems: element0, body: indirectly}),
		"a row of memory.fill":     spin(mod{memory: []byte{0, 0x80, 4}, body: bytes.Repeat(op(i32(0), i32(7), i32(32<<20), []byte{0xfc, 11, 0}), 300)}),
		"loop of poll_oneoff":      spin(mod{imports: []imp{poll}, memory: all, body: loop(i32(0), i32(0), i32(maxEvents), i32(0), call(0), drop)}),
		"poll that is refused":     spin(mod{imports: []imp{poll}, memory: all, body: loop(i32(0), i32(0), i32(600_000), i32(0), call(0), drop)}),
		"loop of random_get":       spin(mod{imports: []imp{randomGet}, memory: all, body: loop(i32(0), i32(maxRandom), call(0), drop)}),
		"random of all memory":     spin(mod{imports: []imp{randomGet}, memory: all, body: loop(i32(0), i32(32<<20), call(0), drop)}),
		"output of no bytes":       spin(mod{imports: w, memory: all, body: loop(i32(1), i32(0), i32(4<<20-1), i32(0), call(0), drop)}),
		"input to no bytes":        spin(mod{imports: []imp{fdRead}, memory: all, body: loop(i32(0), i32(0), i32(4<<20-1), i32(0), call(0), drop)}),
		"loop that copies memory":  spin(mod{memory: all, body: loop(i32(0), i32(1), i32(32<<20-1), []byte{0xfc, 10, 0, 0})}),
		"loop that fills a table":  spin(mod{table: huge(MaxTable), body: loop(i32(0), []byte{0xd0, 0x70}, i32(MaxTable), []byte{0xfc, 17, 0})}),
		"loop that copies a table": spin(mod{table: huge(MaxTable), body: loop(i32(0), i32(1), i32(MaxTable-1), []byte{0xfc, 14, 0, 0})}),
		"deep, then a loop":        spin(mod{global: true, body: op(global, i32(1), []byte{0x6a, 0x24, 0}, global, i32(1_000), []byte{0x4e, 0x04, 0x40}, forever, []byte{0x0b}, call(0))}),
		"slow divisions":           spin(mod{body: loop([]byte{0x42, 1}, bytes.Repeat([]byte{0x42, 1, 0x7f}, 10_000), drop)}),
		"loop after an answer":     spin(mod{imports: w, data: allows, body: op(write(1, 1024, int32(len(allows))), forever)}),
		"memory grown bit by bit":  run(CodeMemory, mod{body: loop(grow(1))}),
		"memory grown at once":     run(CodeMemory, mod{body: op(grow(511), grow(1))}),
		"memory, then an answer":   run(CodeMemory, mod{imports: w, data: allows, body: op(grow(600), write(1, 1024, int32(len(allows))))}),
		"endless stdout":           run(CodeOutputLimit, mod{imports: w, body: loop(write(1, 0, 1<<15))}),
		"a gigabyte of stdout":     run(CodeOutputLimit, mod{imports: w, memory: []byte{0, 0x80, 4}, body: loop(write(1, 0, 32<<20))}),
		"stderr flood":             run(CodeOutputLimit, mod{imports: w, body: loop(write(2, 0, 100))}),
		"stderr, then an answer":   run(CodeOutputLimit, mod{imports: w, data: allows, body: op(write(2, 0, 5000), write(1, 1024, int32(len(allows))))}),
		"unreachable":              run(CodeTrap, mod{body: unreachable}),
		"unreachable in start":     run(CodeTrap, mod{body: unreachable, start: true}),
		"out of bounds":            run(CodeTrap, mod{body: store(1<<30, 1)}),
		"division by zero":         run(CodeTrap, mod{body: op(i32(1), i32(0), []byte{0x6d}, drop)}),
		"stack overflow":           run(CodeTrap, mod{body: call(0)}),
		"overflow of locals":       run(CodeTrap, mod{locals: op([]byte{1}, vecLen(maxLocals), []byte{0x7b}), body: call(0)}),
		"overflow of operands":     run(CodeTrap, mod{global: true, body: op(bytes.Repeat(global, 40_000), call(0), bytes.Repeat(drop, 40_000))}),
		"overflow in start":        run(CodeTrap, mod{body: call(0), start: true}),
		"overflow of a long name":  run(CodeTrap, mod{body: call(0), extra: section(secCustom, op(bytesOf([]byte("name")), []byte{1}, bytesOf(vec(op([]byte{0}, bytesOf(bytes.Repeat([]byte("€"), 2<<20)))))))}),
		"overflow by a table":      run(CodeTrap, mod{table: []byte{0x70, 0, 1}, elems: element0, body: op(i32(0), []byte{0x11, 0, 0})}),
		"poll of too many":         run(CodeTrap, mod{imports: []imp{{wasiModule, "poll_oneoff", 4, 1}}, body: op(i32(0), i32(0), i32(0x5555556), i32(8), call(0), unreachable)}),
		"exit 1":                   run(CodeExit, mod{imports: []imp{procExit}, body: op(i32(1), call(0))}),
		"exit as wazero's timeout": run(CodeExit, mod{imports: []imp{procExit}, body: op(i32(-0x10000001), call(0))}),
		"exit 3 after an answer":   run(CodeExit, mod{imports: []imp{fdWrite, procExit}, data: allows, body: op(write(1, 1024, int32(len(allows))), i32(3), call(1))}),
		"exit 0 without an answer": run(CodeBadOutput, mod{imports: []imp{procExit}, body: op(i32(0), call(0))}),
		"no answer":                run(CodeBadOutput, mod{}),
		"a block per byte":         run(CodeBadOutput, mod{body: bytes.Repeat([]byte{0x03, 0x40, 0x0b}, 40_000)}),
		"bulk per byte":            run(CodeBadOutput, mod{body: bytes.Repeat(op(i32(0), i32(0), i32(0), []byte{0xfc, 11, 0}), 10_000)}),
		"a branch per byte":        run(CodeBadOutput, mod{global: true, body: op([]byte{0x02, 0x40}, bytes.Repeat(op(global, []byte{0x0d, 0}), 30_000), []byte{0x0b})}),
		"branches of a table":      run(CodeBadOutput, mod{body: op([]byte{0x02, 0x40}, i32(0), []byte{0x0e}, vecLen(100_000), make([]byte, 100_001), []byte{0x0b})}),
		"nested loops":             run(CodeBadOutput, mod{global: true, funcs: []fn{nested(500)}}),
		"blocks behind loads":      run(CodeBadOutput, mod{funcs: []fn{{body: op(loads(4000), bytes.Repeat([]byte{0x02, 0x40, 0x0b}, 4000))}}}),
		"calls behind loads":       run(CodeBadOutput, mod{funcs: slices.Repeat([]fn{{body: op(loads(7500), bytes.Repeat(call(0), 30_000))}}, 2)}),
		"looks behind loads":       run(CodeBadOutput, mod{table: []byte{0x70, 0, 1}, funcs: []fn{{body: op(loads(2000), bytes.Repeat(op(i32(0), []byte{0x11, 0, 0}), 3000))}}}),
		"loads of one case":        run(CodeBadOutput, mod{body: op(i32(0), []byte{0x04, 0x40}, loads(4000), []byte{0x0b}, bytes.Repeat([]byte{0x02, 0x40, 0x0b}, 4000))}),
		"variables after branches": run(CodeBadOutput, mod{funcs: []fn{{locals: []byte{1, 1, 0x7f}, body: op([]byte{0x02, 0x40}, bytes.Repeat([]byte{0x20, 0, 0x0d, 0}, 12_000), bytes.Repeat([]byte{0x20, 0, 0x1a}, 20_000), []byte{0x0b})}}}),
		"blocks above operands":    run(CodeBadOutput, mod{funcs: []fn{{body: op(bytes.Repeat([]byte{0x3f, 0}, 4000), bytes.Repeat([]byte{0x03, 0x40, 0x0b}, 4000), bytes.Repeat(drop, 4000))}}}),
		"calls of many values":     run(CodeBadOutput, mod{types: [][]byte{values}, funcs: []fn{{typ: 1, body: unreachable}, {body: op(bytes.Repeat(i32(0), maxParams), bytes.Repeat(call(1), 10_000), bytes.Repeat(drop, maxParams))}}}),
		"functions of many values": run(CodeBadOutput, mod{types: [][]byte{values}, funcs: slices.Repeat([]fn{{typ: 1, body: unreachable}}, 10_000)}),

		"too many bytes":        {code: make([]byte, MaxModule+1), want: CodeTooLarge, before: true},
		"no module":             {code: []byte("#!/bin/sh\n"), want: CodeInvalid, before: true},
		"nothing":               {want: CodeInvalid, before: true},
		"component":             {code: []byte("\x00asm\x0d\x00\x01\x00"), want: CodeInvalid, before: true},
		"no command":            refused(CodeInvalid, mod{exports: []string{"main"}}),
		"no memory":             refused(CodeInvalid, mod{memory: []byte{}, imports: w, body: op(i32(1), i32(0), i32(1), i32(8), call(0), drop)}),
		"enormous memory":       refused(CodeMemory, mod{memory: append([]byte{0}, vecLen(65536)...)}),
		"enormous table":        refused(CodeMemory, mod{table: huge(1 << 31)}),
		"table above the limit": refused(CodeMemory, mod{table: huge(MaxTable + 1)}),
		"locals of 4 GiB":       refused(CodeTooLarge, mod{locals: op([]byte{1}, vecLen(1<<32-1), []byte{0x7f})}),
		"a huge function":       refused(CodeTooLarge, mod{body: bytes.Repeat(op(i32(0), drop), 100_000)}),
		"blocks of many values": refused(CodeTooLarge, mod{global: true, types: [][]byte{values}, funcs: slices.Repeat([]fn{{body: op(bytes.Repeat(global, maxParams), bytes.Repeat([]byte{0x02, 1, 0x0b}, 40_000), bytes.Repeat(drop, maxParams))}}, 4)}),
		"steps to keep":         refused(CodeTooLarge, mod{imports: []imp{{wasiModule, "sched_yield", 0, 1}}, funcs: slices.Repeat([]fn{{body: bytes.Repeat(op(call(0), drop), 40_000)}}, 20)}),
		"types of many values":  refused(CodeTooLarge, mod{types: slices.Repeat([][]byte{values}, 1_000)}),
		"a type of many values": refused(CodeTooLarge, mod{types: [][]byte{op([]byte{0x60}, bytesOf(bytes.Repeat([]byte{0x7f}, maxParams+1)), []byte{0})}}),
		"references for ever":   refused(CodeInvalid, mod{elems: element0, table: []byte{0x70, 0, 1}, body: loop([]byte{0xd2, 0}, drop)}),
		"reads its own stack":   refused(CodeInvalid, mod{body: op(global, drop)}),
		"writes its own stack":  refused(CodeInvalid, mod{body: op(i32(0), []byte{0x24, 0})}),
		"writes a frame":        refused(CodeInvalid, mod{body: op(i32(0), []byte{0x21, 0}, call(0))}),
		"atomics":               refused(CodeInvalid, mod{body: op(i32(0), i32(0), []byte{0xfe, 0, 2, 0}, drop)}),
		"unchecked code":        refused(CodeInvalid, mod{body: op(i32(1), i32(1), i32(1), []byte{0x1c, 1, 0x63}, unreachable, drop)}),
		"a call in a type":      refused(CodeInvalid, mod{types: slices.Repeat([][]byte{{0x60, 0, 0}}, 12), body: op([]byte{0x02, 0x40, 0x02, 0x63, 0x0c}, call(0), []byte{0x0c, 1, 0x0b, 0x1a, 0x0b})}),
		"a call in a number":    refused(CodeInvalid, mod{types: slices.Repeat([][]byte{{0x60, 0, 0}}, 0x3fe4), body: op([]byte{0x02, 0x40, 0x02, 0xe3, 0x7f, 0x0c}, call(0), []byte{0x0c, 1, 0x0b, 0x1a, 0x0b})}),
		"a call in an operand":  refused(CodeInvalid, mod{imports: []imp{randomGet}, body: op([]byte{0x02, 0x40, 0x0c, 0, 0xfd, 0x80, 0, 0x0b}, call(1))}),
		"endless br_table":      refused(CodeInvalid, mod{body: op([]byte{0x0e}, vecLen(1<<32-1))}),
		"unknown instruction":   refused(CodeInvalid, mod{body: []byte{0xfe, 0, 0}}),
		"section of 4 GiB":      refused(CodeInvalid, mod{extra: op([]byte{secData}, vecLen(1<<32-1))}),
		"data of 4 GiB":         refused(CodeInvalid, mod{extra: section(secData, op([]byte{1, 1}, vecLen(1<<32-1)))}),
		"elements of 4 GiB":     refused(CodeTooLarge, mod{extra: section(secElement, op([]byte{1, 1, 0}, vecLen(1<<32-1)))}),
		"elements in a type":    refused(CodeInvalid, mod{elems: []byte{1, 5, 0x63, 1, 0xd0, 0xff, 0xd2, 0xff, 0x0f, 0x0b}}),
		"elements in a null":    refused(CodeInvalid, mod{elems: op([]byte{1, 0, 0x41, 0, 0xd0, 0x80, 0x0b, 0x0b, 0xff, 0xff, 0xff, 0xff, 0x0f}, make([]byte, 10))}),
		"globals of 4 GiB":      refused(CodeTooLarge, mod{extra: section(secGlobal, vecLen(1<<32-1))}),
		"sections out of order": refused(CodeInvalid, mod{extra: section(secGlobal, []byte{0})}),
		"section twice":         refused(CodeInvalid, mod{extra: section(secMemory, []byte{0})}),
		"broken types":          refused(CodeInvalid, mod{body: drop}),
		"unknown function":      refused(CodeImports, mod{imports: []imp{{wasiModule, "fd_teleport", 1, 1}}}),
		"unknown module":        refused(CodeImports, mod{imports: []imp{{"env", "fd_write", 4, 1}}}),
		"path_open":             refused(CodeImports, mod{imports: []imp{{wasiModule, "path_open", 9, 1}}}),
		"sock_accept":           refused(CodeImports, mod{imports: []imp{{wasiModule, "sock_accept", 3, 1}}}),
		"sock_send":             refused(CodeImports, mod{imports: []imp{{wasiModule, "sock_send", 5, 1}}}),
		"wrong signature":       refused(CodeImports, mod{imports: []imp{{wasiModule, "fd_write", 1, 1}}}),

		"two objects":         out(CodeBadOutput, allows+allows),
		"an answer twice":     run(CodeBadOutput, mod{imports: w, data: allows, body: op(write(1, 1024, int32(len(allows))), write(1, 1024, int32(len(allows))))}),
		"two answers, cut":    run(CodeBadOutput, mod{imports: w, data: allows + allows, body: op(write(1, 1024, int32(len(allows)-5)), write(1, 1024+int32(len(allows)-5), int32(len(allows)+5)))}),
		"trailing bytes":      out(CodeBadOutput, allows+"\n\x00"),
		"half an object":      out(CodeBadOutput, allows[:20]),
		"a list":              out(CodeBadOutput, "["+allows+"]"),
		"wrong abi":           out(CodeBadOutput, `{"abi":"ticket-policy/2","decision":"allow"}`),
		"no abi":              out(CodeBadOutput, `{"decision":"allow"}`),
		"unknown decision":    out(CodeBadOutput, `{"abi":"ticket-policy/1","decision":"maybe"}`),
		"other case":          out(CodeBadOutput, `{"abi":"ticket-policy/1","Decision":"allow"}`),
		"unknown field":       out(CodeBadOutput, `{"abi":"ticket-policy/1","decision":"allow","also":1}`),
		"field twice":         out(CodeBadOutput, `{"abi":"ticket-policy/1","decision":"deny","decision":"allow"}`),
		"field twice, hidden": out(CodeBadOutput, `{"abi":"ticket-policy/1","decision":"deny","decisio\u006e":"allow"}`),
		"null":                out(CodeBadOutput, `{"abi":"ticket-policy/1","decision":"allow","limits":null}`),
		"invalid UTF-8":       out(CodeBadOutput, "{\"abi\":\"ticket-policy/1\",\"decision\":\"deny\",\"reason\":\"\xff\"}"),
		"long reason":         out(CodeBadOutput, `{"abi":"ticket-policy/1","decision":"deny","reason":"`+strings.Repeat("x", MaxReason+1)+`"}`),
		"allow with limits":   out(CodeBadOutput, `{"abi":"ticket-policy/1","decision":"allow","limits":{"max_upload_bytes":1}}`),
		"narrow, no limits":   out(CodeBadOutput, `{"abi":"ticket-policy/1","decision":"narrow"}`),
		"NaN":                 out(CodeBadOutput, decides(`"max_upload_bytes":NaN`)),
		"infinity":            out(CodeBadOutput, decides(`"max_upload_bytes":1e999`)),
		"negative":            out(CodeBadOutput, decides(`"max_upload_bytes":-1`)),
		"negative zero":       out(CodeBadOutput, decides(`"max_upload_bytes":-0`)),
		"fraction":            out(CodeBadOutput, decides(`"max_upload_bytes":1.5`)),
		"2^63":                out(CodeBadOutput, decides(`"max_upload_bytes":9223372036854775808`)),
		"2^64":                out(CodeBadOutput, decides(`"max_upload_bytes":18446744073709551616`)),
		"number as text":      out(CodeBadOutput, decides(`"max_upload_bytes":"1"`)),
		"zero is not all":     out(CodeBadOutput, decides(`"max_upload_bytes":0,"no_fixed_output":true`)),
		"no systems":          out(CodeBadOutput, decides(`"systems":[]`)),

		"more build time":    out(CodeWidens, decides(`"max_build_seconds":1801`)),
		"more upload":        out(CodeWidens, decides(`"max_upload_bytes":1073741825`)),
		"more output":        out(CodeWidens, decides(`"max_output_bytes":9007199254740991`)),
		"another system":     out(CodeWidens, decides(`"systems":["x86_64-linux","riscv64-linux"]`)),
		"fixed output after": out(CodeWidens, decides(`"no_fixed_output":false`)),
	}
}

func vecLen(n uint64) []byte {
	var out []byte
	for ; n >= 0x80; n >>= 7 {
		out = append(out, byte(n)|0x80)
	}
	return append(out, byte(n))
}

// maxDetail is more than thirty frames of a stack trace take, with functions of
// maxParams parameters and results.
const maxDetail = 64 << 10

func TestHostileModules(t *testing.T) {
	for _, interpret := range []bool{false, true} {
		ordinary := patient(t, interpret)
		// What spins needs only to be stopped, the sooner the better.
		short := NewHost(Config{Wall: 20 * time.Millisecond, Interpret: interpret})
		for name, c := range hostile() {
			t.Run(fmt.Sprintf("%s/interpreted=%t", name, interpret), func(t *testing.T) {
				h := ordinary
				if c.spins {
					h = short
				}
				res, err := ask(t, h, c.code)
				e := wantCode(t, err, c.want)
				if res.Limits.MaxBuildTime != 0 || res.Limits.MaxUploadBytes != 0 {
					t.Errorf("limits %+v beside a refusal", res.Limits)
				}
				if res.Cost.Memory > MaxMemory || len(res.Stderr) > MaxStderr {
					t.Errorf("used %+v", res.Cost)
				}
				if c.before && res.Cost.Stdin != 0 {
					t.Error("it ran")
				}
				if len(e.Detail) > maxDetail {
					t.Errorf("details of %d bytes", len(e.Detail))
				}
				if e.Detail == "" || strings.Contains(e.Error(), e.Detail) {
					t.Errorf("the holder sees %q, the owner %q", e.Error(), e.Detail)
				}
			})
		}
	}
}

// TestStackBound: calls end at this package's bound, not at the engine's, which is
// 100 MB of stack, or 2,000 calls of whatever size.
func TestStackBound(t *testing.T) {
	all := hostile()
	for _, interpret := range []bool{false, true} {
		for _, name := range []string{"stack overflow", "overflow of locals", "overflow of operands", "overflow by a table"} {
			if interpret && !strings.Contains(name, " of ") {
				continue // small frames: 2,000 calls come first
			}
			_, err := ask(t, patient(t, interpret), all[name].code)
			if e := wantCode(t, err, CodeTrap); !strings.Contains(e.Detail, "unreachable") {
				t.Errorf("%s, interpreted=%t: %s", name, interpret, e.Detail)
			}
		}
	}
}

// TestHardToCompile: what the compiler would take long for is interpreted.
func TestHardToCompile(t *testing.T) {
	all := hostile()
	for name, want := range map[string]bool{
		"a block per byte": true, "bulk per byte": true, "a branch per byte": true, "branches of a table": true,
		"nested loops": true, "blocks above operands": true, "variables after branches": true, "blocks behind loads": true,
		"calls behind loads": true, "looks behind loads": true, "loads of one case": false, "calls of many values": true, "functions of many values": true, "infinite loop": false,
	} {
		m, err := patient(t, false).Load(t.Context(), all[name].code)
		if err != nil {
			t.Fatal(err)
		}
		if m.Info().Interpreted != want {
			t.Errorf("%s: interpreted is %t", name, !want)
		}
		m.Close()
	}
}

// TestManySpinning: what spins does not keep an ordinary policy from its turn.
func TestManySpinning(t *testing.T) {
	h := NewHost(Config{Wall: 20 * time.Millisecond, Concurrency: 1})
	slow, err := h.Load(t.Context(), mod{body: forever}.wasm())
	if err != nil {
		t.Fatal(err)
	}
	defer slow.Close()
	slow.cost.Store(int64(time.Second))
	quick, err := h.Load(t.Context(), says(allows))
	if err != nil {
		t.Fatal(err)
	}
	defer quick.Close()
	quick.cost.Store(int64(time.Microsecond))

	h.gate.free-- // the test holds the only turn until all have queued
	var wg sync.WaitGroup
	var mu sync.Mutex
	var order []Code
	asked := func(m *Module) {
		defer wg.Done()
		_, err := m.Decide(t.Context(), testRequest(), testLimits)
		var e *Error
		mu.Lock()
		defer mu.Unlock()
		if errors.As(err, &e) {
			order = append(order, e.Code)
		} else {
			order = append(order, "")
		}
	}
	waiting := func() int {
		h.gate.mu.Lock()
		defer h.gate.mu.Unlock()
		return len(h.gate.waiting)
	}
	for i := range 51 {
		m := slow
		if i == 50 {
			m = quick
		}
		wg.Add(1)
		go asked(m)
		for waiting() <= i {
			runtime.Gosched()
		}
	}
	h.gate.leave()
	wg.Wait()
	// A loaded machine may stop the quick one too, but never make it wait.
	if order[0] == CodeTimeout && quick.cost.Load() == int64(time.Microsecond) {
		t.Errorf("the ordinary decision was not the first: %q", order)
	}
	for _, code := range order[1:] {
		if code != CodeTimeout {
			t.Errorf("a spinning policy ended with %q", code)
		}
	}
}

func TestGate(t *testing.T) {
	g := &gate{free: 1}
	if err := g.enter(t.Context(), 0); err != nil {
		t.Fatal(err)
	}
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	wantCode(t, g.enter(gone, 0), CodeCanceled)
	for range maxWaiting {
		if _, err := g.queue(time.Second); err != nil {
			t.Fatal(err)
		}
	}
	_, err := g.queue(0) // to enter would wait
	wantCode(t, err, CodeBusy)
	for range maxWaiting {
		g.leave()
	}
	if g.free != 0 || len(g.waiting) != 0 {
		t.Fatalf("%d free and %d waiting while the last has its turn", g.free, len(g.waiting))
	}
	g.leave()
	if g.free != 1 {
		t.Fatalf("%d free at the end", g.free)
	}
}

// TestGateKeepsNoTurn: a turn that comes just as its waiter goes is not lost.
func TestGateKeepsNoTurn(t *testing.T) {
	for range 200 {
		g := &gate{} // the test has the only turn
		ctx, cancel := context.WithCancel(t.Context())
		left := make(chan error)
		go func() { left <- g.enter(ctx, 0) }()
		waits := func() bool {
			g.mu.Lock()
			defer g.mu.Unlock()
			return len(g.waiting) == 1
		}
		for !waits() {
			runtime.Gosched()
		}
		cancel()
		g.leave()
		if err := <-left; err == nil {
			g.leave()
		}
		if g.free != 1 {
			t.Fatalf("%d free at the end", g.free)
		}
	}
}

// anyMemory is as large as you like.
type anyMemory struct {
	api.Memory
	most uint32 // that was read at once
}

func (m *anyMemory) Read(_, n uint32) ([]byte, bool) {
	m.most = max(m.most, n)
	return make([]byte, n), true
}

func (m *anyMemory) WriteUint32Le(_, _ uint32) bool { return true }

// TestCallsAreBounded: a call cannot be stopped, so each takes no more than so much.
func TestCallsAreBounded(t *testing.T) {
	for name, c := range map[string]struct {
		call        func(*run, api.Memory, []uint32) uint32
		args        []uint32
		errno, most uint32
	}{
		"output":      {fdWriteBounded, []uint32{1, 0, 1 << 20, 0}, errnoSuccess, 8 * maxPieces},
		"random":      {randomGetBounded, []uint32{0, maxRandom}, errnoSuccess, maxRandom},
		"more random": {randomGetBounded, []uint32{0, maxRandom + 1}, errnoInval, 0},
		"poll":        {pollOneoff, []uint32{0, 0, maxEvents, 0}, errnoSuccess, maxEvents * subscriptionSize},
		"poll more":   {pollOneoff, []uint32{0, 0, maxEvents + 1, 0}, errnoInval, 0},
	} {
		mem := new(anyMemory)
		if errno := c.call(&run{random: zeros{}}, mem, c.args); errno != c.errno || mem.most != c.most {
			t.Errorf("%s: error %d, %d bytes read at once; want %d, %d", name, errno, mem.most, c.errno, c.most)
		}
	}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

// TestSpareMemoryIsEmpty: no instance finds what another has left.
func TestSpareMemoryIsEmpty(t *testing.T) {
	for _, sizes := range [][]uint64{{pageSize}, {pageSize, spareMemory}, {pageSize, spareMemory + pageSize}} {
		m := &memory{spare: new(sync.Pool)}
		var taken []byte
		for i, size := range sizes {
			b := m.Reallocate(size)
			for k := range b {
				b[k] = 1
			}
			if i == 0 {
				taken = *m.taken
			}
		}
		m.Free()
		if len(taken) != spareMemory || slices.Max(taken) != 0 {
			t.Errorf("grown to %d: something is left", sizes)
		}
	}
}
