package policy

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"reflect"
	"strconv"
	"strings"
	"unicode/utf8"
)

// maxDepth bounds the nesting of settings, the only part without a fixed shape.
const maxDepth = 64

// MaxNumber is the largest number in either document: what a language whose
// only numbers are 64-bit floats still holds exactly.
const MaxNumber = 1<<53 - 1

// Count is a whole number from 0 to MaxNumber, written in digits only.
type Count uint64

// UnmarshalJSON implements [json.Unmarshaler].
func (c *Count) UnmarshalJSON(text []byte) error {
	n, err := strconv.ParseUint(string(text), 10, 64)
	if err != nil || n > MaxNumber {
		return fmt.Errorf("not a whole number from 0 to %d: %.40q", uint64(MaxNumber), text)
	}
	*c = Count(n)
	return nil
}

// Limit is a [Count] that is not 0: what has no limit is left out, so that a
// policy that reckons "nothing is left" cannot say "no limit" by it.
type Limit uint64

// UnmarshalJSON implements [json.Unmarshaler].
func (l *Limit) UnmarshalJSON(text []byte) error {
	var c Count
	if err := c.UnmarshalJSON(text); err != nil {
		return err
	}
	if c == 0 {
		return errors.New("a limit of 0: deny instead, or leave it out to keep it as it is")
	}
	*l = Limit(c)
	return nil
}

// decodeStrict reads the one JSON value in data into v, a pointer to a struct or to
// a [json.RawMessage].
// Unlike encoding/json it refuses fields that are unknown, given twice or
// spelled in another case, null, text that is not UTF-8 and anything but
// white space after the value.
func decodeStrict(data []byte, v any) error {
	if !utf8.Valid(data) {
		return errors.New("not UTF-8")
	}
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.UseNumber()
	if err := checkShape(dec, reflect.TypeOf(v).Elem(), 0); err != nil {
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			return errors.New("the JSON ends early")
		}
		return err
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return errors.New("more follows the JSON value")
	}
	return json.Unmarshal(data, v)
}

var rawType = reflect.TypeFor[json.RawMessage]()

// checkShape reads one value and checks what [json.Unmarshal] does not.
func checkShape(dec *json.Decoder, t reflect.Type, depth int) error {
	if depth > maxDepth {
		return fmt.Errorf("nested deeper than %d", maxDepth)
	}
	tok, err := dec.Token()
	if err != nil {
		return err
	}
	raw := t == rawType
	if t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	switch {
	case tok == nil && !raw:
		return errors.New("null: leave the field out")
	case tok == json.Delim('{'):
		return checkObject(dec, t, depth)
	case tok == json.Delim('['):
		elem := rawType
		if !raw {
			if t.Kind() != reflect.Slice {
				return errors.New("a list where none belongs")
			}
			elem = t.Elem()
		}
		for dec.More() {
			if err := checkShape(dec, elem, depth+1); err != nil {
				return err
			}
		}
		_, err = dec.Token()
	}
	return err
}

func checkObject(dec *json.Decoder, t reflect.Type, depth int) error {
	raw := t == rawType
	if !raw && t.Kind() != reflect.Struct {
		return errors.New("an object where none belongs")
	}
	seen := map[string]bool{}
	for dec.More() {
		tok, err := dec.Token()
		if err != nil {
			return err
		}
		name, ok := tok.(string)
		if !ok {
			return errors.New("a field without a name")
		}
		if seen[name] {
			return fmt.Errorf("field %.40q is given twice", name)
		}
		seen[name] = true
		field := rawType
		if !raw {
			if field, ok = fieldType(t, name); !ok {
				return fmt.Errorf("unknown field %.40q", name)
			}
		}
		if err := checkShape(dec, field, depth+1); err != nil {
			return err
		}
	}
	_, err := dec.Token()
	return err
}

// fieldType finds the field that is called name exactly.
func fieldType(t reflect.Type, name string) (reflect.Type, bool) {
	for f := range t.Fields() {
		if tag, _, _ := strings.Cut(f.Tag.Get("json"), ","); tag == name {
			return f.Type, true
		}
	}
	return nil, false
}
