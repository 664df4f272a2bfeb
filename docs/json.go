// Package docs lets tests hold the programs to what these pages promise. No
// program imports it.
package docs

import (
	"bytes"
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/drv-thru/drv-thru/core/ticket"
)

//go:embed json.md
var jsonPage string

// row is a row of a table of json.md: a field and its type, or, without a name,
// what the whole is as well.
type row struct{ field, kind string }

var tableRow = regexp.MustCompile("^\\| (?:`([^`]+)`)? ?\\| ([^|]+) \\|")

// tables are those of json.md, by the headings above them.
func tables() map[string][]row {
	all := make(map[string][]row)
	heading := ""
	for line := range strings.Lines(jsonPage) {
		if name, ok := strings.CutPrefix(line, "### "); ok {
			heading = strings.TrimSpace(name)
			continue
		}
		if m := tableRow.FindStringSubmatch(line); m != nil && m[2] != "type" {
			all[heading] = append(all[heading], row{m[1], strings.ReplaceAll(strings.TrimSpace(m[2]), "*", "")})
		}
	}
	return all
}

// JSONCommands returns the commands that json.md tells about.
func JSONCommands() []string {
	names := slices.Sorted(maps.Keys(tables()))
	return slices.DeleteFunc(names, func(n string) bool { return !strings.HasPrefix(n, "drv-thru ") })
}

// CheckJSON fails unless output is what json.md says that command prints: one
// value, with every field that is not optional, and none besides.
func CheckJSON(command string, output []byte) error {
	all := tables()
	if all[command] == nil {
		return fmt.Errorf("json.md has no table for %q", command)
	}
	dec := json.NewDecoder(bytes.NewReader(output))
	var v any
	if err := dec.Decode(&v); err != nil {
		return fmt.Errorf("%s prints no JSON: %w", command, err)
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return fmt.Errorf("%s prints more than one value", command)
	}
	return check(all, command, v, command)
}

// check holds a value to a type of json.md; at says where it stands.
func check(all map[string][]row, kind string, v any, at string) error {
	if rest, ok := strings.CutSuffix(kind, " or null"); ok {
		if v == nil {
			return nil
		}
		kind = rest
	}
	if of, ok := strings.CutPrefix(kind, "list of "); ok {
		list, ok := v.([]any)
		if !ok {
			return fmt.Errorf("%s is %T, not a %s", at, v, kind)
		}
		for i, e := range list {
			if err := check(all, of, e, fmt.Sprintf("%s[%d]", at, i)); err != nil {
				return err
			}
		}
		return nil
	}
	object, isObject := v.(map[string]any)
	if of, ok := strings.CutPrefix(kind, "map of "); ok {
		if !isObject {
			return fmt.Errorf("%s is %T, not a %s", at, v, kind)
		}
		for name, e := range object {
			if err := check(all, of, e, at+"."+name); err != nil {
				return err
			}
		}
		return nil
	}
	if rows := all[kind]; rows != nil {
		if len(rows) == 1 && rows[0].field == "" {
			return check(all, rows[0].kind, v, at)
		}
		if !isObject {
			return fmt.Errorf("%s is %T, not a %s", at, v, kind)
		}
		known := make(map[string]string)
		if err := members(all, kind, known); err != nil {
			return err
		}
		return checkObject(all, known, object, at)
	}
	return checkPlain(kind, v, at)
}

// members collects the fields of a table, and those of the tables that it is too.
func members(all map[string][]row, kind string, known map[string]string) error {
	if all[kind] == nil {
		return fmt.Errorf("json.md has no table %q", kind)
	}
	for _, r := range all[kind] {
		if r.field == "" {
			if err := members(all, r.kind, known); err != nil {
				return err
			}
			continue
		}
		known[r.field] = r.kind
	}
	return nil
}

func checkObject(all map[string][]row, known map[string]string, object map[string]any, at string) error {
	for name, e := range object {
		kind, ok := known[name]
		if !ok {
			return fmt.Errorf("%s.%s is not in json.md", at, name)
		}
		if err := check(all, strings.TrimPrefix(kind, "optional "), e, at+"."+name); err != nil {
			return err
		}
	}
	for name, kind := range known {
		if _, there := object[name]; !there && !strings.HasPrefix(kind, "optional ") {
			return fmt.Errorf("%s.%s is missing", at, name)
		}
	}
	return nil
}

// checkPlain holds a value to a type that is no table.
func checkPlain(kind string, v any, at string) (err error) {
	ok := true
	text, isText := v.(string)
	switch kind {
	case "any":
	case "string":
		ok = isText
	case "number":
		_, ok = v.(float64)
	case "boolean":
		_, ok = v.(bool)
	case "time":
		_, err = time.Parse(time.RFC3339, text)
	case "size":
		_, err = ticket.ParseSize(text)
	case "duration":
		_, err = ticket.ParseDuration(text)
	default:
		return fmt.Errorf("json.md has no table %q", kind)
	}
	if !ok || err != nil {
		return fmt.Errorf("%s is %v (%T), not a %s", at, v, v, kind)
	}
	return nil
}
