package main

import (
	"context"
	"errors"
	"strconv"
	"strings"

	"github.com/peterbourgon/ff/v3/ffcli"

	"github.com/drv-thru/drv-thru/cmd/drv-thru/internal/term"
	"github.com/drv-thru/drv-thru/core/wire"
	"github.com/drv-thru/drv-thru/policy"
)

func newPolicyInspectCommand(a *app) *ffcli.Command {
	fs := a.flags("drv-thru policy inspect")
	asJSON := fs.Bool("json", false, "print JSON")
	return &ffcli.Command{
		Name:       "inspect",
		ShortUsage: "drv-thru policy inspect MODULE",
		ShortHelp:  "show what a module needs, or what it would be refused for",
		FlagSet:    fs,
		Exec: func(ctx context.Context, args []string) error {
			operand, err := a.oneOperand(fs, args, moduleHelp)
			if err != nil {
				return err
			}
			m, err := loadPolicy(ctx, a.policyHost(0), operand)
			if why := (*policy.Error)(nil); errors.As(err, &why) && why.Code == policy.CodeMissing {
				return err // nothing was there to be refused
			}
			if err != nil {
				return &exitError{"refused: " + err.Error(), wire.ExitDenied}
			}
			defer m.Close()
			info := m.Info()
			if *asJSON {
				return term.WriteJSON(a.stdout, struct {
					Hash        string   `json:"hash"`
					Bytes       int      `json:"bytes"`
					Imports     []string `json:"imports"`
					Exports     []string `json:"exports"`
					Functions   int      `json:"functions"`
					Memory      uint64   `json:"memory_bytes"`
					Table       uint64   `json:"table_elements"`
					Interpreted bool     `json:"interpreted"`
				}{info.Hash.String(), info.Bytes, info.Imports, info.Exports, info.Functions, info.Memory, info.Table, info.Interpreted})
			}
			of := func(used, most string) string { return used + " of " + most }
			verdict := "can be a policy"
			if info.Interpreted {
				verdict += ", but is interpreted: compiling it would take too long"
			}
			return table(
				a.stdout,
				[]string{"hash", info.Hash.String()},
				[]string{"size", of(term.Bytes(int64(info.Bytes)), term.Bytes(policy.MaxModule))},
				[]string{"memory at start", of(term.Bytes(int64(info.Memory)), term.Bytes(policy.MaxMemory))},
				[]string{"table at start", of(strconv.FormatUint(info.Table, 10), strconv.Itoa(policy.MaxTable))},
				[]string{"functions", strconv.Itoa(info.Functions)},
				[]string{"imports", strings.Join(info.Imports, " ")},
				[]string{"exports", strings.Join(info.Exports, " ")},
				[]string{"verdict", verdict},
			)
		},
	}
}
