package buildertest

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"net/http"

	"github.com/drv-thru/drv-thru/core/chunk"
	"github.com/drv-thru/drv-thru/core/wire"
)

// Cutting is a NAR in chunks.
type Cutting struct {
	Manifest []byte
	Chunks   [][]byte // masked
}

// Cut cuts an object as a client does.
func Cut(o Object) *Cutting {
	refs := chunk.RefsOf(o.Info.Path, o.Info.References)
	var manifest bytes.Buffer
	c := &Cutting{}
	enc := chunk.NewEncoder(&manifest, refs)
	_, err := chunk.Cut(context.Background(), bytes.NewReader(o.Nar), refs, func(k chunk.Chunk, masked []byte) error {
		c.Chunks = append(c.Chunks, bytes.Clone(masked))
		return enc.Chunk(k)
	})
	if err == nil {
		err = enc.Close()
	}
	if err != nil {
		panic(err)
	}
	c.Manifest = manifest.Bytes()
	return c
}

// Frames is the body of a request with these chunks.
func (c *Cutting) Frames(ordinals ...int) []byte {
	var b []byte
	for _, i := range ordinals {
		b = chunk.AppendFrame(binary.BigEndian.AppendUint32(b, uint32(i)), c.Chunks[i], true)
	}
	return b
}

// Requests are the bodies of requests with these ranges of chunks, each as large
// as it may be.
func (c *Cutting) Requests(ranges [][2]int) (bodies [][]byte) {
	var ordinals []int
	size := 0
	for _, r := range ranges {
		for i := r[0]; i < r[0]+r[1]; i++ {
			if n := len(c.Chunks[i]); size+n > wire.MaxInputChunkBytes {
				bodies, ordinals, size = append(bodies, c.Frames(ordinals...)), nil, 0
			}
			ordinals, size = append(ordinals, i), size+len(c.Chunks[i])
		}
	}
	if len(ordinals) > 0 {
		bodies = append(bodies, c.Frames(ordinals...))
	}
	return bodies
}

func inputPath(id wire.BuildID, index int) string {
	return fmt.Sprintf("/v1/builds/%s/inputs/%d", id, index)
}

// PutManifest begins an input and returns what is missing of it.
func (c *Client) PutManifest(id wire.BuildID, index int, manifest []byte) ([][2]int, error) {
	resp, err := c.Do(http.MethodPut, inputPath(id, index)+"/manifest", bytes.NewReader(manifest))
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	var m wire.MissingChunks
	return m.Missing, json.NewDecoder(resp.Body).Decode(&m)
}

// PutChunks sends chunks.
func (c *Client) PutChunks(id wire.BuildID, index int, body []byte) error {
	resp, err := c.Do(http.MethodPut, inputPath(id, index)+"/chunks", bytes.NewReader(body))
	if err != nil {
		return err
	}
	return resp.Body.Close()
}

// Finish ends an input.
func (c *Client) Finish(id wire.BuildID, index int) (b wire.Build, err error) {
	return b, c.JSON(http.MethodPost, inputPath(id, index), nil, &b)
}

// SendLarge uploads an object in chunks, and returns how many were sent.
func (c *Client) SendLarge(id wire.BuildID, index int, o Object) (b wire.Build, sent int, err error) {
	cut := Cut(o)
	missing, err := c.PutManifest(id, index, cut.Manifest)
	if err != nil {
		return b, 0, err
	}
	for _, r := range missing {
		sent += r[1]
	}
	for _, body := range cut.Requests(missing) {
		if err := c.PutChunks(id, index, body); err != nil {
			return b, sent, err
		}
	}
	b, err = c.Finish(id, index)
	return b, sent, err
}
