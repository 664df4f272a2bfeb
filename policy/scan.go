package policy

import (
	"bytes"
	"encoding/binary"
	"slices"
)

// What a module may declare, so that a small file cannot make the compiler or
// an instance allocate much. Programs of MaxModule bytes in the languages that
// have WASI targets stay far below.
const (
	maxTypes         = 65_536
	maxParams        = 128    // of a type, and as many results
	maxAllParams     = 65_536 // of all types, with results
	maxImports       = 256
	maxFunctions     = 65_536
	maxFunctionBytes = 128 << 10
	maxLocals        = 8_192     // of a function
	maxAllLocals     = 1_000_000 // of a module
	maxTables        = 16
	maxGlobals       = 16_384
	maxExports       = 16_384
	maxSegments      = 65_536
	maxElements      = 262_144
	pageSize         = 64 << 10
)

// wasiModule is the only module that a policy may import from.
const wasiModule = "wasi_snapshot_preview1"

// wasiAllowed are the functions that have no use for a file, a socket or the
// environment, and those with which C libraries and Go look whether there are
// any: they find none.
var wasiAllowed = map[string]bool{
	"args_get": true, "args_sizes_get": true,
	"environ_get": true, "environ_sizes_get": true,
	"clock_res_get": true, "clock_time_get": true,
	"fd_close": true, "fd_read": true, "fd_write": true, "fd_seek": true, "fd_tell": true,
	"fd_fdstat_get": true, "fd_fdstat_set_flags": true, "fd_filestat_get": true,
	"fd_prestat_get": true, "fd_prestat_dir_name": true,
	"poll_oneoff": true, "proc_exit": true, "random_get": true, "sched_yield": true,
}

// Section IDs of the WebAssembly core specification 2.0, §5.5.2.
const (
	secCustom = iota
	secType
	secImport
	secFunction
	secTable
	secMemory
	secGlobal
	secExport
	secStart
	secElement
	secCode
	secData
	secDataCount
)

// scanned is what [scan] found and made of a module.
type scanned struct {
	code      []byte   // the module with bounded tables and stack, stoppable functions and no custom sections
	imports   []string // "module.name"
	exports   []string
	functions int
	memory    uint64 // bytes at the start
	table     uint64 // elements at the start
	hard      uint64 // work of compiling it, see effort
	steps     uint64 // of the interpreter
}

// scanner reads a module. Methods panic with a *Error, which scan returns.
type scanner struct {
	scanned
	data      []byte // what is left of the section
	types     []funcType
	funcs     []uint32 // types, imported functions first
	params    int
	memories  int
	globals   int    // without the one that is added
	counted   bool   // that one is there
	variables uint64 // parameters and locals of this function
	locals    uint64
	elems     uint64
	carried   uint64 // values, see maxCarried
	effort           // of compiling this function
	flow             // of this function
}

// scan checks what wazero leaves open: imports, counts, and sizes that are
// allocated before the code runs. wazero validates the rest.
func scan(module []byte) (out *scanned, err error) {
	if len(module) > MaxModule {
		return nil, errorf(CodeTooLarge, "a module of %d bytes, more than %d", len(module), MaxModule)
	}
	header := []byte("\x00asm\x01\x00\x00\x00")
	if !bytes.HasPrefix(module, header) {
		return nil, errorf(CodeInvalid, "not a WebAssembly module of version 1")
	}
	defer func() {
		switch r := recover().(type) {
		case nil:
		case *Error:
			out, err = nil, r
		default:
			panic(r)
		}
	}()
	s := &scanner{}
	s.code = append(make([]byte, 0, len(module)), header...)
	rest, seen := module[len(header):], map[byte]bool{}
	var names []byte
	for len(rest) > 0 {
		s.data = rest
		id, size := s.byte(), s.u32()
		body := s.take(uint64(size))
		rest = s.data
		if id == secCustom {
			names = functionNames(body, names)
			continue
		}
		if id > secDataCount || seen[id] {
			return nil, errorf(CodeInvalid, "section %d is unknown or there twice", id)
		}
		if id > secGlobal && !s.counted {
			s.emit(secGlobal, s.withStack([]byte{0}))
		}
		seen[id] = true
		s.section(id, body)
	}
	if s.memories == 0 {
		return nil, errorf(CodeInvalid, "no WASI command: it has no memory, from which WASI takes its answer")
	}
	if len(names) > 0 {
		s.emit(secCustom, names)
	}
	return &s.scanned, nil
}

