//go:build js || wasip1

package link

// search finds nothing here: there are no UDP sockets.
type search struct{}

func (*search) why() string { return "" }

func (*Session) lookForDirect() <-chan struct{} { return nil }
