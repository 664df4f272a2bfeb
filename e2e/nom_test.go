//go:build e2e

package e2e

import (
	"encoding/json"
	"fmt"
	"strings"
)

// nomFields are how many fields nom wants of activities and results, which are
// all texts (t), all numbers (n) or a text, a text and anything twice (b). It
// refuses types that are not here; those without an entry's letter may have any.
// (nix-output-monitor 2.1, lib/NOM/Parser/JSON/Hermes.hs.)
var (
	nomActivities = map[uint64]string{
		0: "", 100: "ttt", 101: "t", 102: "", 103: "", 104: "", 105: "bbbb", 106: "", 107: "", 108: "tt", 109: "tt", 110: "t", 111: "",
	}
	nomResults = map[uint64]string{100: "nn", 101: "t", 102: "t", 103: "t", 104: "t", 105: "nnnn", 106: "nn", 107: "t"}
)

// nomReads says what nix-output-monitor --json would not understand of a line. It
// cannot be had where the tests run.
func nomReads(line string) error {
	text, ok := strings.CutPrefix(line, "@nix ")
	if !ok {
		return nil // it shows such a line as it is
	}
	var l struct {
		Action string
		ID     *uint64
		Level  *int
		Type   *uint64
		Text   *string
		Msg    *string
		Fields []any
	}
	if err := json.Unmarshal([]byte(text), &l); err != nil {
		return err
	}
	level := l.Level != nil && *l.Level >= 0 && *l.Level <= 7
	switch {
	case l.Action == "msg" && level && l.Msg != nil, l.Action == "stop" && l.ID != nil:
		return nil
	case l.Action == "start" && level && l.ID != nil && l.Type != nil && l.Text != nil:
		return nomTakes(nomActivities, *l.Type, l.Fields)
	case l.Action == "result" && l.ID != nil && l.Type != nil:
		return nomTakes(nomResults, *l.Type, l.Fields)
	}
	return fmt.Errorf("%s lacks something", l.Action)
}

func nomTakes(types map[uint64]string, kind uint64, fields []any) error {
	want, known := types[kind]
	switch {
	case !known:
		return fmt.Errorf("type %d is unknown", kind)
	case want != "" && len(want) != len(fields):
		return fmt.Errorf("%d fields of type %d, not %d", len(fields), kind, len(want))
	}
	for i := range want {
		_, isText := fields[i].(string)
		if isText != (want[i] == 't' || want[i] == 'b' && i < 2) {
			return fmt.Errorf("field %d of type %d is %v", i, kind, fields[i])
		}
	}
	return nil
}
