package builder

import (
	"encoding/base64"
	"encoding/json"
	"strconv"
	"time"
	"unicode/utf8"

	"github.com/drv-thru/drv-thru/core/wire"
)

const hexDigits = "0123456789abcdef"

// appendEscaped appends s, which is valid UTF-8, as it stands in a JSON string. It
// escapes what RFC 8259 demands and nothing else.
func appendEscaped(b, s []byte) []byte {
	start := 0
	for i := 0; i < len(s); i++ {
		c := s[i]
		if c >= ' ' && c != '"' && c != '\\' {
			continue
		}
		b = append(b, s[start:i]...)
		start = i + 1
		switch c {
		case '"', '\\':
			b = append(b, '\\', c)
		case '\t':
			b = append(b, '\\', 't')
		case '\n':
			b = append(b, '\\', 'n')
		case '\r':
			b = append(b, '\\', 'r')
		default:
			b = append(b, '\\', 'u', '0', '0', hexDigits[c>>4], hexDigits[c&15])
		}
	}
	return append(b, s[start:]...)
}

// appendHead appends an event's line up to its type's text.
func appendHead(b []byte, seq int64, at time.Time, kind wire.EventType) []byte {
	b = append(b, `{"seq":`...)
	b = strconv.AppendInt(b, seq, 10)
	b = append(b, `,"time":"`...)
	b = at.UTC().AppendFormat(b, time.RFC3339Nano)
	b = append(b, `","type":"`...)
	b = append(b, kind...)
	return append(b, '"')
}

// logEnd ends a log event that has text and nothing behind it.
const logEnd = `"}}` + "\n"

// appendLog appends the line of a log event: what json.Marshal would make of
// it, an empty text included, at several times the speed. Builds print far more
// lines than anything else happens.
func appendLog(b []byte, seq int64, at time.Time, l *wire.Log, piece []byte) []byte {
	b = appendHead(b, seq, at, wire.EventLog)
	b = append(b, `,"log":{`...)
	n := len(b)
	if l.Activity != 0 {
		b = append(b, `"activity":`...)
		b = strconv.AppendUint(b, l.Activity, 10)
	}
	b = comma(b, n)
	if utf8.Valid(piece) {
		b = append(b, `"text":"`...)
		b = appendEscaped(b, piece)
	} else {
		b = append(b, `"bytes":"`...)
		b = base64.StdEncoding.AppendEncode(b, piece)
	}
	b = append(b, '"')
	if l.More {
		b = append(comma(b, n), `"more":true`...)
	}
	if l.Level != 0 {
		b = append(comma(b, n), `"level":`...)
		b = strconv.AppendInt(b, int64(l.Level), 10)
	}
	if l.PostBuild {
		b = append(comma(b, n), `"post_build":true`...)
	}
	return append(b, '}', '}', '\n')
}

// comma appends one unless the object that began at n is empty.
func comma(b []byte, n int) []byte {
	if len(b) > n {
		return append(b, ',')
	}
	return b
}

// appendEvent appends the line of any event. A result that makes it too long for a
// client is left to GET /v1/builds/{id}.
func appendEvent(b []byte, e *wire.Event) ([]byte, error) {
	line, err := json.Marshal(e)
	if err == nil && len(line) > wire.MaxEventLine && e.Result != nil {
		short := *e
		short.Result = nil
		line, err = json.Marshal(&short)
	}
	if err != nil {
		return b, err
	}
	return append(append(b, line...), '\n'), nil
}
