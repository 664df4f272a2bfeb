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

// Names is a List whose values may also be separated by commas, which none of them
// has: a variable of the environment, which is set but once, has room for several.
type Names []string

func (n *Names) String() string { return strings.Join(*n, ",") }

// Set takes one or more values.
func (n *Names) Set(value string) error {
	for name := range strings.SplitSeq(value, ",") {
		var w Word
		if err := w.Set(strings.TrimSpace(name)); err != nil {
			return err
		}
		*n = append(*n, string(w))
	}
	return nil
}
