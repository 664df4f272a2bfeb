package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/drv-thru/drv-thru/core/ticket"
)

func TestReadJSON(t *testing.T) {
	type inner struct {
		A int `json:"a"`
	}
	type outer struct {
		One   string           `json:"one"`
		Many  map[string]inner `json:"many"`
		List  []*inner         `json:"list"`
		Free  json.RawMessage  `json:"free"`
		Large *inner           `json:"large,omitempty"`
		Grace *ticket.Duration `json:"grace"`
	}
	path := filepath.Join(t.TempDir(), "file.json")
	read := func(text string) error {
		t.Helper()
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return readJSON(path, new(outer))
	}
	for _, good := range []string{
		`{}`, ` {"one": "one"}` + "\n",
		// The same key in two objects is not there twice.
		`{"many": {"a": {"a": 1}, "b": {"a": 2}}, "list": [{"a": 1}, {"a": 2}, null], "free": {"any": [{"a": 1}, {"a": 2}]}, "large": {"a": 1}}`,
	} {
		if err := read(good); err != nil {
			t.Errorf("%s: %v", good, err)
		}
	}
	for text, want := range map[string]string{
		"{\"one\": \"1\",\n\"one\": \"2\"}":             `key "one" is there twice (line 2)`,
		"{\"many\": {\"x\": {\"a\": 1},\n\n\"x\": {}}}": `key "x" is there twice in "many" (line 3)`,
		"{\"many\": {\"x\": {\"a\": 1,\n\"a\": 2}}}":    `key "a" is there twice in "many.x" (line 2)`,
		"{\"list\": [{},\n{\"a\": 1, \"a\": 1}]}":       `key "a" is there twice in "list" (line 2)`,
		"{\"free\": {\"x\": [{\"y\": 1,\n\"y\": 1}]}}":  `key "y" is there twice in "free.x" (line 2)`,
		"{\"\\u006fne\": \"1\",\n\"one\": \"2\"}":       `key "one" is there twice (line 2)`,
		"{\"one\": \"two\",\n\"two\": 1}":               `unknown key "two" (line 2)`,
		"{\"One\": \"1\"}":                              `unknown key "One"; is it "one"? (line 1)`,
		"{\"large\": {\n\"b\": 1}}":                     `unknown key "b" in "large" (line 2)`,
		"{\"one\": 1,\n\"lsit\": []}":                   `unknown key "lsit"; is it "list"? (line 2)`,
		"{\n\"one\": 1}":                                "file.json: one: number where text in quotes is wanted (line 2)",
		"{\"many\": {\"x\": {\n\"a\": \"1\"}}}":         "many.a: string where a whole number is wanted (line 2)",
		"{\"list\": {}}":                                "list: object where a list is wanted (line 1)",
		"{\"grace\": 5}":                                "grace: number where text in quotes is wanted (line 1)",
		"[]":                                            "file.json: array where an object is wanted (line 1)",
		"{\n\"grace\": \"5\",\n\"one\": \"\"\n}":        `grace: not a duration: "5" (write 90s, 30m, 2h or 7d) (line 2)`,
		"{\"one\": \"1\",\n":                            "it ends early (line 2)",
		"\ufeff{}":                                      "file.json: it begins with a byte order mark; save it as UTF-8 without one",
		"null\n":                                        "file.json: null where an object is wanted (line 1)",
		"{\n// mine\n\"one\": \"1\"}":                   "comments are no part of JSON (line 2)",
		"{}\n// mine":                                   "something follows the closing brace (line ",
		"":                                              "it ends early (line 1)",
		"{}\n{}":                                        "something follows the closing brace (line ",
		"{\"one\": \"" + strings.Repeat("x", maxJSONFile) + "\"}": "larger than",
	} {
		if err := read(text); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%.60s: %v, want %s", text, err, want)
		}
	}
}
