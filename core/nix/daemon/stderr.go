package daemon

import "fmt"

// Verbosity is the level of a message or activity (Nix libutil/error.hh).
type Verbosity uint64

// The levels. The daemon sends messages up to the level that SetOptions set,
// and activities and results of any level.
const (
	LevelError Verbosity = iota
	LevelWarn
	LevelNotice
	LevelInfo
	LevelTalkative
	LevelChatty
	LevelDebug
	LevelVomit
)

// ActivityType says what an activity is about (Nix libutil/logging.hh).
type ActivityType uint64

// The types, with the fields that Nix 2.8 to 2.34 give them.
const (
	ActivityUnknown       ActivityType = 0
	ActivityCopyPath      ActivityType = 100 // store path, from, to
	ActivityFileTransfer  ActivityType = 101 // URI
	ActivityRealise       ActivityType = 102
	ActivityCopyPaths     ActivityType = 103
	ActivityBuilds        ActivityType = 104
	ActivityBuild         ActivityType = 105 // .drv path, machine name or "", 1, 1
	ActivityOptimiseStore ActivityType = 106
	ActivityVerifyPaths   ActivityType = 107
	ActivitySubstitute    ActivityType = 108 // store path, substituter
	ActivityQueryPathInfo ActivityType = 109 // store path, substituter
	ActivityPostBuildHook ActivityType = 110 // .drv path
	ActivityBuildWaiting  ActivityType = 111 // .drv path, what it waits for
	ActivityFetchTree     ActivityType = 112
)

// ResultType says what an activity reports (Nix libutil/logging.hh).
type ResultType uint64

// The types, with their fields.
const (
	ResultFileLinked       ResultType = 100 // size, blocks
	ResultBuildLogLine     ResultType = 101 // a line; comes to Sink.LogLine
	ResultUntrustedPath    ResultType = 102 // store path
	ResultCorruptedPath    ResultType = 103 // store path
	ResultSetPhase         ResultType = 104 // phase
	ResultProgress         ResultType = 105 // done, expected, running, failed
	ResultSetExpected      ResultType = 106 // activity type, expected
	ResultPostBuildLogLine ResultType = 107 // a line; comes to Sink.LogLine
	ResultFetchStatus      ResultType = 108 // text
)

// Field is an argument of an activity or result: a number or a string.
type Field struct {
	IsString bool
	Int      uint64
	// Str has any bytes, at most MaxText of them.
	Str string
}

// Activity is something that the daemon has begun to do.
type Activity struct {
	// ID is unique on the connection.
	ID    uint64
	Level Verbosity
	Type  ActivityType
	// Text describes it for people; any bytes, at most MaxText of them.
	Text   string
	Fields []Field
	// Parent is the ID of the activity that this one belongs to, or 0.
	Parent uint64
}

// Sink receives what the daemon says while an operation runs, in order and on
// the goroutine that called the operation. A slow Sink slows the daemon down.
type Sink interface {
	// Message is a message for people: whole lines, with the line feed and
	// possibly ANSI colours. It comes in pieces of at most LogPiece bytes that
	// are valid during the call; more says that the message goes on.
	Message(piece []byte, more bool)
	StartActivity(a Activity)
	StopActivity(id uint64)
	// LogLine is a line of output of a build (ResultBuildLogLine) or of the
	// post-build hook (ResultPostBuildLogLine), without its line feed, in
	// pieces as in Message.
	LogLine(activity uint64, t ResultType, piece []byte, more bool)
	// Result is anything else that an activity reports.
	Result(activity uint64, t ResultType, fields []Field)
}

// Discard is a Sink that drops everything.
type Discard struct{}

var _ Sink = Discard{}

// Message does nothing.
func (Discard) Message([]byte, bool) {}

// StartActivity does nothing.
func (Discard) StartActivity(Activity) {}

// StopActivity does nothing.
func (Discard) StopActivity(uint64) {}

// LogLine does nothing.
func (Discard) LogLine(uint64, ResultType, []byte, bool) {}

// Result does nothing.
func (Discard) Result(uint64, ResultType, []Field) {}

// stderr reads the log channel up to the end of the operation's work. It
// returns an *Error if the daemon reports one; any other error is fatal.
func (d *decoder) stderr(sink Sink) error {
	for {
		switch msg := d.u64(); {
		case d.err != nil:
			return d.err
		case msg == msgLast:
			return nil
		case msg == msgError:
			e := d.remoteError()
			if d.err != nil {
				return d.err
			}
			return e
		case msg == msgNext:
			d.pieces(sink.Message)
		case msg == msgStartActivity:
			a := Activity{
				ID:    d.u64(),
				Level: Verbosity(d.u64()),
				Type:  ActivityType(d.u64()),
				Text:  d.text(MaxText),
			}
			a.Fields = d.fields()
			a.Parent = d.u64()
			if d.err == nil {
				sink.StartActivity(a)
			}
		case msg == msgStopActivity:
			if id := d.u64(); d.err == nil {
				sink.StopActivity(id)
			}
		case msg == msgResult:
			d.result(sink)
		case msg == msgRead || msg == msgWrite:
			// Tunnels for data, which no operation of this package uses.
			return fmt.Errorf("%w: unexpected data message %#x", ErrProtocol, msg)
		default:
			return fmt.Errorf("%w: unknown message %#x", ErrProtocol, msg)
		}
	}
}

const (
	fieldInt    = 0
	fieldString = 1
)

func (d *decoder) fields() []Field {
	n := d.count(maxSkip, "fields")
	var fs []Field
	for range n {
		f := d.field()
		if d.err != nil {
			return nil
		}
		if len(fs) < MaxFields {
			fs = append(fs, f)
		}
	}
	return fs
}

func (d *decoder) field() (f Field) {
	switch t := d.u64(); t {
	case fieldInt:
		f.Int = d.u64()
	case fieldString:
		f.IsString = true
		f.Str = d.text(MaxText)
	default:
		d.malformed("field of type %d", t)
	}
	return f
}

func (d *decoder) result(sink Sink) {
	id, t := d.u64(), ResultType(d.u64())
	if t != ResultBuildLogLine && t != ResultPostBuildLogLine {
		if fs := d.fields(); d.err == nil {
			sink.Result(id, t, fs)
		}
		return
	}
	n := d.count(maxSkip, "fields")
	if d.err != nil {
		return
	}
	if n == 0 {
		sink.LogLine(id, t, nil, false)
		return
	}
	switch kind := d.u64(); kind {
	case fieldString:
		d.pieces(func(piece []byte, more bool) { sink.LogLine(id, t, piece, more) })
	case fieldInt:
		// No line: a build can have its daemon say this, by "@nix" in its output.
		d.u64()
	default:
		d.malformed("log line of type %d", kind)
		return
	}
	for range n - 1 {
		if d.err != nil {
			return
		}
		d.field()
	}
}
