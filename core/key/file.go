package key

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
)

// maxFileSize is far above any key file and keeps a wrong path (a device, a
// log) from being read whole.
const maxFileSize = 4096

// ErrOpenPermissions means that others than the owner may read a key file.
var ErrOpenPermissions = errors.New("key file is readable by others")

// openError is a file with which [ErrOpenPermissions] is.
type openError struct {
	path string
	mode fs.FileMode
}

func (e *openError) Error() string {
	return fmt.Sprintf("%s: %s has mode %04o", ErrOpenPermissions, e.path, e.mode)
}
func (e *openError) Unwrap() error { return ErrOpenPermissions }

// Hint says what to do about it.
func (e *openError) Hint() string { return "chmod 600 " + e.path }

// ReadFile returns the contents of a secret's file. A file that its group or
// others may read or write is refused with [ErrOpenPermissions].
func ReadFile(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("read key file: %w", err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, fmt.Errorf("read key file: %w", err)
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("read key file %s: not a regular file", path)
	}
	if mode := info.Mode().Perm(); mode&0o077 != 0 {
		return nil, &openError{path, mode}
	}
	data, err := io.ReadAll(io.LimitReader(f, maxFileSize+1))
	if err != nil {
		return nil, fmt.Errorf("read key file: %w", err)
	}
	if len(data) > maxFileSize {
		return nil, fmt.Errorf("read key file %s: larger than %d bytes", path, maxFileSize)
	}
	return data, nil
}

// WriteFile creates a secret's file with mode 0600, never replacing one: the
// contents appear at path whole or not at all, and a lost race gives an error
// that is [fs.ErrExist].
func WriteFile(path string, contents []byte) error {
	dir := filepath.Dir(path)
	f, err := os.CreateTemp(dir, ".key-*") // CreateTemp makes 0600
	if err != nil {
		return fmt.Errorf("write key file: %w", err)
	}
	defer os.Remove(f.Name())
	if _, err := f.Write(contents); err != nil {
		f.Close()
		return fmt.Errorf("write key file: %w", err)
	}
	if err := errors.Join(f.Sync(), f.Close()); err != nil {
		return fmt.Errorf("write key file: %w", err)
	}
	if err := os.Link(f.Name(), path); err != nil {
		return fmt.Errorf("write key file: %w", err)
	}
	return nil
}

// LoadFile reads an endpoint's secret key from path.
func LoadFile(path string) (Secret, error) {
	data, err := ReadFile(path)
	if err != nil {
		return Secret{}, err
	}
	s, err := ParseSecret(string(data))
	if err != nil {
		return Secret{}, fmt.Errorf("read key file %s: %w", path, err)
	}
	return s, nil
}

// LoadOrCreateFile reads path, or makes a new key of rand there when nothing
// exists.
func LoadOrCreateFile(path string, rand io.Reader) (Secret, error) {
	s, err := LoadFile(path)
	if !errors.Is(err, fs.ErrNotExist) {
		return s, err
	}
	s, err = NewSecret(rand)
	if err != nil {
		return Secret{}, err
	}
	if err := WriteFile(path, []byte(s.Text()+"\n")); err != nil {
		if errors.Is(err, fs.ErrExist) {
			return LoadFile(path) // another process made it first
		}
		return Secret{}, err
	}
	return s, nil
}
