// Package term is how the command line speaks: plain lines for logs and pipes,
// and on a terminal a picture below them that keeps changing, or a whole screen.
//
// Text that came from elsewhere reaches a terminal without the control
// characters that could move its cursor or worse; anything else than a terminal
// gets every byte as it was.
package term
