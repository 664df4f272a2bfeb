package usage

import (
	"errors"
	"strings"
)

// Word is a flag that cannot be empty: that is a variable of the shell's that is not
// set, and would pass for a flag that is not there.
type Word string

func (w *Word) String() string { return string(*w) }

// Set takes the value.
func (w *Word) Set(value string) error {
	if value == "" {
		return errors.New("it is empty")
	}
	*w = Word(value)
	return nil
}

// List is a Word that may be given several times.
type List []string

func (l *List) String() string { return strings.Join(*l, " ") }

// Set takes one more value.
func (l *List) Set(value string) error {
	var w Word
	if err := w.Set(value); err != nil {
		return err
	}
	*l = append(*l, string(w))
	return nil
}
