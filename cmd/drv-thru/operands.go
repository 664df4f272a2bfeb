package main

import (
	"errors"
	"flag"
	"fmt"
	"slices"
	"strings"
)

// operands returns a command's arguments, of which flags may also follow others:
// "ticket revoke ID --cancel". The first is none: package flag stops at an operand, or
// behind --, which it does not tell. The second word of a flag of two words, of which
// the command may have some, is such an argument too.
func (a *app) operands(fs *flag.FlagSet, args []string, two ...*pairs) ([]string, error) {
	if endsFlags(a.args, args) {
		return args, nil
	}
	var all []string
	for len(args) > 0 {
		if !slices.ContainsFunc(two, func(p *pairs) bool { return p.complete(args[0]) }) {
			all = append(all, args[0])
		}
		args = args[1:]
		if err := fs.Parse(args); err != nil {
			if errors.Is(err, flag.ErrHelp) {
				return nil, err
			}
			return nil, parseError(fs, err)
		}
		if endsFlags(args, fs.Args()) {
			return append(all, fs.Args()...), nil
		}
		args = fs.Args()
	}
	return all, nil
}

// endsFlags reports whether rest, with which args end, stands behind --.
func endsFlags(args, rest []string) bool {
	i := len(args) - len(rest) - 1
	return i >= 0 && args[i] == "--"
}

// noOperands refuses the arguments of a command that takes none.
func noOperands(fs *flag.FlagSet, args []string) error {
	if len(args) > 0 {
		return usagef("%s takes no arguments, got %q", strings.TrimPrefix(fs.Name(), "drv-thru "), args[0])
	}
	return nil
}

// oneOperand returns the only operand of a command. One that is empty would be part of
// the path of another request to the builder, or the working directory.
func (a *app) oneOperand(fs *flag.FlagSet, args []string, what string) (string, error) {
	all, err := a.operands(fs, args)
	if err != nil {
		return "", err
	}
	if len(all) != 1 || strings.TrimSpace(all[0]) == "" {
		return "", usagef("%s takes %s", strings.TrimPrefix(fs.Name(), "drv-thru "), what)
	}
	return all[0], nil
}

// pairs is a flag that takes two words and may be repeated. The flag package
// gives it the first; operands completes it with the second, which therefore
// cannot begin with a dash. NAME=VALUE and "NAME VALUE" in one word, as the
// environment has them, work too: no NAME of ours has a "=" or a space.
type pairs struct {
	list    [][2]string
	pending bool
}

func (p *pairs) String() string { return "" }

func (p *pairs) Set(value string) error {
	if p.pending {
		return fmt.Errorf("the flag takes two words")
	}
	pair := [2]string{value}
	end := strings.IndexAny(value, "= ")
	if end >= 0 {
		pair = [2]string{value[:end], value[end+1:]}
	}
	p.list = append(p.list, pair)
	p.pending = end < 0
	return nil
}

// complete takes word as the second one, if that is what p waits for.
func (p *pairs) complete(word string) bool {
	if !p.pending {
		return false
	}
	p.list[len(p.list)-1][1], p.pending = word, false
	return true
}
