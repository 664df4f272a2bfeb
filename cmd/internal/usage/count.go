package usage

import (
	"errors"
	"strconv"
)

// Count is a flag for a number of things, of which there has to be one.
type Count int

func (c *Count) String() string { return strconv.Itoa(int(*c)) }

// Set takes the value.
func (c *Count) Set(text string) error {
	n, err := strconv.Atoi(text)
	switch {
	case errors.Is(err, strconv.ErrRange) && n > 0:
		return errors.New("it is too large")
	case err != nil || n < 1:
		return errors.New("want a number of at least 1")
	}
	*c = Count(n)
	return nil
}
