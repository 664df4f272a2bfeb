package client

import (
	"context"
	"encoding/json"
	"errors"
	"io"

	"github.com/drv-thru/drv-thru/core/wire"
)

// buildLimit bounds an answer about a build whose closure has so many paths. A
// list of numbers takes several times its text in memory, so the protocol's own
// limit for documents would be too generous here.
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
	if err := expect(dec, json.Delim('{')); err != nil {
		return err
	}
	for dec.More() {
		src.piece = maxPiece
		name, err := dec.Token()
		if err != nil {
			return err
		}
		switch name {
		case "narinfos":
			out.NarInfos, err = decodeTexts(dec, src, wire.MaxClosurePaths)
		case "roots":
			out.Roots, err = decodeTexts(dec, src, wire.MaxClosurePaths)
		default: // of a newer builder
			var skipped json.RawMessage
			err = dec.Decode(&skipped)
		}
		if err != nil {
			return err
		}
	}
	return expect(dec, json.Delim('}'))
}

func decodeTexts(dec *json.Decoder, src *answerReader, most int) ([]string, error) {
	tok, err := dec.Token()
	if err != nil || tok == nil { // null
		return nil, err
	}
	if tok != json.Delim('[') {
		return nil, protocolErrorf("its answer has %v where a list should be", tok)
	}
	var out []string
	for dec.More() {
		if len(out) == most {
			return nil, protocolErrorf("its list has more than %d members", most)
		}
		src.piece = maxPiece
		var text string
		if err := dec.Decode(&text); err != nil {
			return nil, err
		}
		out = append(out, text)
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
