package policy

// effort is what makes a function slow to compile.
type effort struct {
	blocks uint64 // basic blocks that it becomes
	values uint64 // parameters, results and locals
	widest uint64 // values that one of its blocks takes and gives
	kept   uint64 // values on its stack where blocks begin, at most
	looked uint64 // blocks that are looked through for values of variables
	passed uint64 // values that it and its calls take and give
	copied uint64 // addresses that its blocks know
}

// Basic blocks of what [scanner.guard] adds, and of a bulk operation.
const (
	lookOutBlocks = 2
	enterBlocks   = lookOutBlocks + 3
	bulkBlocks    = 8
)

// wazero's compiler takes time by the square of a function's blocks, and by their
// products with the square of what may be alive where they meet, and with the accesses
// to memory before them: 81 kB of nested loops take it minutes, and it cannot be
// interrupted. Its interpreter takes milliseconds, so it gets a module with more than
// maxWork. A unit is 20 ns at the worst. Programs stay below, with few values (Go, all
// of whose functions have 20) or few blocks: a Go program of 3 MB has 100 million, the
// built-in policy 96. What is compiled without optimization may be above.
const (
	maxWork    = 1 << 28
	fewValues  = 32 // registers hold them
	valueWork  = 8
	copiedWork = 32  // and memory: 4,000 blocks behind 4,000 loads took 400 MB
	passedWork = 256 // and memory: 16,000 calls with 128 values each way took 1.5 GB
)

// The interpreter keeps 56 bytes of every step, of which the calls and blocks of what
// [scanner.guard] adds are several: 8 MiB of calls to the host took 1.1 GB. And wazero
// checks every value that blocks, branches and calls have, in 15 ns: 8 MiB of blocks of
// 128 values took 10 s.
const (
	maxSteps   = 1 << 22
	maxCarried = 1 << 26
)

// interpret counts the steps that an instruction becomes.
func (s *scanner) interpret(op byte, blocks uint64, unbounded bool) {
	s.steps++
	switch op {
	case 0x0e: // br_table, with 16 bytes a label
		blocks /= 6
	case 0x10, 0x11: // calls
		s.steps += 2
	}
	s.steps += 2 * blocks
	if unbounded {
		s.steps += 3
	}
}

func (s *scanner) carry(values int) {
	if s.carried += uint64(values); s.carried > maxCarried {
		s.fail(CodeTooLarge, "more than %d values of blocks, branches and calls", maxCarried)
	}
}

func (e effort) work() uint64 {
	alive := e.values + e.widest + e.kept
	alive -= min(alive, fewValues)
	return e.looked + e.blocks*e.blocks + valueWork*e.blocks*alive*alive + copiedWork*e.copied + passedWork*e.passed
}

// funcType is a function's type.
type funcType struct{ params, results int }

// look is an instruction that needs the values of n variables.
func (s *scanner) look(n uint64) {
	if !s.dead {
		s.looked += n * s.chain
	}
}

// typeOf is the type with an index.
func (s *scanner) typeOf(typ uint32) funcType {
	if int64(typ) >= int64(len(s.types)) {
		s.fail(CodeInvalid, "no type %d", typ)
	}
	return s.types[typ]
}

// arity is the number of values that a type takes and gives.
func (t funcType) arity() uint64 { return uint64(t.params + t.results) }

// blockType reads the type of a block: core specification 2.0, §5.4.1.
func (s *scanner) blockType() funcType {
	if len(s.data) > 0 && s.data[0]&0xc0 == 0x40 { // none, or one value
		if s.data[0] == 0x40 {
			s.byte()
			return funcType{}
		}
		s.valueType() // wazero would take more bytes of others
		return funcType{results: 1}
	}
	before := s.data
	typ := s.u32()
	// To wazero the number has a sign, and 0xe3 0x7f is 0x63.
	if before[len(before)-len(s.data)-1]&0x40 != 0 {
		s.fail(CodeInvalid, "no type of a block")
	}
	t := s.typeOf(typ)
	s.widest = max(s.widest, t.arity())
	return t
}
