package main

import (
	"bytes"
	"encoding"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"reflect"
	"strings"

	"github.com/drv-thru/drv-thru/cmd/internal/usage"
)

// maxJSONFile bounds the files that owners and users write.
const maxJSONFile = 1 << 20

// readJSON reads a file into what v points to. Unlike encoding/json it refuses
// keys that v has no place for, also when only their case is another, and keys
// that are given twice, of which the first would be lost. Errors name the line.
func readJSON(path string, v any) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxJSONFile+1))
	if err != nil {
		return err
	}
	if len(text) > maxJSONFile {
		return fmt.Errorf("%s: larger than %d bytes", path, maxJSONFile)
	}
	if bytes.HasPrefix(text, []byte("\ufeff")) {
		return fmt.Errorf("%s: it begins with a byte order mark; save it as UTF-8 without one", path)
	}
	if string(bytes.TrimSpace(text)) == "null" {
		return fmt.Errorf("%s: null where an object is wanted (line 1)", path)
	}
	dec := json.NewDecoder(bytes.NewReader(text))
	keys := json.NewDecoder(bytes.NewReader(text))
	// What is no JSON at all is told by the first decoder.
	err = dec.Decode(v)
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return fmt.Errorf("%s: it ends early (line %d)", path, lineAt(text, int64(len(text))))
	}
	if !errors.As(err, new(*json.SyntaxError)) {
		if wrong := checkKeys(keys, reflect.TypeOf(v).Elem(), nil); wrong != nil {
			return fmt.Errorf("%s: %w (line %d)", path, wrong, lineAt(text, keys.InputOffset()))
		}
	}
	if kind := (*json.UnmarshalTypeError)(nil); errors.As(err, &kind) {
		return fmt.Errorf("%s: %s (line %d)", path, typeError(kind), lineAt(text, kind.Offset))
	}
	if err == nil {
		if _, more := dec.Token(); more != io.EOF {
			err = errors.New("something follows the closing brace")
		}
	}
	if err != nil {
		offset := errorOffset(dec, err)
		if bytes.HasPrefix(text[min(max(0, offset-1), int64(len(text))):], []byte("//")) {
			err = errors.New("comments are no part of JSON")
		}
		return fmt.Errorf("%s: %s (line %d)", path, strings.TrimPrefix(err.Error(), "json: "), lineAt(text, offset))
	}
	return nil
}

// errorOffset is where in the text dec met an error.
func errorOffset(dec *json.Decoder, err error) int64 {
	if syntax := (*json.SyntaxError)(nil); errors.As(err, &syntax) {
		return syntax.Offset
	}
	return dec.InputOffset()
}

// typeError says what e does without naming types of Go.
func typeError(e *json.UnmarshalTypeError) string {
	key := e.Field
	if key != "" {
		key += ": "
	}
	want := "an object"
	switch t := pointedTo(e.Type); {
	case readsItself(t), t.Kind() == reflect.String:
		want = "text in quotes"
	case t.Kind() == reflect.Int:
		want = "a whole number"
	case t.Kind() == reflect.Bool:
		want = "true or false"
	case t.Kind() == reflect.Slice:
		want = "a list"
	}
	return fmt.Sprintf("%s%s where %s is wanted", key, e.Value, want)
}

func lineAt(text []byte, offset int64) int {
	return 1 + bytes.Count(text[:min(max(0, offset), int64(len(text)))], []byte("\n"))
}

// checkKeys reads one value that is to go into a t, nil being anything, and stops
// behind the first key that is wrong, or text that its type does not read. The names
// of the keys above are in within.
func checkKeys(dec *json.Decoder, t reflect.Type, within []string) error {
	tok, err := dec.Token()
	if err != nil {
		return err
	}
	switch tok {
	case json.Delim('['):
		for dec.More() {
			if err := checkKeys(dec, elementOf(t), within); err != nil {
				return err
			}
		}
	case json.Delim('{'):
		known := fieldsOf(t)
		seen := make(map[string]bool)
		for dec.More() {
			tok, err := dec.Token()
			if err != nil {
				return err
			}
			name := tok.(string) // or the token before would have failed
			if seen[name] {
				return fmt.Errorf("key %q is there twice%s", name, inside(within))
			}
			seen[name] = true
			member := elementOf(t)
			if known != nil {
				var ok bool
				if member, ok = known[name]; !ok {
					return fmt.Errorf("unknown key %q%s%s", name, inside(within), nearKey(name, known))
				}
			}
			if err := checkKeys(dec, member, append(within, name)); err != nil {
				return err
			}
		}
	default:
		return checkText(tok, t, within)
	}
	_, err = dec.Token()
	return err
}

// checkText has a type that reads text itself read it, whose errors encoding/json
// tells without the key and at the end of the file.
func checkText(tok json.Token, t reflect.Type, within []string) error {
	text, ok := tok.(string)
	if t = pointedTo(t); !ok || t == nil {
		return nil
	}
	v, ok := reflect.New(t).Interface().(encoding.TextUnmarshaler)
	if !ok {
		return nil
	}
	if err := v.UnmarshalText([]byte(text)); err != nil {
		return fmt.Errorf("%s: %w", strings.Join(within, "."), err)
	}
	return nil
}

// inside says which keys lead to an object.
func inside(within []string) string {
	if len(within) == 0 {
		return ""
	}
	return fmt.Sprintf(" in %q", strings.Join(within, "."))
}

// nearKey names the key that name may have been meant to be.
func nearKey(name string, known map[string]reflect.Type) string {
	var names []string
	for n := range known {
		names = append(names, n)
	}
	if near := usage.Nearest(name, names); near != "" {
		return fmt.Sprintf("; is it %q?", near)
	}
	return ""
}

// readsItself reports whether a type decides by itself what it is read from.
func readsItself(t reflect.Type) bool {
	p := reflect.PointerTo(t)
	return p.Implements(reflect.TypeFor[json.Unmarshaler]()) || p.Implements(reflect.TypeFor[encoding.TextUnmarshaler]())
}

// fieldsOf returns the types of a struct's members by their keys, nil where any
// key will do.
func fieldsOf(t reflect.Type) map[string]reflect.Type {
	if t = pointedTo(t); t == nil || t.Kind() != reflect.Struct || readsItself(t) {
		return nil
	}
	known := make(map[string]reflect.Type)
	for f := range t.Fields() {
		if name, _, _ := strings.Cut(f.Tag.Get("json"), ","); name != "" && name != "-" {
			known[name] = f.Type
		}
	}
	return known
}

// elementOf is the type of what a list or a map holds, nil for anything.
func elementOf(t reflect.Type) reflect.Type {
	if t = pointedTo(t); t == nil || readsItself(t) {
		return nil
	}
	switch t.Kind() {
	case reflect.Map, reflect.Slice, reflect.Array:
		return t.Elem()
	}
	return nil
}

func pointedTo(t reflect.Type) reflect.Type {
	if t != nil && t.Kind() == reflect.Pointer {
		return t.Elem()
	}
	return t
}
