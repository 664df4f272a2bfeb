package template

import (
	"slices"
	"testing"

	"github.com/drv-thru/drv-thru/policy"
)

// TestFiles: every template is whole. That they build and decide is tested with
// their toolchains by the check "policy".
func TestFiles(t *testing.T) {
	for _, l := range Languages {
		files, err := l.Files()
		if err != nil {
			t.Fatal(err)
		}
		for name, data := range files {
			if len(data) == 0 {
				t.Errorf("%s: %s is empty", l.Name, name)
			}
		}
		if _, err := policy.ParseCases(files["cases.json"]); err != nil {
			t.Errorf("%s: %v", l.Name, err)
		}
		if len(files["README.md"]) == 0 || len(files) < 3 {
			t.Errorf("%s has %d files", l.Name, len(files))
		}
	}
	if !slices.IsSortedFunc(Languages, func(a, b Language) int { return slices.Compare([]byte(a.Name), []byte(b.Name)) }) {
		t.Error("not sorted")
	}
	if _, ok := Find("cobol"); ok {
		t.Error("found cobol")
	}
}
