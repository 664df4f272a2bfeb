package policy

import (
	"bytes"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/tetratelabs/wazero"
	"github.com/tetratelabs/wazero/api"
)

// around is a module with as much of everything as the index 0x0b needs, whose first
// functions have these bodies, 12 local variables, and their number as a name. done is
// a global variable.
func around(bodies ...[]byte) []byte {
	many := func(n int, item ...byte) []byte { return vec(slices.Repeat([][]byte{item}, n)...) }
	var code [][]byte
	exports := [][]byte{{4, 'd', 'o', 'n', 'e', 3, done}}
	for i, body := range bodies {
		code = append(code, fn{locals: []byte{1, 12, 0x7f}, body: body}.code())
		exports = append(exports, op(bytesOf([]byte(strconv.Itoa(i))), []byte{0}, vecLen(uint64(i))))
	}
	code = append(code, slices.Repeat([][]byte{fn{}.code()}, 12)...)
	return op([]byte("\x00asm\x01\x00\x00\x00"),
		section(secType, many(12, 0x60, 0, 0)), section(secFunction, many(len(code), 0)), section(secTable, many(12, 0x70, 0, 1)),
		section(secMemory, []byte{1, 0, 1}), section(secGlobal, many(done+1, 0x7f, 1, 0x41, 0, 0x0b)), section(secExport, vec(exports...)),
		section(secElement, many(12, 1, 0, 1, 0)), section(secDataCount, []byte{12}), section(secCode, vec(code...)), section(secData, many(12, 1, 0)))
}

const done = 12

// engines are those that wazero has here. The first is the interpreter.
func engines(t *testing.T) []wazero.Runtime {
	t.Helper()
	var all []wazero.Runtime
	for _, cfg := range []wazero.RuntimeConfig{wazero.NewRuntimeConfigInterpreter(), wazero.NewRuntimeConfig()} {
		r := wazero.NewRuntimeWithConfig(t.Context(), cfg.WithCoreFeatures(api.CoreFeaturesV2).WithCloseOnContextDone(true).WithDebugInfoEnabled(false))
		t.Cleanup(func() { _ = r.Close(t.Context()) })
		all = append(all, r)
	}
	return all
}

// firstInstruction returns the first instruction of code as s reads it, if it does.
func firstInstruction(s scanner, code []byte) (instruction []byte) {
	s.data = code
	defer func() {
		if _, ok := recover().(*Error); ok {
			instruction = nil
		}
	}()
	s.instruction()
	return code[:len(code)-len(s.data)]
}

// instructions are those that the scan takes: every one- and two-byte opcode with
// operands of bytes that mean something elsewhere, such as in types and numbers.
func instructions() [][]byte {
	odd := []byte{0x00, 0x01, 0x05, 0x0b, 0x10, 0x40, 0x63, 0x64, 0x69, 0x6f, 0x70, 0x7b, 0x7f, 0x80, 0x85, 0x8b, 0xe3, 0xe4, 0xff}
	var opcodes, out [][]byte
	for first := range 0x100 {
		if first < 0xfc {
			opcodes = append(opcodes, []byte{byte(first)})
			continue
		}
		for second := range 0x100 {
			opcodes = append(opcodes, []byte{byte(first), byte(second)})
		}
	}
	// As much of everything as an index asks for.
	s := scanner{types: make([]funcType, maxTypes), funcs: make([]uint32, maxFunctions), variables: 1 << 32, globals: 1 << 30}
	seen := map[string]bool{}
	for _, opcode := range opcodes {
		for _, a := range odd {
			for _, b := range odd {
				for _, c := range []byte{0x00, 0x01, 0x0b, 0x7f} {
					got := firstInstruction(s, op(opcode, []byte{a, b}, bytes.Repeat([]byte{c}, 20)))
					if got != nil && !seen[string(got)] {
						seen[string(got)] = true
						out = append(out, got)
					}
				}
			}
		}
	}
	return out
}

