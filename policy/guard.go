package policy

import "encoding/binary"

// wazero looks whether an instance is to stop where a loop begins, and nowhere
// else. Code without loops can run for hours all the same (functions that call
// each other twice, sixty deep; a row of memory.fill), and while it does, the
// whole process waits for it: the garbage collector cannot stop it either. So
// every function gets an empty loop at its start, and so does every instruction
// whose time is not bounded by its size: calls that may reach the host, and bulk
// operations on memory and tables.
var lookOut = []byte{0x03, 0x40, 0x0b} // loop, no type; end

// Nor does wazero bound the stack of calls by less than 100 MB. So a function
// that calls others adds what its frame may take to what its caller's came to, in
// a global variable of the module, and traps above maxStack.
const (
	maxStack    = 16 << 20
	frameBytes  = 64
	valueBytes  = 16 // of a parameter or local
	codeBytes   = 4  // of what a byte of code may leave to be kept during a call
	passedBytes = 8  // of a value that a call gives
)

// guard returns a function's body, without its locals, with those loops, and
// whether it calls any.
func (s *scanner) guard(body []byte) (out []byte, calls bool) {
	outer := s.data
	defer func() { s.data = outer }()
	tell := binary.AppendUvarint([]byte{0x20}, s.variables)            // local.get
	tell = binary.AppendUvarint(append(tell, 0x24), uint64(s.globals)) // global.set
	out = append(make([]byte, 0, len(body)+len(body)/4), lookOut...)
	copied := 0
	s.blocks += lookOutBlocks
	s.data = body
	for len(s.data) > 0 {
		at := len(body) - len(s.data)
		op, blocks := s.data[0], s.blocks
		unbounded := s.instruction()
		if unbounded || s.blocks > blocks {
			s.kept = max(s.kept, uint64(s.height))
		}
		if unbounded {
			s.chain += lookOutBlocks
		}
		s.interpret(op, s.blocks-blocks, unbounded)
		call := op == 0x10 || op == 0x11
		if call || unbounded {
			out = append(out, body[copied:at]...)
			copied = at
		}
		if call {
			out = append(out, tell...)
			s.look(1)
			calls = true
		}
		if unbounded {
			out = append(out, lookOut...)
			s.blocks += lookOutBlocks
		}
		s.copied += s.known * (s.blocks - blocks)
	}
	return append(out, body[copied:]...), calls
}

// withStack returns the section of globals with the variable for the stack.
func (s *scanner) withStack(section []byte) []byte {
	s.counted = true
	_, n := binary.Uvarint(section)
	out := append(binary.AppendUvarint(nil, uint64(s.globals)+1), section[n:]...)
	return append(out, 0x7f, 1, 0x41, 0, 0x0b) // i32, mutable, 0
}

// enter returns what begins a function that calls others.
func (s *scanner) enter(code int) []byte {
	frame := frameBytes + valueBytes*s.values + passedBytes*s.passed + codeBytes*uint64(code)
	out := binary.AppendUvarint([]byte{0x23}, uint64(s.globals)) // global.get
	out = appendI32(append(out, 0x41), int32(min(frame, maxStack)))
	out = binary.AppendUvarint(append(out, 0x6a, 0x22), s.variables) // i32.add, local.tee
	out = appendI32(append(out, 0x41), maxStack)
	s.blocks += enterBlocks - lookOutBlocks
	return append(out, 0x4b, 0x04, 0x40, 0x00, 0x0b) // i32.gt_u, if, unreachable, end
}

// appendI32 appends a signed number: core specification 2.0, §5.2.2.
func appendI32(out []byte, n int32) []byte {
	for ; n < -0x40 || n >= 0x40; n >>= 7 {
		out = append(out, byte(n)|0x80)
	}
	return append(out, byte(n)&0x7f)
}

