package policy

import (
	"encoding/binary"
	"strings"
	"unicode/utf8"
)

// maxName bounds the name of a function in stack traces. wazero writes up to thirty
// of them there, after the module has ended: names of 7 MiB took seconds.
const maxName = 256

// The parts of the binary format that sections are made of: core specification
// 2.0, §5.1 and §5.2.

// each reads a vector whose elements read reads, and returns their number.
func (s *scanner) each(what string, limit int, read func()) int {
	n := s.u32()
	if n > uint32(limit) {
		s.fail(CodeTooLarge, "%d %s, more than %d", n, what, limit)
	}
	for range n {
		read()
	}
	return int(n)
}

func (s *scanner) byte() byte { return s.take(1)[0] }

func (s *scanner) u32() uint32 {
	n, size := binary.Uvarint(s.data)
	if size <= 0 || size > 5 || n > 1<<32-1 {
		s.fail(CodeInvalid, "a number is damaged")
	}
	s.data = s.data[size:]
	return uint32(n)
}

func (s *scanner) name() string {
	name := s.take(uint64(s.u32()))
	if !utf8.Valid(name) {
		s.fail(CodeInvalid, "a name is not UTF-8")
	}
	return string(name)
}

func (s *scanner) take(n uint64) []byte {
	if n > uint64(len(s.data)) {
		s.fail(CodeInvalid, "the module ends early")
	}
	taken := s.data[:n]
	s.data = s.data[n:]
	return taken
}

func (s *scanner) fail(code Code, format string, args ...any) {
	panic(errorf(code, format, args...))
}

// functionNames returns a custom section with the names of functions, for
// stack traces, if body is one that has them; otherwise, or if they are damaged, before.
// Long ones are cut.
func functionNames(body, before []byte) (section []byte) {
	defer func() {
		if _, ok := recover().(*Error); ok {
			section = before
		}
	}()
	s := &scanner{data: body}
	if s.name() != "name" {
		return before
	}
	for len(s.data) > 0 {
		id, size := s.byte(), s.u32()
		sub := s.take(uint64(size))
		if id != 1 {
			continue
		}
		s.data = sub
		var list []byte
		n := s.each("names", maxFunctions, func() {
			list = binary.AppendUvarint(list, uint64(s.u32()))
			name := s.name()
			name = strings.ToValidUTF8(name[:min(len(name), maxName)], "")
			list = binary.AppendUvarint(list, uint64(len(name)))
			list = append(list, name...)
		})
		if len(s.data) > 0 {
			return before
		}
		names := append(binary.AppendUvarint(nil, uint64(n)), list...)
		section = append([]byte("\x04name"), 1)
		section = binary.AppendUvarint(section, uint64(len(names)))
		return append(section, names...)
	}
	return before
}
