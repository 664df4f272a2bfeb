package policy

import (
	"context"
	"encoding/binary"
	"io"

	"github.com/tetratelabs/wazero"
	"github.com/tetratelabs/wazero/api"
	"github.com/tetratelabs/wazero/imports/wasi_snapshot_preview1"
)

// Bounds of one call to the host, which cannot be stopped half-way. wazero's own
// functions take as much as fits into memory: 600,000 events, or four million
// pieces of output, are tens of milliseconds.
const (
	maxPieces = 1_024   // of output; the rest is left to another call, as POSIX allows
	maxEvents = 1_024   // of poll_oneoff
	maxRandom = 1 << 20 // bytes
)

// Errors of WASI preview 1.
const (
	errnoSuccess = 0
	errnoBadf    = 8
	errnoFault   = 21
	errnoInval   = 28
	errnoIO      = 29
	errnoNotsup  = 58
)

// instantiateWASI gives policies wazero's functions, with others in place of
// those whose time is not bounded.
func instantiateWASI(ctx context.Context, r wazero.Runtime) error {
	b := r.NewHostModuleBuilder(wasiModule)
	wasi_snapshot_preview1.NewFunctionExporter().ExportFunctions(b)
	for name, f := range map[string]func(*run, api.Memory, []uint32) uint32{
		"fd_write": fdWriteBounded, "poll_oneoff": pollOneoff, "random_get": randomGetBounded,
	} {
		params := make([]api.ValueType, 4)
		if name == "random_get" {
			params = params[:2]
		}
		for i := range params {
			params[i] = api.ValueTypeI32
		}
		b.NewFunctionBuilder().WithGoModuleFunction(api.GoModuleFunc(func(ctx context.Context, mod api.Module, stack []uint64) {
			var args [4]uint32
			for i := range params {
				args[i] = uint32(stack[i])
			}
			stack[0] = uint64(f(ctx.Value(runKey{}).(*run), mod.Memory(), args[:]))
		}), params, []api.ValueType{api.ValueTypeI32}).Export(name)
	}
	_, err := b.Instantiate(ctx)
	return err
}

// runKey finds the run of an instance in its context.
type runKey struct{}

// fdWriteBounded is fd_write(fd, iovs, iovs_len, result.nwritten).
func fdWriteBounded(r *run, mem api.Memory, args []uint32) uint32 {
	out := &r.stdout
	switch args[0] {
	case 1:
	case 2:
		out = &r.stderr
	default:
		return errnoBadf
	}
	pieces, ok := mem.Read(args[1], 8*min(args[2], maxPieces))
	if !ok {
		return errnoFault
	}
	var written uint32
	for ; len(pieces) > 0; pieces = pieces[8:] {
		data, ok := mem.Read(binary.LittleEndian.Uint32(pieces), binary.LittleEndian.Uint32(pieces[4:]))
		if !ok {
			return errnoFault
		}
		n, err := out.Write(data)
		if written += uint32(n); err != nil {
			return errnoIO
		}
	}
	if !mem.WriteUint32Le(args[3], written) {
		return errnoFault
	}
	return errnoSuccess
}

// randomGetBounded is random_get(buf, buf_len).
func randomGetBounded(r *run, mem api.Memory, args []uint32) uint32 {
	if args[1] > maxRandom {
		return errnoInval
	}
	data, ok := mem.Read(args[0], args[1])
	if !ok {
		return errnoFault
	}
	if _, err := io.ReadFull(r.random, data); err != nil {
		return errnoIO
	}
	return errnoSuccess
}

// Subscriptions and events of poll_oneoff, and their kinds.
const (
	subscriptionSize = 48 // user data, kind at 8, and at 16 a file, or at 24 a time with its flags at 40
	eventSize        = 32 // user data, error at 8, kind at 10

	kindClock = 0
	kindRead  = 1
	kindWrite = 2
)

// pollOneoff is poll_oneoff(in, out, nsubscriptions, result.nevents). All that is
// subscribed happens at once: a sleep takes no time, and input is there.
func pollOneoff(r *run, mem api.Memory, args []uint32) uint32 {
	n := args[2]
	if n == 0 || n > maxEvents {
		return errnoInval
	}
	in, ok := mem.Read(args[0], n*subscriptionSize)
	if !ok {
		return errnoFault
	}
	out, ok := mem.Read(args[1], n*eventSize)
	if !ok {
		return errnoFault
	}
	sleep, sleeps := uint64(0), false
	for ; len(in) > 0; in, out = in[subscriptionSize:], out[eventSize:] {
		var event [eventSize]byte
		copy(event[:8], in)
		kind := in[8]
		file := binary.LittleEndian.Uint32(in[16:])
		switch {
		case kind == kindClock && binary.LittleEndian.Uint16(in[40:]) == 0:
			if ns := binary.LittleEndian.Uint64(in[24:]); !sleeps || ns < sleep {
				sleep, sleeps = ns, true
			}
		case kind == kindClock: // until a time rather than for one
			return errnoNotsup
		case kind > kindWrite:
			return errnoInval
		case file > 2:
			event[8] = errnoBadf
		case kind == kindWrite:
			event[8] = errnoNotsup
		}
		event[10] = kind
		copy(out, event[:])
	}
	if !mem.WriteUint32Le(args[3], n) {
		return errnoFault
	}
	r.clock.sleep(int64(min(sleep, 1<<63-1)))
	return errnoSuccess
}
