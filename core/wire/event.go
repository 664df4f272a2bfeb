package wire

import (
	"bytes"
	"encoding/json"
	"fmt"
	"iter"
	"time"
	"unicode/utf8"
)

// EventType says what an Event tells.
type EventType string

// Event types. A reader ignores types that it does not know.
const (
	EventQueued   EventType = "queued"   // Position changed; 0 when it waits for nobody any more
	EventPhase    EventType = "phase"    // State changed
	EventLog      EventType = "log"      // Text: build output or a message of the daemon
	EventStart    EventType = "start"    // Activity began
	EventStop     EventType = "stop"     // activity Activity.ID ended
	EventResult   EventType = "result"   // Activity.ID, Activity.Type (a result type) and Activity.Fields
	EventFinished EventType = "finished" // Result, unless it is too long; always the last
)

// Event is one step of a build, a line of JSON on its events stream.
type Event struct {
	Seq  int64     `json:"seq"` // from 1, without gaps
	Time time.Time `json:"time"`
	Type EventType `json:"type"`

	Position int `json:"position,omitempty"`
	// WaitSeconds is how long that place will last, by the builder's history;
	// 0 when it cannot tell. Read it with [Event.Wait].
	WaitSeconds float64 `json:"wait_seconds,omitempty"`

	State    State     `json:"state,omitempty"`
	Log      *Log      `json:"log,omitempty"`
	Activity *Activity `json:"activity,omitempty"`
	// Result is missing when the event would be longer than [MaxEventLine] with it:
	// GET /v1/builds/{id} has it.
	Result *Result `json:"result,omitempty"`
}

// Wait returns how long the place in the queue may last; 0 is not known. No
// builder's number makes it more than [MaxQueueWait].
func (e *Event) Wait() time.Duration {
	if !(e.WaitSeconds > 0) {
		return 0
	}
	return time.Duration(min(e.WaitSeconds, MaxQueueWait.Seconds()) * float64(time.Second))
}

// Log is text that a build or the daemon printed. Build output is a sequence
// of bytes without any encoding: Text carries it where it is valid UTF-8 and
// Bytes (base64 in JSON) where it is not. Several lines of a build may come in one
// Log, with line feeds between them.
type Log struct {
	// Activity is the build activity that printed it, 0 for the daemon itself.
	Activity uint64 `json:"activity,omitempty"`
	Text     string `json:"text,omitempty"`
	Bytes    []byte `json:"bytes,omitempty"`
	// More tells that the last line goes on in the activity's next Log; else a line
	// feed, which is not included, follows.
	More bool `json:"more,omitempty"`
	// Level is Nix's verbosity for messages of the daemon (0 error … 7 vomit).
	Level int `json:"level,omitempty"`
	// PostBuild marks the output of the daemon's post-build hook.
	PostBuild bool `json:"post_build,omitempty"`
}

// NewLog makes the Log of one piece of output.
func NewLog(activity uint64, piece []byte, more bool) *Log {
	l := &Log{Activity: activity, More: more}
	if utf8.Valid(piece) {
		l.Text = string(piece)
	} else {
		l.Bytes = piece
	}
	return l
}

// Content returns the raw bytes.
func (l *Log) Content() []byte {
	if l.Bytes != nil {
		return l.Bytes
	}
	return []byte(l.Text)
}

// Lines yields the lines of a build, or the whole of a message of the daemon, and
// whether what is yielded goes on in the activity's next Log.
func (l *Log) Lines() iter.Seq2[[]byte, bool] {
	return func(yield func([]byte, bool) bool) {
		rest, found := l.Content(), l.Activity != 0
		for found {
			var line, after []byte
			if line, after, found = bytes.Cut(rest, []byte{'\n'}); found {
				if !yield(line, false) {
					return
				}
				rest = after
			}
		}
		yield(rest, l.More)
	}
}

// Activity is a step of Nix's structured log. Type and the meaning of Fields
// are those of Nix's ActivityType and ResultType (src/libutil/logging.hh).
type Activity struct {
	ID     uint64  `json:"id"`
	Parent uint64  `json:"parent,omitempty"`
	Type   uint64  `json:"type,omitempty"`
	Level  int     `json:"level,omitempty"`
	Text   string  `json:"text,omitempty"`
	Fields []Field `json:"fields,omitempty"`
}

// Field is a number or a text; in JSON the one or the other.
type Field struct {
	Int    uint64
	Str    string
	IsText bool
}

// MarshalJSON implements [json.Marshaler].
func (f Field) MarshalJSON() ([]byte, error) {
	if f.IsText {
		return json.Marshal(f.Str)
	}
	return json.Marshal(f.Int)
}

// UnmarshalJSON implements [json.Unmarshaler].
func (f *Field) UnmarshalJSON(data []byte) error {
	*f = Field{}
	if len(data) > 0 && data[0] == '"' {
		f.IsText = true
		return json.Unmarshal(data, &f.Str)
	}
	if err := json.Unmarshal(data, &f.Int); err != nil {
		return fmt.Errorf("field is neither a number nor a text")
	}
	return nil
}
