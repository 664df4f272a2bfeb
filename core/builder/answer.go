package builder

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"

	"github.com/drv-thru/drv-thru/core/wire"
)

const (
	// maxUnread bounds the bytes of answers that are whole in memory until their
	// clients have taken them: a client that takes none costs a builder what it
	// asks for. A ticket or trusted client has unreadShare of it, or one answer.
	maxUnread   = 256 << 20
	unreadShare = 64 << 20
	// smallAnswer is up to where an answer is not counted, so that nobody is
	// refused a word of the builder.
	smallAnswer = 16 << 10
	// answerPiece is how much of an answer is sent at a time.
	answerPiece = 256 << 10
)

var errUnread = wire.Errorf(wire.CodeRate, "the builder is sending too many large answers").WithHint("try again in a moment")

// unreadOf takes from the budget for an answer of so many bytes.
func (s *Service) unreadOf(c *caller, bytes int) (done func(), err error) {
	if bytes <= smallAnswer {
		return func() {}, nil
	}
	n, group := int64(min(bytes, unreadShare)), c.group()
	if !s.unread.take(group, n) {
		return nil, errUnread
	}
	return func() { s.unread.release(group, n) }, nil
}

func (s *Service) writeJSON(w http.ResponseWriter, c *caller, v any) error {
	body, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("encode answer: %w", err)
	}
	done, err := s.unreadOf(c, len(body))
	if err != nil {
		return err
	}
	defer done()
	return writeWhole(w, wire.TypeJSON, body)
}

// writeWhole sends an answer that is in memory, and gives up a client that does not
// take it.
func writeWhole(w http.ResponseWriter, mediaType string, body []byte) error {
	w.Header().Set("Content-Type", mediaType)
	w.Header().Set("Content-Length", strconv.Itoa(len(body)))
	to := &stallWriter{w, http.NewResponseController(w)}
	for len(body) > 0 {
		n := min(len(body), answerPiece)
		if _, err := to.Write(body[:n]); err != nil {
			return brokenOff(err)
		}
		body = body[n:]
	}
	return nil
}
