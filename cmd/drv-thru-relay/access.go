package main

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/drv-thru/drv-thru/core/key"
	"github.com/drv-thru/drv-thru/relay"
)

const (
	// minToken is the length of a token that nobody guesses: 22 characters of
	// base64 are 128 bits.
	minToken = 22
	// maxToken fits a header.
	maxToken = 512
	// maxList bounds a file of tokens or endpoint IDs.
	maxList = 16 << 20
)

// access reads who may register.
func (f *flags) readAccess() (relay.Access, error) {
	switch f.access {
	case accessAllowlist:
		var ids []key.ID
		for _, path := range f.allowlists {
			err := lines(path, func(line string) error {
				// A name may follow, for whoever keeps the list.
				id, err := key.ParseID(strings.Fields(line)[0])
				ids = append(ids, id)
				return err
			})
			if err != nil {
				return relay.Access{}, fmt.Errorf("read the allowlist: %w", err)
			}
		}
		return relay.AllowBuilders(ids), nil
	case accessToken:
		var tokens []string
		for _, path := range f.tokenFiles {
			if err := onlyOwn(path); err != nil {
				return relay.Access{}, err
			}
			err := lines(path, func(line string) error {
				if len(line) < minToken || len(line) > maxToken || strings.ContainsFunc(line, notInHeader) {
					return &hintError{fmt.Errorf("a token has %d to %d characters of ASCII and no blanks", minToken, maxToken), "make one with: openssl rand -base64 24"}
				}
				tokens = append(tokens, line)
				return nil
			})
			if err != nil {
				return relay.Access{}, fmt.Errorf("read the tokens: %w", err)
			}
		}
		if len(tokens) == 0 {
			return relay.Access{}, fmt.Errorf("read the tokens: there is none in %s", &f.tokenFiles)
		}
		return relay.AllowTokens(tokens), nil
	}
	return relay.Access{}, nil
}

// notInHeader reports whether a token cannot have r, as it is sent in a header.
func notInHeader(r rune) bool { return r <= ' ' || r > '~' }

// onlyOwn refuses a file of secrets that everybody can read. A group may:
// systemd gives credentials to a service that way.
func onlyOwn(path string) error {
	info, err := os.Stat(path)
	if err != nil {
		return fmt.Errorf("read the tokens: %w", err)
	}
	if !info.Mode().IsRegular() {
		return fmt.Errorf("read the tokens: %s: not a regular file", path)
	}
	if mode := info.Mode().Perm(); mode&0o007 != 0 {
		return &hintError{fmt.Errorf("read the tokens: everybody may read %s (mode %04o)", path, mode), "chmod 600 " + path}
	}
	return nil
}

// lines calls each for the lines of a file that are not empty and no comment.
func lines(path string, each func(string) error) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	if info, err := f.Stat(); err != nil || info.Size() > maxList {
		return fmt.Errorf("%s is larger than %d bytes", path, maxList)
	}
	scanner := bufio.NewScanner(f)
	for n := 1; scanner.Scan(); n++ {
		line := strings.TrimSpace(strings.TrimPrefix(scanner.Text(), "\ufeff")) // which some editors put before the first
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		if err := each(line); err != nil {
			return fmt.Errorf("%s, line %d: %w", path, n, err)
		}
	}
	if errors.Is(scanner.Err(), bufio.ErrTooLong) {
		return fmt.Errorf("%s: a line has more than %d bytes", path, bufio.MaxScanTokenSize)
	}
	return scanner.Err()
}
