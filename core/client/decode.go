package client

import (
	"context"
	"encoding/json"
	"errors"
	"io"

	"github.com/drv-thru/drv-thru/core/wire"
)

// buildLimit bounds an answer about a build whose closure has so many paths.
func buildLimit(paths int) int64 {
	const (
		result = 32 << 20 // outputs and errors of the most roots
		index  = 8        // a number and a comma
	)
	return result + int64(paths)*index
}

// decode reads a JSON document of at most limit bytes into out.
func decode(ctx context.Context, body io.Reader, limit int64, out any) error {
	return decodeWith(ctx, body, limit, func(dec *json.Decoder, _ *answerReader) error { return dec.Decode(out) })
}

// decodeWith has a JSON document of at most limit bytes read by fn, and tells
// what is wrong with it from what is wrong with the connection.
func decodeWith(ctx context.Context, body io.Reader, limit int64, fn func(*json.Decoder, *answerReader) error) error {
	lr := &io.LimitedReader{R: body, N: limit + 1}
	src := &answerReader{r: lr, piece: limit + 1}
	err := fn(json.NewDecoder(src), src)
	switch {
	case err == nil:
		return nil
	case errors.Is(err, ErrProtocol):
		return err
	case lr.N <= 0:
		return protocolErrorf("its answer is larger than %d bytes", limit)
	case src.err != nil && !errors.Is(src.err, io.EOF):
		return transportError(ctx, src.err)
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return transportError(ctx, io.ErrUnexpectedEOF)
	}
	return protocolErrorf("its answer cannot be read: %v", err)
}

// answerReader remembers how its reader failed: what a decoder returns may be
// the reader's error or its own. It also bounds a piece of the answer: a decoder
// holds each value's text whole, several times over while it grows.
type answerReader struct {
	r     io.Reader
	piece int64 // what may still be read of the current one
	err   error
}

func (a *answerReader) Read(p []byte) (int, error) {
	if a.piece <= 0 {
		return 0, protocolErrorf("a part of its answer is larger than %d bytes", maxPiece)
	}
	n, err := a.r.Read(p[:min(int64(len(p)), a.piece)])
	a.piece -= int64(n)
	if err != nil {
		a.err = err
	}
	return n, err
}

// maxPiece bounds the JSON text of a narinfo: the longest, and as much again
// for what JSON escapes.
const maxPiece = 2 * wire.MaxNarInfo

// decodeClosure reads a closure piece by piece, so that a list of empty texts
// cannot take more memory than it has bytes.
func decodeClosure(dec *json.Decoder, src *answerReader, out *wire.Closure) error {
	return decodeObject(dec, src, func(name string) (err error) {
		switch name {
		case "narinfos":
			out.NarInfos, err = decodeList[string](dec, src, wire.MaxClosurePaths)
		case "roots":
			out.Roots, err = decodeList[string](dec, src, wire.MaxClosurePaths)
		default:
			err = skip(dec)
		}
		return err
	})
}

// decodeBuild reads a build whose closure has so many paths in the same way.
func decodeBuild(dec *json.Decoder, src *answerReader, out *wire.Build, paths int) error {
	return decodeObject(dec, src, func(name string) (err error) {
		switch name {
		case "id":
			err = dec.Decode(&out.ID)
		case "state":
			err = dec.Decode(&out.State)
		case "created":
			err = dec.Decode(&out.Created)
		case "position":
			err = dec.Decode(&out.Position)
		case "keep_going":
			err = dec.Decode(&out.KeepGoing)
		case "wanted":
			out.Wanted, err = decodeList[int](dec, src, paths)
		case "last_event":
			err = dec.Decode(&out.LastEvent)
		case "result":
			out.Result = new(wire.Result)
			err = decodeResult(dec, src, out.Result)
		default:
			err = skip(dec)
		}
		return err
	})
}

func decodeResult(dec *json.Decoder, src *answerReader, out *wire.Result) error {
	return decodeObject(dec, src, func(name string) (err error) {
		switch name {
		case "error":
			err = dec.Decode(&out.Error)
		case "outputs":
			out.Outputs, err = decodeList[wire.Output](dec, src, wire.MaxClosurePaths)
		case "derivations":
			out.Derivations, err = decodeList[wire.DrvResult](dec, src, wire.MaxRoots)
		case "queue_seconds":
			err = dec.Decode(&out.QueueTime)
		case "build_seconds":
			err = dec.Decode(&out.BuildTime)
		case "upload_bytes":
			err = dec.Decode(&out.UploadBytes)
		default:
			err = skip(dec)
		}
		return err
	})
}

// decodePlan reads the plan of a build whose closure has so many paths in the
// same way.
func decodePlan(dec *json.Decoder, src *answerReader, out *wire.Plan, paths int) error {
	return decodeObject(dec, src, func(name string) (err error) {
		switch name {
		case "wanted":
			out.Wanted, err = decodeList[int](dec, src, paths)
		case "upload_bytes":
			err = dec.Decode(&out.UploadBytes)
		case "built":
			err = dec.Decode(&out.Built)
		case "will_build":
			out.WillBuild, err = decodeList[string](dec, src, wire.MaxClosurePaths)
		case "will_substitute":
			out.WillSubstitute, err = decodeList[string](dec, src, wire.MaxClosurePaths)
		case "download_bytes":
			err = dec.Decode(&out.DownloadBytes)
		case "unpack_bytes":
			err = dec.Decode(&out.UnpackBytes)
		case "output_paths":
			err = dec.Decode(&out.OutputPaths)
		case "output_bytes":
			err = dec.Decode(&out.OutputBytes)
		default:
			err = skip(dec)
		}
		return err
	})
}

// decodeObject has each member of an object read by fn.
func decodeObject(dec *json.Decoder, src *answerReader, fn func(name string) error) error {
	if err := expect(dec, json.Delim('{')); err != nil {
		return err
	}
	for dec.More() {
		src.piece = maxPiece
		name, err := dec.Token()
		if err != nil {
			return err
		}
		if err := fn(name.(string)); err != nil {
			return err
		}
	}
	return expect(dec, json.Delim('}'))
}

// skip passes over what only a newer builder knows.
func skip(dec *json.Decoder) error {
	var skipped json.RawMessage
	return dec.Decode(&skipped)
}

func decodeList[T any](dec *json.Decoder, src *answerReader, most int) ([]T, error) {
	tok, err := dec.Token()
	if err != nil || tok == nil { // null
		return nil, err
	}
	if tok != json.Delim('[') {
		return nil, protocolErrorf("its answer has %v where a list should be", tok)
	}
	var out []T
	for dec.More() {
		if len(out) == most {
			return nil, protocolErrorf("its list has more than %d members", most)
		}
		src.piece = maxPiece
		var member T
		if err := dec.Decode(&member); err != nil {
			return nil, err
		}
		out = append(out, member)
	}
	return out, expect(dec, json.Delim(']'))
}

func expect(dec *json.Decoder, want json.Delim) error {
	tok, err := dec.Token()
	if err == nil && tok != want {
		err = protocolErrorf("its answer has %v where %v should be", tok, want)
	}
	return err
}
