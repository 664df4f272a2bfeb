package usage

import (
	"flag"
	"time"

	"github.com/drv-thru/drv-thru/core/ticket"
)

// DurationVar defines a flag for a span of time above 0, written as those of
// tickets are, "90s", "30m", "2h" or "7d", or as package time has it: "250ms".
func DurationVar(fs *flag.FlagSet, p *time.Duration, name string, value time.Duration, usage string) {
	*p = value
	fs.Var((*duration)(p), name, usage)
}

type duration time.Duration

func (d *duration) String() string {
	if std := time.Duration(*d); std%time.Second != 0 {
		return std.String()
	}
	return ticket.Duration(*d).String()
}

func (d *duration) Set(text string) error {
	parsed, err := ticket.ParseDuration(text)
	if err == nil {
		*d = duration(parsed)
		return nil
	}
	if std, stdErr := time.ParseDuration(text); stdErr == nil && std > 0 {
		*d = duration(std)
		return nil
	}
	return err
}
