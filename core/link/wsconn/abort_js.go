package wsconn

// abortEnds tells that abort ends both goroutines of a Conn. A browser has no
// way to cut a WebSocket: it waits for the server's goodbye as long as it
// likes, and the goroutines with it.
const abortEnds = false

func (c *Conn) abort() {}