func (s *scanner) section(id byte, body []byte) {
	s.data = body
	switch id {
	case secTable:
		body = s.tableSection()
	case secType:
		s.each("types", maxTypes, s.funcType)
	case secImport:
		s.each("imports", maxImports, s.importEntry)
	case secFunction:
		s.functions = s.each("functions", maxFunctions, func() { s.funcs = append(s.funcs, s.u32()) })
	case secMemory:
		s.memories = s.each("memories", 1, s.memoryType)
	case secGlobal:
		s.globals = s.each("globals", maxGlobals, func() { s.valueType(); s.byte(); s.expr() })
		body = s.withStack(body)
	case secExport:
		s.each("exports", maxExports, func() {
			s.exports = append(s.exports, s.name())
			s.byte()
			s.u32()
		})
	case secStart, secDataCount:
		s.u32()
	case secElement:
		s.each("element segments", maxSegments, s.element)
	case secCode:
		body = s.codeSection()
	case secData:
		s.each("data segments", maxSegments, s.dataSegment)
	}
	if len(s.data) > 0 {
		s.fail(CodeInvalid, "section %d has %d bytes too many", id, len(s.data))
	}
	s.emit(id, body)
}

// emit appends a section to the module that wazero gets.
func (s *scanner) emit(id byte, body []byte) {
	s.code = append(s.code, id)
	s.code = binary.AppendUvarint(s.code, uint64(len(body)))
	s.code = append(s.code, body...)
}

func (s *scanner) funcType() {
	if form := s.byte(); form != 0x60 {
		s.fail(CodeInvalid, "type of unknown form %#x", form)
	}
	var t funcType
	t.params = s.each("parameters", maxParams, s.valueType)
	t.results = s.each("results", maxParams, s.valueType)
	s.types = append(s.types, t)
	if s.params += t.params + t.results; s.params > maxAllParams {
		s.fail(CodeTooLarge, "more than %d parameters and results of types", maxAllParams)
	}
}

func (s *scanner) valueType() {
	switch t := s.byte(); t {
	case 0x7f, 0x7e, 0x7d, 0x7c, 0x7b, 0x70, 0x6f:
	default:
		s.fail(CodeInvalid, "unknown value type %#x", t)
	}
}

func (s *scanner) importEntry() {
	module, name := s.name(), s.name()
	kind := s.byte()
	full := module + "." + name
	switch {
	case kind != 0:
		s.fail(CodeImports, "imports %.80q, which is no function", full)
	case module != wasiModule || !wasiAllowed[name]:
		s.fail(CodeImports, "imports the function %.80q, which no policy is given", full)
	}
	s.funcs = append(s.funcs, s.u32())
	s.imports = append(s.imports, full)
}

// tableSection returns the section with a maximum on each table: [MaxTable] in
// all, without which table.grow could take gigabytes.
func (s *scanner) tableSection() []byte {
	type table struct {
		kind byte
		minimum,
		maximum uint64
	}
	var tables []table
	s.each("tables", maxTables, func() {
		t := table{kind: s.byte(), maximum: MaxTable}
		if t.kind != 0x70 && t.kind != 0x6f {
			s.fail(CodeInvalid, "table of unknown kind %#x", t.kind)
		}
		flags := s.byte()
		t.minimum = uint64(s.u32())
		switch flags {
		case 0:
		case 1:
			t.maximum = min(t.maximum, uint64(s.u32()))
		default:
			s.fail(CodeInvalid, "table limits of unknown kind %#x", flags)
		}
		tables = append(tables, t)
	})
	for _, t := range tables {
		s.table += t.minimum
	}
	if s.table > MaxTable {
		s.fail(CodeMemory, "tables of %d elements, more than %d", s.table, MaxTable)
	}
	out := binary.AppendUvarint(nil, uint64(len(tables)))
	spare := MaxTable - s.table
	for _, t := range tables {
		// A maximum below the minimum stays one, for wazero to refuse.
		grown := t.maximum
		if grown > t.minimum {
			grown = min(grown, t.minimum+spare/uint64(len(tables)))
		}
		out = append(out, t.kind, 1)
		out = binary.AppendUvarint(out, t.minimum)
		out = binary.AppendUvarint(out, grown)
	}
	return out
}

