package usage

import (
	"errors"
	"strings"
)

// List is a flag that may be given several times. An empty value is a variable of
// the shell's that is not set.
type List []string

func (l *List) String() string { return strings.Join(*l, " ") }

// Set takes one more value.
func (l *List) Set(value string) error {
	if value == "" {
		return errors.New("it is empty")
	}
	*l = append(*l, value)
	return nil
}
