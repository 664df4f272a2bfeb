package policy

// flow follows a function while it is scanned: how many values are on the stack,
// through how many blocks wazero's compiler looks for the value of a variable, and how
// many addresses it knows to be good. Values below a block stay alive for as long as it
// lasts, as variables do, and more of them fit into a function. It looks through each
// block that only one other leads to, back to the beginning of a loop, or to where
// several meet, which remember what they found. Addresses that memory was accessed at
// are kept for every block that follows, and where several meet those that all know.
type flow struct {
	height  int
	chain   uint64
	known   uint64
	dead    bool // never reached
	frames  []frame
	results int // of the function
}

// frame is a block that has not ended.
type frame struct {
	op    byte
	floor int // values below it
	typ   funcType
	dead  bool   // as a whole
	chain uint64 // at its beginning
	known uint64 // there

	// What leads to its end, or to its beginning if it is a loop.
	joins        int
	sum, longest uint64 // of their chains
	last         uint64 // that of these which came last
	fewest       uint64 // addresses that one of them knows
}

// move takes values from the stack and puts others there. In code that cannot be
// reached there may be fewer than it takes.
func (o *flow) move(takes, gives int) {
	floor := 0
	if n := len(o.frames); n > 0 {
		floor = o.frames[n-1].floor
	}
	o.height = max(o.height-takes, floor) + gives
}

func (o *flow) begin(op byte, t funcType) {
	o.move(t.params, 0)
	o.frames = append(o.frames, frame{op: op, floor: o.height, typ: t, dead: o.dead, chain: o.chain, known: o.known})
	o.height += t.params
	switch op {
	case 0x03: // loop
		o.chain = 0
	case 0x04: // if
		o.chain++
	}
}

func (o *flow) otherwise() {
	n := len(o.frames)
	if n == 0 {
		return
	}
	f := &o.frames[n-1]
	f.op = 0x05
	o.join(0, 0)
	o.height, o.chain, o.known, o.dead = f.floor+f.typ.params, f.chain+1, f.known, f.dead
}

// end ends a block, and returns what finding one variable there may take more.
func (o *flow) end() (looked uint64) {
	n := len(o.frames)
	if n == 0 {
		return 0 // that of the function
	}
	f := &o.frames[n-1]
	if f.op != 0x03 {
		o.join(0, 0)
	}
	if f.op == 0x04 { // there is no else
		o.dead, o.chain, o.known = f.dead, f.chain, f.known
		o.join(0, 0)
	}
	if f.joins > 0 && f.op != 0x03 {
		o.known = f.fewest
	}
	switch {
	case f.dead:
	case f.op == 0x03 && f.joins == 0:
		looked = f.chain
		o.chain += f.chain + 1
	case f.op == 0x03:
		looked = f.chain + f.sum
		o.chain++
	case f.joins > 1:
		looked = f.sum
		o.chain = 0
	default:
		o.chain = max(o.chain, f.longest) + 1
	}
	o.frames = o.frames[:n-1]
	o.height, o.dead = f.floor+f.typ.results, f.dead
	return looked
}

// label is how many values a branch to a label has.
func (o *flow) label(label uint32) int {
	if int64(label) >= int64(len(o.frames)) {
		return o.results
	}
	f := o.frames[len(o.frames)-1-int(label)]
	if f.op == 0x03 { // loop
		return f.typ.params
	}
	return f.typ.results
}

// join is a branch to a label. Those of one table, whose number is not 0, count once.
func (o *flow) join(label uint32, table uint64) {
	if o.dead || int64(label) >= int64(len(o.frames)) {
		return // or to the end of the function
	}
	f := &o.frames[len(o.frames)-1-int(label)]
	if f.joins == 0 {
		f.fewest = o.known
	}
	f.fewest = min(f.fewest, o.known)
	if table == 0 || f.last != table {
		f.joins++
	}
	f.last = table
	f.sum += o.chain + 1
	f.longest = max(f.longest, o.chain+1)
}

// taken is how many values a comparison, an arithmetic instruction or a conversion
// takes. Each gives one.
func taken(op byte) int {
	switch {
	case op == 0x45, op == 0x50, // eqz
		op >= 0x67 && op <= 0x69, op >= 0x79 && op <= 0x7b, // clz, ctz, popcnt
		op >= 0x8b && op <= 0x91, op >= 0x99 && op <= 0x9f, // abs to sqrt
		op >= 0xa7: // conversions
		return 1
	}
	return 2
}

// vectorTaken is the same for an instruction behind 0xfd. Of those that do not give
// one value it is one less.
func vectorTaken(op byte) int {
	switch {
	case op == 12: // v128.const
		return 0
	case op == 82: // v128.bitselect
		return 3
	case op < 11, op == 92, op == 93, op >= 15 && op <= 20, // loads, splats
		op >= 21 && op <= 34 && op != 23 && op != 26 && op != 28 && op != 30 && op != 32 && op != 34, // lanes that are read
		op == 77, op == 83, // not, any_true
		op >= 94 && op <= 100, op >= 103 && op <= 106, op == 116, op == 117, op == 122, op >= 124 && op <= 129,
		op == 131, op == 132, op >= 135 && op <= 138, op == 148, op == 160, op == 161, op == 163, op == 164,
		op >= 167 && op <= 170, op == 192, op == 193, op == 195, op == 196, op >= 199 && op <= 202,
		op == 224, op == 225, op == 227, op == 236, op == 237, op == 239, op >= 248:
		return 1
	}
	return 2
}