func (s *scanner) memoryType() {
	flags := s.byte()
	s.memory = uint64(s.u32()) * pageSize
	switch flags {
	case 0:
	case 1:
		s.u32()
	default:
		s.fail(CodeInvalid, "memory of unknown kind %#x", flags)
	}
	if s.memory > MaxMemory {
		s.fail(CodeMemory, "a memory of %d bytes, more than %d", s.memory, MaxMemory)
	}
}

// element reads a segment: core specification 2.0, §5.5.12.
func (s *scanner) element() {
	flags := s.u32()
	if flags > 7 {
		s.fail(CodeInvalid, "element segment of unknown kind %d", flags)
	}
	passive, explicit, exprs := flags&1 != 0, flags&2 != 0, flags&4 != 0
	if !passive {
		if explicit {
			s.u32()
		}
		s.expr()
	}
	switch {
	case !passive && !explicit:
	case exprs:
		s.valueType() // wazero would take more bytes of others
	default:
		s.byte() // element kind
	}
	n := s.each("elements", maxElements, func() {
		if exprs {
			s.expr()
		} else {
			s.u32()
		}
	})
	if s.elems += uint64(n); s.elems > maxElements {
		s.fail(CodeTooLarge, "more than %d elements", maxElements)
	}
}

// codeSection returns the section with functions that can be stopped.
func (s *scanner) codeSection() []byte {
	var out []byte
	next := len(s.imports)
	n := s.each("functions", maxFunctions, func() {
		if next >= len(s.funcs) {
			s.fail(CodeInvalid, "more code than functions")
		}
		body := s.function(s.funcs[next])
		next++
		out = binary.AppendUvarint(out, uint64(len(body)))
		out = append(out, body...)
	})
	return append(binary.AppendUvarint(nil, uint64(n)), out...)
}

// function returns the body of a function of a type, locals included, that can
// be stopped and whose stack is counted.
func (s *scanner) function(typ uint32) []byte {
	size := s.u32()
	if size > maxFunctionBytes {
		s.fail(CodeTooLarge, "a function of %d bytes, more than %d", size, maxFunctionBytes)
	}
	body := s.take(uint64(size))
	rest := s.data
	s.data = body
	var locals uint64
	groups := s.each("groups of locals", maxLocals, func() {
		locals += uint64(s.u32())
		s.valueType()
	})
	if s.locals += locals; locals > maxLocals || s.locals > maxAllLocals {
		s.fail(CodeTooLarge, "more than %d locals in a function or %d in all", maxLocals, maxAllLocals)
	}
	code := s.data
	s.data = rest
	_, n := binary.Uvarint(body)
	declared := body[n : len(body)-len(code)]

	t := s.typeOf(typ)
	s.effort = effort{values: locals + t.arity(), passed: t.arity()}
	s.flow = flow{frames: s.frames[:0], chain: enterBlocks, results: t.results}
	s.variables = uint64(t.params) + locals
	guarded, calls := s.guard(code)
	var enter []byte
	if calls {
		groups++
		declared = append(declared[:len(declared):len(declared)], 1, 0x7f) // one more, an i32
		enter = s.enter(len(code))
	}
	s.hard += s.work()
	return slices.Concat(binary.AppendUvarint(nil, uint64(groups)), declared, enter, guarded)
}

func (s *scanner) dataSegment() {
	switch flags := s.u32(); flags {
	case 0:
		s.expr()
	case 1:
	case 2:
		s.u32()
		s.expr()
	default:
		s.fail(CodeInvalid, "data segment of unknown kind %d", flags)
	}
	s.take(uint64(s.u32()))
}

// expr skips a constant expression: core specification 2.0, §5.4.9 and §3.3.10.
func (s *scanner) expr() {
	for {
		switch op := s.byte(); op {
		case 0x0b: // end
			return
		case 0x41, 0x42, 0x23, 0xd2: // i32.const, i64.const, global.get, ref.func
			s.leb()
		case 0x43: // f32.const
			s.take(4)
		case 0x44: // f64.const
			s.take(8)
		case 0xd0: // ref.null
			s.valueType() // as for elements
		case 0xfd: // v128.const
			if s.u32() != 12 {
				s.fail(CodeInvalid, "vector instruction in a constant expression")
			}
			s.take(16)
		default:
			s.fail(CodeInvalid, "instruction %#x in a constant expression", op)
		}
	}
}
