//go:build !wasm

package wire_test

import (
	"fmt"
	"maps"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/drv-thru/drv-thru/core/wire"
)

// Whoever meets a code finds it in docs/troubleshooting.md, with the title and the
// exit code that it has, and nothing there has no code.
func TestEveryCodeIsExplained(t *testing.T) {
	text, err := os.ReadFile("../../docs/troubleshooting.md")
	if err != nil {
		t.Fatal(err)
	}
	explained := make(map[wire.Code]string)
	for _, entry := range regexp.MustCompile("(?m)^#### `([^`]*)`\n\n(.*)").FindAllStringSubmatch(string(text), -1) {
		if explained[wire.Code(entry[1])] != "" {
			t.Errorf("%s is explained twice", entry[1])
		}
		explained[wire.Code(entry[1])] = entry[2]
	}
	codes := wire.Codes()
	for _, code := range codes {
		start := fmt.Sprintf("“%s”, exit code %d. ", code.Title(), code.Exit())
		if got := explained[code]; len(got) < len(start)+20 || got[:len(start)] != start {
			t.Errorf("%s: want an entry that starts with %q and says what to do, got %q", code, start, got)
		}
	}
	for code := range maps.Keys(explained) {
		if !slices.Contains(codes, code) {
			t.Errorf("%s is no code", code)
		}
	}
}

// limitsInDocs are the limits that docs/protocol.md has a row for, as it writes them.
var limitsInDocs = map[string]string{
	"MaxDocument":           size(wire.MaxDocument),
	"MaxClosureDocument":    size(wire.MaxClosureDocument),
	"MaxClosurePaths":       strconv.Itoa(wire.MaxClosurePaths),
	"MaxReferences":         strconv.Itoa(wire.MaxReferences),
	"MaxElement":            size(wire.MaxElement),
	"MaxFields":             strconv.Itoa(wire.MaxFields),
	"MaxRoots":              strconv.Itoa(wire.MaxRoots),
	"MaxLabel":              size(wire.MaxLabel),
	"MaxEventLine":          size(wire.MaxEventLine),
	"MaxLogPiece":           size(wire.MaxLogPiece),
	"MaxNarInfo":            size(wire.MaxNarInfo),
	"ChunkedInput":          size(wire.ChunkedInput),
	"MaxInputChunks":        strconv.Itoa(wire.MaxInputChunks),
	"MaxInputManifest":      size(wire.MaxInputManifest),
	"MaxMissingChunks":      size(wire.MaxMissingChunks),
	"MaxInputChunkBytes":    size(wire.MaxInputChunkBytes),
	"MaxChunksRequest":      strconv.Itoa(wire.MaxChunksRequest),
	"MaxChunkBytesRequest":  size(wire.MaxChunkBytesRequest),
	"MaxNarsRequest":        strconv.Itoa(wire.MaxNarsRequest),
	"MaxCandidates":         strconv.Itoa(wire.MaxCandidates),
	"MaxPathDocument":       size(wire.MaxPathDocument),
	"RelayMaxControl":       size(wire.RelayMaxControl),
	"RelayMaxMessage":       size(wire.RelayMaxMessage),
	"RelayHandshakeTimeout": wire.RelayHandshakeTimeout.String(),
	"RelayAcceptTimeout":    wire.RelayAcceptTimeout.String(),
	"RelayKeepalive":        wire.RelayKeepalive.String(),
	"RelayDeadAfter":        wire.RelayDeadAfter.String(),
	"EventKeepalive":        wire.EventKeepalive.String(),
	"MaxQueueWait":          wire.MaxQueueWait.String(),
}

// size writes a number of bytes: "256 KiB".
func size(n int) string {
	if n >= 1<<20 {
		return fmt.Sprintf("%d MiB", n>>20)
	}
	return fmt.Sprintf("%d KiB", n>>10)
}

// docs/protocol.md has the routes of the package's documentation and the limits
// that hold.
func TestProtocolInDocs(t *testing.T) {
	text, err := os.ReadFile("../../docs/protocol.md")
	if err != nil {
		t.Fatal(err)
	}
	doc, err := os.ReadFile("doc.go")
	if err != nil {
		t.Fatal(err)
	}
	_, routes, _ := strings.Cut(string(doc), "// # Routes\n//\n")
	routes, _, _ = strings.Cut(routes, "//\n")
	if routes = strings.ReplaceAll(routes, "//\t", ""); routes == "" || !strings.Contains(string(text), "```text\n"+routes+"```\n") {
		t.Errorf("docs/protocol.md has other routes than doc.go:\n%s", routes)
	}
	rows := regexp.MustCompile("(?m)^\\| `(\\w+)` \\| ([^|]*) \\|").FindAllStringSubmatch(string(text), -1)
	for _, row := range rows {
		if want, ok := limitsInDocs[row[1]]; !ok || row[2] != want {
			t.Errorf("docs/protocol.md says that %s is %s, and it is %q", row[1], row[2], want)
		}
	}
	if len(rows) != len(limitsInDocs) {
		t.Errorf("docs/protocol.md has %d limits, want %d", len(rows), len(limitsInDocs))
	}
	for _, file := range []string{"limits.go", "path.go", "relay.go"} {
		source, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range regexp.MustCompile(`(?m)^\t((?:Relay)?Max\w+) += `).FindAllStringSubmatch(string(source), -1) {
			if limitsInDocs[m[1]] == "" {
				t.Errorf("docs/protocol.md has no row for %s of %s", m[1], file)
			}
		}
	}
}
