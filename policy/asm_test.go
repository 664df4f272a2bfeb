package policy

import (
	"encoding/binary"
	"slices"
)

// mod is a WebAssembly module to be assembled. Every function is of type
// () -> () unless it is an import.
type mod struct {
	imports []imp
	memory  []byte // limits, such as {0, 1} for one page; empty for no memory
	table   []byte // type and limits
	global  bool   // a mutable i32 of 0
	start   bool   // the body runs as the start function too
	body    []byte // of _start, without the final end
	locals  []byte // vector of groups
	data    string // at address 1024
	exports []string
	types   [][]byte // after those of _start and the imports
	funcs   []fn     // after _start
	elems   []byte   // vector of element segments
	extra   []byte   // whole sections after the others
}

// fn is a function of type () -> () unless typ is the index of another. Locals
// are a vector of groups; the final end of the body is added.
type fn struct {
	typ          uint32
	locals, body []byte
}

func (f fn) code() []byte {
	if f.locals == nil {
		f.locals = []byte{0}
	}
	return bytesOf(op(f.locals, f.body, []byte{0x0b}))
}

type imp struct {
	module, name string
	params       int // all i32; those of clock_time_get are -1
	results      int // i32
}

// Imports used by test modules; their indices are their places in imports.
var (
	fdWrite      = imp{wasiModule, "fd_write", 4, 1}
	fdRead       = imp{wasiModule, "fd_read", 4, 1}
	clockTimeGet = imp{wasiModule, "clock_time_get", -1, 1}
	randomGet    = imp{wasiModule, "random_get", 2, 1}
	procExit     = imp{wasiModule, "proc_exit", 1, 0}
)

// Instructions.
var (
	unreachable = []byte{0x00}
	drop        = []byte{0x1a}
	forever     = []byte{0x03, 0x40, 0x0c, 0x00, 0x0b} // loop br 0 end
)

func op(parts ...[]byte) []byte { return slices.Concat(parts...) }

func i32(n int32) []byte {
	out := []byte{0x41}
	for {
		b := byte(n & 0x7f)
		n >>= 7
		if (n == 0 && b&0x40 == 0) || (n == -1 && b&0x40 != 0) {
			return append(out, b)
		}
		out = append(out, b|0x80)
	}
}

func call(i byte) []byte { return []byte{0x10, i} }

// loop repeats body for ever.
func loop(body ...[]byte) []byte {
	return op([]byte{0x03, 0x40}, op(body...), []byte{0x0c, 0x00, 0x0b})
}

// store writes n at address.
func store(address, n int32) []byte { return op(i32(address), i32(n), []byte{0x36, 2, 0}) }

// write writes n bytes at address to fd by fd_write, which is import 0.
func write(fd, address, n int32) []byte {
	return op(store(0, address), store(4, n), i32(fd), i32(0), i32(1), i32(8), call(0), drop)
}

// grow asks for pages more and drops the answer.
func grow(pages int32) []byte { return op(i32(pages), []byte{0x40, 0}, drop) }

func vec(items ...[]byte) []byte {
	return op(binary.AppendUvarint(nil, uint64(len(items))), op(items...))
}

func bytesOf(b []byte) []byte { return op(binary.AppendUvarint(nil, uint64(len(b))), b) }

func section(id byte, body []byte) []byte { return op([]byte{id}, bytesOf(body)) }

func (m mod) wasm() []byte {
	i32s := func(n int) []byte { return bytesOf(slices.Repeat([]byte{0x7f}, n)) }
	types, imports := [][]byte{{0x60, 0, 0}}, [][]byte{}
	for i, f := range m.imports {
		params := i32s(max(f.params, 0))
		if f.params < 0 {
			params = []byte{3, 0x7f, 0x7e, 0x7f}
		}
		types = append(types, op([]byte{0x60}, params, i32s(f.results)))
		imports = append(imports, op(bytesOf([]byte(f.module)), bytesOf([]byte(f.name)), []byte{0, byte(i + 1)}))
	}
	self := byte(len(m.imports))
	functions, code := [][]byte{{0}}, [][]byte{fn{locals: m.locals, body: m.body}.code()}
	for _, f := range m.funcs {
		functions = append(functions, binary.AppendUvarint(nil, uint64(f.typ)))
		code = append(code, f.code())
	}
	out := op([]byte("\x00asm\x01\x00\x00\x00"), section(secType, vec(append(types, m.types...)...)), section(secImport, vec(imports...)),
		section(secFunction, vec(functions...)))
	if m.table != nil {
		out = op(out, section(secTable, vec(m.table)))
	}
	if m.memory == nil {
		m.memory = []byte{0, 1}
	}
	if len(m.memory) > 0 {
		out = op(out, section(secMemory, vec(m.memory)))
	}
	if m.global {
		out = op(out, section(secGlobal, []byte{1, 0x7f, 1, 0x41, 0, 0x0b}))
	}
	var exports [][]byte
	if len(m.memory) > 0 {
		exports = [][]byte{op(bytesOf([]byte("memory")), []byte{2, 0})}
	}
	if m.exports == nil {
		m.exports = []string{"_start"}
	}
	for _, name := range m.exports {
		exports = append(exports, op(bytesOf([]byte(name)), []byte{0, self}))
	}
	out = op(out, section(secExport, vec(exports...)))
	if m.start {
		out = op(out, section(secStart, []byte{self}))
	}
	if m.elems != nil {
		out = op(out, section(secElement, m.elems))
	}
	out = op(out, section(secCode, vec(code...)))
	if m.data != "" {
		out = op(out, section(secData, vec(op([]byte{0}, i32(1024), []byte{0x0b}, bytesOf([]byte(m.data))))))
	}
	return op(out, m.extra)
}

// says is a policy that writes text and ends.
func says(text string) []byte {
	return mod{imports: []imp{fdWrite}, data: text, body: write(1, 1024, int32(len(text)))}.wasm()
}

const allows = `{"abi":"ticket-policy/1","decision":"allow"}`
