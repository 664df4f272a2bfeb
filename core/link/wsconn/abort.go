//go:build !js

package wsconn

// abortEnds tells that abort ends both goroutines of a Conn.
const abortEnds = true

// abort closes the network connection, which ends whatever waits on it.
func (c *Conn) abort() { c.sock.abort() }
