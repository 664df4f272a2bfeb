package main

import (
	"errors"
	"io/fs"
	"iter"
	"os"
	"strings"

	"github.com/drv-thru/drv-thru/core/builder"
)

// nixMachine is a machine that the Nix daemon sends builds to.
type nixMachine struct {
	name     string // as builds and metrics call it
	systems  []string
	features []string
}

// Columns of a machine's line (Nix's manual, "builders"); "-" leaves one out.
const (
	machineURI = iota
	machineSystems
	_ // SSH key
	_ // jobs at once
	_ // speed
	machineFeatures
	machineMandatory
)

// maxMachineFiles bounds how deep files of machines name others.
const maxMachineFiles = 8

// readMachines reads the value of Nix's setting "builders": lines, with a
// semicolon as good as a line feed, of which @FILE stands for those of a file. A
// comment goes on to the end of its line, as in Nix 2.34; up to 2.26 it ends at a
// semicolon, and what follows is a machine that nobody has meant.
// native is the system of a machine that names none. It returns what it can read
// along with an error for what it cannot.
func readMachines(value, native string) ([]nixMachine, error) {
	return machinesOf(value, native, maxMachineFiles)
}

func machinesOf(value, native string, deep int) (all []nixMachine, failed error) {
	for line := range uncommented(value) {
		file, included := strings.CutPrefix(line, "@")
		switch {
		case line == "":
		case !included:
			all = append(all, parseMachine(line, native))
		case deep == 0:
			failed = errors.Join(failed, errors.New("files of machines name each other in a circle"))
		default:
			text, err := os.ReadFile(strings.TrimSpace(file))
			if err == nil {
				var more []nixMachine
				more, err = machinesOf(string(text), native, deep-1)
				all = append(all, more...)
			}
			// Nix's default names a file that most machines lack.
			if !errors.Is(err, fs.ErrNotExist) {
				failed = errors.Join(failed, err)
			}
		}
	}
	return all, failed
}

// uncommented are the entries of a list of machines, some of them empty.
func uncommented(value string) iter.Seq[string] {
	return func(yield func(string) bool) {
		for line := range strings.Lines(value) {
			line, _, _ = strings.Cut(line, "#")
			for entry := range strings.SplitSeq(line, ";") {
				if !yield(strings.TrimSpace(entry)) {
					return
				}
			}
		}
	}
}

func parseMachine(line, native string) nixMachine {
	columns := strings.Fields(line)
	column := func(i int) []string {
		if i >= len(columns) || columns[i] == "-" {
			return nil
		}
		return strings.Split(columns[i], ",")
	}
	m := nixMachine{
		name: builder.MachineName(columns[machineURI]), systems: column(machineSystems),
		features: append(column(machineFeatures), column(machineMandatory)...),
	}
	if len(m.systems) == 0 {
		m.systems = []string{native}
	}
	return m
}
