package docs

import (
	"strings"
	"testing"
)

func TestCheckJSON(t *testing.T) {
	const queue = `{"paused":false,"draining":true,"slots":1,"running":0,"waiting":0}`
	const created = `{"ticket":"drvthru","id":"a","name":"n","state":"used","created":"2026-01-02T03:04:05Z","max_uses":0,"used":1,
		"limits":{"max_build_time":"30m"},"policy":{"name":"limits","settings":{"any":[1,null]}}}`
	for _, good := range []struct{ command, output string }{
		{"drv-thru pause", queue + "\n"},
		{"drv-thru ticket create", created},
		{"drv-thru build", `[{"drvPath":"/d","outputs":{"out":"/o"}},{"path":"/p"}]`},
		{"drv-thru builders list", `[]`},
	} {
		if err := CheckJSON(good.command, []byte(good.output)); err != nil {
			t.Errorf("%s: %v", good.output, err)
		}
	}
	for _, bad := range []struct{ command, output, want string }{
		{"drv-thru pause", strings.Replace(queue, `,"slots":1`, "", 1), ".slots is missing"},
		{"drv-thru pause", strings.Replace(queue, `"slots"`, `"more":1,"slots"`, 1), ".more is not in json.md"},
		{"drv-thru pause", strings.Replace(queue, "true", `"yes"`, 1), "not a boolean"},
		{"drv-thru pause", queue + queue, "more than one"},
		{"drv-thru pause", "", "no JSON"},
		{"drv-thru pause", "[]", "not a queue"},
		{"drv-thru ticket create", strings.Replace(created, "30m", "soon", 1), "not a duration"},
		{"drv-thru ticket create", strings.Replace(created, "2026-", "", 1), "not a time"},
		{"drv-thru build", `[{"outputs":{"out":1}}]`, "build[0].outputs.out is 1"},
		{"drv-thru frob", "{}", "no table"},
	} {
		if err := CheckJSON(bad.command, []byte(bad.output)); err == nil || !strings.Contains(err.Error(), bad.want) {
			t.Errorf("%s: %v, want %s", bad.output, err, bad.want)
		}
	}
}

// Every type that a table names is one.
func TestJSONTypes(t *testing.T) {
	all := tables()
	used := make(map[string]bool)
	for heading, rows := range all {
		for _, r := range rows {
			kind := strings.TrimSuffix(strings.TrimPrefix(r.kind, "optional "), " or null")
			kind = strings.TrimPrefix(strings.TrimPrefix(kind, "list of "), "map of ")
			used[kind] = true
			switch kind {
			case "any", "string", "number", "boolean", "time", "size", "duration":
			default:
				if all[kind] == nil {
					t.Errorf("%s: there is no type %q", heading, kind)
				}
			}
		}
	}
	for heading := range all {
		if !strings.HasPrefix(heading, "drv-thru ") && !used[heading] {
			t.Errorf("nothing is a %s", heading)
		}
	}
}