// TestInstructionsAlike: where the scan says that an instruction ends, it ends for
// wazero's check, its interpreter and its compiler. What is added to a function
// goes between instructions, and what is not one to wazero is not looked after.
func TestInstructionsAlike(t *testing.T) {
	all := engines(t)
	var checked int
	var bodies [][]byte
	known := map[string][]byte{} // by opcode, what it takes
	for _, instruction := range instructions() {
		opcode := instruction[0]
		if opcode == 0x05 || opcode == 0x0b { // else, end: where the others are looked for
			continue
		}
		// An else that belongs to no if is refused with its place, whatever the
		// operands are, which after unreachable may be any. An instruction that is
		// longer to wazero takes the first for a part of it; one that is shorter leaves
		// its own 0x05 or 0x0b.
		_, err := all[0].CompileModule(t.Context(), around(op(unreachable, instruction, bytes.Repeat([]byte{0x05}, 20))))
		if err == nil {
			t.Fatalf("% x: else without if is valid", instruction)
		}
		at := 1 + len(instruction)
		if opcode == 0x04 {
			at++ // the first belongs to this one
		}
		_, where, ok := strings.Cut(err.Error(), "else instruction must be used in if block: ")
		if !ok {
			continue // refused as it is
		}
		checked++
		if where != fmt.Sprintf("%#x", at) {
			t.Errorf("% x ends at %#x, for wazero at %s", instruction, at, where)
		}
		operands := instruction[1:]
		if opcode >= 0xfc {
			operands = operands[1:]
		}
		if bytes.IndexByte(operands, 0x0b) < 0 || len(bytes.Trim(operands, "\x00\x0b\x8b")) > 0 {
			continue
		}
		dead := op([]byte{0x02, 0x40, 0x0c, 0x00}, followed(instruction))
		if valid(t, all[0], dead) {
			bodies = append(bodies, dead)
		}
		name := string(instruction[:len(instruction)-len(operands)])
		for _, taken := range append([][]byte{known[name]}, operandTypes()...) {
			if live := op([]byte{0x23, 0x00, 0x04, 0x40}, values(taken), followed(instruction)); valid(t, all[0], live) { // global.get, which is 0, if
				known[name] = taken
				bodies = append(bodies, live)
				break
			}
		}
	}
	t.Logf("%d checked, %d run", checked, len(bodies))
	if checked < 5000 || len(bodies) < 500 {
		t.Errorf("only %d checked and %d run", checked, len(bodies))
	}
	s, err := scan(around(bodies...))
	if err != nil {
		t.Fatal(err)
	}
	for i, r := range all {
		m, err := r.InstantiateWithConfig(t.Context(), s.code, wazero.NewModuleConfig().WithName(""))
		if err != nil {
			t.Fatalf("engine %d: %v", i, err)
		}
		for n, body := range bodies {
			if _, err := m.ExportedFunction(strconv.Itoa(n)).Call(t.Context()); err != nil {
				t.Fatalf("engine %d: % x: %v", i, body, err)
			}
			if got := m.ExportedGlobal("done").Get(); got != uint64(n+1) {
				t.Fatalf("engine %d: % x: what follows it was not run", i, body)
			}
		}
	}
}

// TestOperands: what instructions take from the stack and put there is what they do
// for wazero.
func TestOperands(t *testing.T) {
	r := engines(t)[0]
	s := scanner{types: make([]funcType, 12), funcs: make([]uint32, 12), variables: 12, globals: done}
	seen := map[string]bool{}
	var checked int
	for _, instruction := range instructions() {
		switch opcode := instruction[0]; {
		case opcode < 0x10 && opcode != 0x01:
			continue // blocks and branches
		case opcode == 0xfc && instruction[1] >= 0x80:
			continue // a longer number, which the interpreter refuses where it runs
		case opcode >= 0xfc && seen[string(instruction[:2])], opcode < 0xfc && seen[string(instruction[:1])]:
			continue
		}
		if !valid(t, r, op(unreachable, instruction, unreachable)) {
			continue
		}
		seen[string(instruction[:1])], seen[string(instruction[:min(2, len(instruction))])] = true, true
		checked++
		if !slices.ContainsFunc(operandTypes(), func(types []byte) bool {
			code := op(values(types), instruction)
			s := s
			for s.data = code; len(s.data) > 0; {
				s.instruction()
			}
			return valid(t, r, op(code, bytes.Repeat(drop, s.height)))
		}) {
			t.Errorf("% x takes or gives another number of values", instruction)
		}
	}
	if checked < 400 {
		t.Errorf("only %d checked", checked)
	}
}

// followed is an instruction in a block where it is not reached, and after that what
// adds 1 to done. To what takes more bytes, or fewer, blocks end where they do not.
func followed(instruction []byte) []byte {
	out := op(instruction, []byte{0x44}, bytes.Repeat([]byte{0x0b}, 8), unreachable) // f64.const
	if opcode := instruction[0]; opcode >= 0x02 && opcode <= 0x04 {
		out = op(out, []byte{0x0b}, unreachable)
	}
	return op(out, []byte{0x0b, 0x23, done}, i32(1), []byte{0x6a, 0x24, done})
}

// values are values of these types, which are there when that is checked.
func values(types []byte) (out []byte) {
	for _, typ := range types {
		out = append(out, 0x02, typ, 0x00, 0x0b) // block, unreachable, end
	}
	return out
}

func valid(t *testing.T, r wazero.Runtime, body []byte) bool {
	t.Helper()
	m, err := r.CompileModule(t.Context(), around(body))
	if err == nil {
		_ = m.Close(t.Context())
	}
	return err == nil
}

// operandTypes are what instructions with operands in the code take from the stack.
func operandTypes() [][]byte {
	types := []byte{0x7f, 0x7e, 0x7d, 0x7c, 0x7b, 0x70, 0x6f}
	out := [][]byte{{}, {0x7f, 0x7f, 0x7f}, {0x7f, 0x70, 0x7f}, {0x7b, 0x7b, 0x7b}}
	for _, a := range types {
		out = append(out, []byte{a}, []byte{a, a, 0x7f})
		for _, b := range types {
			out = append(out, []byte{a, b})
		}
	}
	return out
}
