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

// Compiling a function takes time by the square of its blocks. Go's largest
// have 800, and all of a small program 8,000,000 in squares.
const (
	maxBlocks    = 4_096
	maxBlockWork = 4 * maxBlocks * maxBlocks // sum of the squares
	bulkBlocks   = 8                         // that a bulk operation is compiled to
)

// guard returns a function's body, without its locals, with those loops.
// imports is the number of functions that are the host's.
func (s *scanner) guard(body []byte, imports int) []byte {
	outer := s.data
	defer func() { s.data = outer }()
	out := make([]byte, 0, len(body)+len(body)/8+len(lookOut))
	out = append(out, lookOut...)
	copied := 0
	s.blocks = 1
	s.data = body
	for len(s.data) > 0 {
		at := len(body) - len(s.data)
		if s.instruction(imports) {
			out = append(append(out, body[copied:at]...), lookOut...)
			copied = at
			s.blocks++
		}
	}
	if s.work += s.blocks * s.blocks; s.blocks > maxBlocks || s.work > maxBlockWork {
		s.fail(CodeTooLarge, "so many blocks (%d in a function) that compiling takes long", s.blocks)
	}
	return append(out, body[copied:]...)
}

// instruction skips one instruction (core specification 2.0, §5.4) and tells
// whether it needs a look before it.
func (s *scanner) instruction(imports int) (unbounded bool) {
	switch op := s.byte(); {
	case op == 0x00, op == 0x01, op == 0x05, op == 0x0b, op == 0x0f, op == 0x1a, op == 0x1b: // without operands
	case op >= 0x45 && op <= 0xc4, op == 0xd1: // comparisons, arithmetic, ref.is_null
	case op >= 0x02 && op <= 0x04: // block, loop, if
		s.blocks++
		s.leb()
	case op == 0x0c, op == 0x0d: // br, br_if
		s.u32()
	case op == 0x0e: // br_table
		for n := uint64(s.u32()) + 1; n > 0; n-- {
			s.u32()
		}
	case op == 0x10: // call
		return uint64(s.u32()) < uint64(imports)
	case op == 0x11: // call_indirect
		s.u32()
		s.u32()
		return true
	case op == 0x1c: // select with types
		s.take(uint64(s.u32()))
	case op >= 0x20 && op <= 0x26, op == 0xd2: // variables, table.get, table.set, ref.func
		s.u32()
	case op >= 0x28 && op <= 0x3e: // loads and stores
		s.memArg()
	case op == 0x3f, op == 0xd0: // memory.size, ref.null
		s.byte()
	case op == 0x40: // memory.grow
		s.byte()
		return true
	case op == 0x41, op == 0x42: // i32.const, i64.const
		s.leb()
	case op == 0x43: // f32.const
		s.take(4)
	case op == 0x44: // f64.const
		s.take(8)
	case op == 0xfc:
		return s.bulk()
	case op == 0xfd:
		s.vector()
	default:
		s.fail(CodeInvalid, "unknown instruction %#x", op)
	}
	return false
}

// bulk skips what follows 0xfc.
func (s *scanner) bulk() (unbounded bool) {
	switch op := s.u32(); op {
	case 0, 1, 2, 3, 4, 5, 6, 7: // saturating truncation
		return false
	case 9, 13, 16: // data.drop, elem.drop, table.size
		s.u32()
		return false
	case 11, 15, 17: // memory.fill, table.grow, table.fill
		s.u32()
	case 8, 10, 12, 14: // memory.init, memory.copy, table.init, table.copy
		s.u32()
		s.u32()
	default:
		s.fail(CodeInvalid, "unknown instruction 0xfc %d", op)
	}
	s.blocks += bulkBlocks
	return true
}

// vector skips what follows 0xfd.
func (s *scanner) vector() {
	switch op := s.u32(); {
	case op <= 11, op == 92, op == 93: // loads and stores
		s.memArg()
	case op == 12, op == 13: // v128.const, i8x16.shuffle
		s.take(16)
	case op >= 21 && op <= 34: // lanes
		s.byte()
	case op >= 84 && op <= 91: // loads and stores of a lane
		s.memArg()
		s.byte()
	case op > 255:
		s.fail(CodeInvalid, "unknown instruction 0xfd %d", op)
	}
}

func (s *scanner) memArg() {
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
