//go:build linux

package helper

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/drv-thru/drv-thru/core/nix"
)

// maxKeyFile bounds the list of keys.
const maxKeyFile = 1 << 20

// readKeys reads the lists of keys: one key a line, "name:base64"; empty lines and
// those that begin with # are skipped.
func readKeys(files []string) ([]string, error) {
	var keys []string
	for _, name := range files {
		f, err := os.Open(name)
		if err != nil {
			return nil, fmt.Errorf("read trusted public keys: %w", err)
		}
		err = ownedByRoot(f)
		var text []byte
		if err == nil {
			text, err = io.ReadAll(io.LimitReader(f, maxKeyFile+1))
		}
		f.Close()
		if err == nil && len(text) > maxKeyFile {
			err = errors.New("the file is too long")
		}
		if err != nil {
			return nil, fmt.Errorf("read trusted public keys: %s: %w", name, err)
		}
		some, err := parseKeys(string(text))
		if err != nil {
			return nil, fmt.Errorf("read trusted public keys: %s: %w", name, err)
		}
		keys = append(keys, some...)
	}
	return keys, nil
}

func parseKeys(text string) ([]string, error) {
	var keys []string
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		if _, err := nix.ParsePublicKey(line); err != nil || len(line) > maxKey || len(strings.Fields(line)) != 1 {
			return nil, fmt.Errorf("%.100q is not a public key, name:base64", line)
		}
		keys = append(keys, line)
	}
	return keys, nil
}
