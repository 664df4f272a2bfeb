package helper

import (
	"errors"
	"log/slog"
	"time"
)

// Client asks a helper.
type Client struct {
	// Socket is where it listens; "" means DefaultSocket.
	Socket string
	// Log takes what is odd but no failure; nil discards it.
	Log *slog.Logger
}

// ErrNoHelper is wrapped by errors that say that there is no helper to ask.
var ErrNoHelper = errors.New("there is no import helper")

// FailedError is an import that the helper began and that failed.
type FailedError struct{ Text string }

func (e *FailedError) Error() string { return e.Text }

// Progress is how far an import is, in bytes that nix counts.
type Progress func(done, expected uint64)

const (
	// answerTime bounds the helper's answers before an import is under way.
	answerTime = 30 * time.Second
	// busyTime is how long a busy helper is asked again, and busyPause how long
	// after each time.
	busyTime  = 2 * time.Minute
	busyPause = 500 * time.Millisecond
)

func (c *Client) socket() string {
	if c.Socket == "" {
		return DefaultSocket
	}
	return c.Socket
}

func (c *Client) logger() *slog.Logger {
	if c.Log == nil {
		return slog.New(slog.DiscardHandler)
	}
	return c.Log
}