// instruction skips one instruction (core specification 2.0, §5.4) and tells
// whether it needs a look before it.
func (s *scanner) instruction() (unbounded bool) {
	switch op := s.byte(); {
	case op == 0x01: // nop
	case op == 0x00: // unreachable
		s.dead = true
	case op == 0x0f: // return
		s.carry(s.results)
		s.dead = true
	case op == 0x05: // else
		s.otherwise()
	case op == 0x0b: // end
		s.looked += s.end() * (s.variables + 1)
	case op == 0x1a: // drop
		s.move(1, 0)
	case op == 0x1b: // select
		s.move(3, 1)
	case op >= 0x45 && op <= 0xc4: // comparisons, arithmetic
		s.move(taken(op), 1)
	case op == 0xd1: // ref.is_null
	case op >= 0x02 && op <= 0x04: // block, loop, if
		s.blocks += uint64(op) - 1 // a loop has two, an if three
		if op == 0x04 {
			s.move(1, 0)
		}
		t := s.blockType()
		s.carry(2 * (t.params + t.results))
		s.begin(op, t)
	case op == 0x0c, op == 0x0d: // br, br_if
		s.blocks++
		s.move(int(op-0x0c), 0)
		s.branch(s.u32(), 0)
		s.chain++
		s.dead = s.dead || op == 0x0c
	case op == 0x0e: // br_table
		n := uint64(s.u32()) + 1
		s.blocks += n
		for range n {
			s.branch(s.u32(), s.blocks)
		}
		s.dead = true
	case op == 0x10: // call
		f := s.u32()
		if int64(f) >= int64(len(s.funcs)) {
			s.fail(CodeInvalid, "no function %d", f)
		}
		s.called(s.typeOf(s.funcs[f]))
		return int64(f) < int64(len(s.imports))
	case op == 0x11: // call_indirect
		s.move(1, 0)
		s.called(s.typeOf(s.u32()))
		s.u32()
		return true
	case op == 0x1c: // select with types
		// wazero checks it as if a reference's type had a number behind it, and
		// compiles it as if it had none: what that number is then runs unchecked.
		if s.u32() != 1 {
			s.fail(CodeInvalid, "a select of several types")
		}
		s.valueType()
		s.move(3, 1)
	case op >= 0x20 && op <= 0x22: // local variables
		if i := s.u32(); uint64(i) >= s.variables {
			s.fail(CodeInvalid, "no local variable %d", i)
		}
		switch op {
		case 0x20: // local.get
			s.look(1)
			s.move(0, 1)
		case 0x21: // local.set
			s.move(1, 0)
		}
	case op == 0x23, op == 0x24: // global variables
		if i := s.u32(); int64(i) >= int64(s.globals) {
			s.fail(CodeInvalid, "no global variable %d", i)
		}
		if op == 0x23 { // global.get
			s.look(1)
			s.move(0, 1)
		} else {
			s.move(1, 0)
		}
	case op == 0x25: // table.get
		s.u32()
	case op == 0x26: // table.set
		s.u32()
		s.move(2, 0)
	case op >= 0x28 && op <= 0x35: // loads
		s.memArg()
	case op >= 0x36 && op <= 0x3e: // stores
		s.memArg()
		s.move(2, 0)
	case op == 0x3f: // memory.size
		s.byte()
		s.move(0, 1)
	case op == 0xd0: // ref.null
		s.valueType()
		s.move(0, 1)
	case op == 0x40: // memory.grow
		s.byte()
		return true
	case op == 0x41, op == 0x42: // i32.const, i64.const
		s.leb()
		s.move(0, 1)
	case op == 0x43: // f32.const
		s.take(4)
		s.move(0, 1)
	case op == 0x44: // f64.const
		s.take(8)
		s.move(0, 1)
	case op == 0xd2: // ref.func
		s.fail(CodeInvalid, "ref.func in a function, which takes memory each time")
	case op == 0xfc:
		return s.bulk()
	case op == 0xfd:
		s.vector()
	default:
		s.fail(CodeInvalid, "unknown instruction %#x", op)
	}
	return false
}

func (s *scanner) called(t funcType) {
	s.passed += t.arity()
	s.looked += s.known // they are gone through
	s.carry(t.params + t.results)
	s.move(t.params, t.results)
}

func (s *scanner) branch(label uint32, table uint64) {
	s.carry(s.label(label))
	s.join(label, table)
}

// bulk skips what follows 0xfc.
func (s *scanner) bulk() (unbounded bool) {
	switch op := s.u32(); op {
	case 0, 1, 2, 3, 4, 5, 6, 7: // saturating truncation
		return false
	case 9, 13: // data.drop, elem.drop
		s.u32()
		return false
	case 16: // table.size
		s.u32()
		s.move(0, 1)
		return false
	case 15: // table.grow
		s.u32()
		s.move(2, 1)
	case 11, 17: // memory.fill, table.fill
		s.u32()
		s.move(3, 0)
	case 8, 10, 12, 14: // memory.init, memory.copy, table.init, table.copy
		s.u32()
		s.u32()
		s.move(3, 0)
	default:
		s.fail(CodeInvalid, "unknown instruction 0xfc %d", op)
	}
	s.look(bulkBlocks)
	s.blocks += bulkBlocks
	s.chain += bulkBlocks
	return true
}

// vector skips what follows 0xfd. wazero reads one byte of the number, and a
// second one of 1 as nop.
func (s *scanner) vector() {
	op := s.byte()
	if op >= 0x80 && s.byte() != 1 {
		s.fail(CodeInvalid, "unknown instruction 0xfd %#x", op)
	}
	s.move(vectorTaken(op), 1)
	switch {
	case op == 11: // v128.store
		s.memArg()
		s.move(1, 0)
	case op < 11, op == 92, op == 93: // loads
		s.memArg()
	case op == 12, op == 13: // v128.const, i8x16.shuffle
		s.take(16)
	case op >= 21 && op <= 34: // lanes
		s.byte()
	case op >= 84 && op <= 91: // loads and stores of a lane
		s.memArg()
		s.byte()
		if op >= 88 {
			s.move(1, 0)
		}
	}
}

func (s *scanner) memArg() {
	s.look(2) // where memory is, and its size
	s.known++
	s.u32()
	s.u32()
}

// leb skips a number of at most 64 bits.
func (s *scanner) leb() {
	for range binary.MaxVarintLen64 {
		if s.byte()&0x80 == 0 {
			return
		}
	}
	s.fail(CodeInvalid, "a number is damaged")
}
