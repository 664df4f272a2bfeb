package client

import (
	"io"
	"sync"

	"github.com/klauspost/compress/zstd"
)

// encoders are kept because one costs megabytes to make.
var encoders = sync.Pool{New: func() any {
	e, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithEncoderConcurrency(1))
	if err != nil {
		panic("make zstd encoder: " + err.Error()) // only wrong options fail
	}
	return e
}}

// compress returns the zstd frame (RFC 8878) of data.
func compress(data []byte) []byte {
	e := encoders.Get().(*zstd.Encoder)
	defer encoders.Put(e)
	return e.EncodeAll(data, make([]byte, 0, len(data)/4))
}

// compressTo writes the compressed form of src to w.
func compressTo(w io.Writer, src io.Reader) error {
	e := encoders.Get().(*zstd.Encoder)
	defer encoders.Put(e)
	e.Reset(w)
	defer e.Reset(nil)
	if _, err := e.ReadFrom(src); err != nil {
		return err
	}
	return e.Close()
}
