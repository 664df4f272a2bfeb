package policy

// operands is how many values are on the stack while a function is scanned. Those
// below a block stay alive for as long as it lasts, as variables do, and more of
// them fit into a function.
type operands struct {
	height int
	frames []frame
}

// frame is a block that has not ended.
type frame struct {
	floor int // values below it
	typ   funcType
}

// move takes values from the stack and puts others there. In code that cannot be
// reached there may be fewer than it takes.
func (o *operands) move(takes, gives int) {
	floor := 0
	if n := len(o.frames); n > 0 {
		floor = o.frames[n-1].floor
	}
	o.height = max(o.height-takes, floor) + gives
}

func (o *operands) getOrSet(get bool) {
	if get {
		o.move(0, 1)
	} else {
		o.move(1, 0)
	}
}

func (o *operands) begin(t funcType) {
	o.move(t.params, 0)
	o.frames = append(o.frames, frame{o.height, t})
	o.height += t.params
}

func (o *operands) otherwise() {
	if n := len(o.frames); n > 0 {
		o.height = o.frames[n-1].floor + o.frames[n-1].typ.params
	}
}

func (o *operands) end() {
	n := len(o.frames)
	if n == 0 {
		return // that of the function
	}
	last := o.frames[n-1]
	o.frames = o.frames[:n-1]
	o.height = last.floor + last.typ.results
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
