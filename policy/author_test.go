package policy

import (
	"bytes"
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "write the golden schemas anew")

func TestSchemas(t *testing.T) {
	for name, schema := range map[string]json.RawMessage{"request": RequestSchema(), "decision": DecisionSchema()} {
		path := filepath.Join("testdata", name+".schema.json")
		if *update {
			if err := os.WriteFile(path, schema, 0o644); err != nil {
				t.Fatal(err)
			}
		}
		if want, err := os.ReadFile(path); err != nil || !bytes.Equal(want, schema) {
			t.Errorf("%s is not what the types say now (go test ./policy -run Schemas -update): %v", path, err)
		}
	}
}

// TestSchemaAgrees takes every field from the golden request in turn: the
// schema requires it if Encode always writes it.
func TestSchemaAgrees(t *testing.T) {
	var s struct {
		Properties map[string]any
		Required   []string
	}
	if err := json.Unmarshal(RequestSchema(), &s); err != nil {
		t.Fatal(err)
	}
	var golden map[string]any
	if err := json.Unmarshal([]byte(goldenRequest), &golden); err != nil {
		t.Fatal(err)
	}
	if len(golden) != len(s.Properties) {
		t.Errorf("%d fields in the golden request, %d in the schema", len(golden), len(s.Properties))
	}
	for _, name := range s.Required {
		if _, ok := golden[name]; !ok {
			t.Errorf("%s is required, but not in the golden request", name)
		}
	}
}

func TestPatch(t *testing.T) {
	r, err := Sample().Patch(json.RawMessage(`{"now":5,"ticket":{"name":"x","limits":{"max_upload_bytes":null,"systems":["a"]}},"settings":{"k":[1]}}`))
	if err != nil {
		t.Fatal(err)
	}
	if r.Now != 5 || r.Ticket.Name != "x" || r.Ticket.Limits.MaxUploadBytes != 0 || r.Ticket.Limits.MaxBuildSeconds != 1800 ||
		len(r.Ticket.Limits.Systems) != 1 || string(r.Settings) != `{"k":[1]}` || len(r.Request.Roots) != 1 {
		t.Errorf("%+v", r)
	}
	for _, bad := range []string{`{"nwo":5}`, `{"now":-1}`, `{`, `[]`, `{"now":1,"now":2}`} {
		if _, err := Sample().Patch(json.RawMessage(bad)); err == nil {
			t.Errorf("%s: accepted", bad)
		}
	}
}

func TestCases(t *testing.T) {
	cases, err := ParseCases([]byte(`{"cases":[
		{"name":"narrow","expect":{"decision":"narrow","limits":{"max_upload_bytes":1}}},
		{"name":"other limit","expect":{"decision":"narrow","limits":{"max_upload_bytes":2}}},
		{"name":"allow","expect":{"decision":"allow"}},
		{"name":"deny","expect":{"decision":"deny","code":"policy.widens"},"request":{"ticket":{"limits":{"max_upload_bytes":1}}}}]}`))
	if err != nil {
		t.Fatal(err)
	}
	m, err := patient(t, false).Load(t.Context(), says(decides(`"max_upload_bytes":1`)))
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	for i, want := range []string{"", "max_upload_bytes is 1, want 2", "got narrow, want allow", "got narrow, want deny policy.widens"} {
		_, err := m.Check(t.Context(), cases[i])
		if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", cases[i].Name, err)
		}
	}
	for _, bad := range []string{``, `[]`, `{"cases":[{"expect":{"decision":"deny"}}]}`, `{"cases":[{"name":"x","expect":{}}]}`, `{"cases":[{"name":"x","expects":{}}]}`} {
		if _, err := ParseCases([]byte(bad)); err == nil {
			t.Errorf("%s: accepted", bad)
		}
	}
}

// A request may be larger than settings: here is one with a long list.
func TestPatchOfALongList(t *testing.T) {
	planned := strings.Repeat(`{"name":"a","system":"x86_64-linux","fixed_output":false,"features":[]},`, 2_000)
	r, err := Sample().Patch([]byte(`{"request":{"to_build":[` + strings.TrimSuffix(planned, ",") + `]}}`))
	if err != nil || len(r.Request.ToBuild) != 2_000 {
		t.Errorf("%d to build, %v", len(r.Request.ToBuild), err)
	}
}
